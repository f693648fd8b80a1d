"""How much a sender of bodies may have in flight: the receiving half of a link's flow control, a core.

Windows start as configured, which is enough for a LAN and keeps small requests quick beside bulk. Over longer ways they
follow twice what arrives in a round trip, as TCP's receive buffers do (Semke, Mahdavi and Mathis, 1998): that doubles
them while they are what limits the sender.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshnode.config import KIB, MIB, Links

AHEAD_BYTES_MAX = 16 * MIB
"""The largest window. It is the sender's memory and the way's: a receiver has room for a whole body before it comes."""
NEAR_S = 0.002
"""A shorter round trip needs no larger windows: the configured ones carry 1 Gb/s that far."""
FASTER = 1.1
PAUSE = 4
"""So many round trips without credit end a measurement: what came so slowly needs no larger window."""
BASE_S = 60.0
STREAM_BYTES, CONNECTION_BYTES = 256 * KIB, 1 * MIB
"""A sender begins with no less, whatever the receiver is configured to."""


class _Window:
    """What the sender of a stream, or of the connection, may have in flight."""

    __slots__ = ("_least", "_owed", "_size", "_step")

    def __init__(self, least: int, begun: int) -> None:
        self._least = self._size = least
        self._step = min(least, begun) // 2
        self._owed = 0

    def landed(self, nbytes: int) -> bool:
        """Whether credit is due: half the first window at a time keeps frames few."""
        self._owed += nbytes
        return self._owed >= self._step

    def credit(self, ahead: int) -> int:
        """What to return, so that the window becomes so large, or as soon as may be no larger."""
        left = self._size - self._owed
        self._size, self._owed = max(left, self._least, ahead), 0
        return self._size - left


class _Way:
    """How large windows should be for the way that bytes come.

    A window that stands in queues makes round trips longer, and must not make itself grow. So it is reckoned by the
    shortest round trip of the last minute (the filter of BBR; Cardwell et al., 2016), it grows only while that makes
    what arrives faster, and at most doubles.
    """

    def __init__(self, least: int) -> None:
        self.ahead = 0
        self._least = least
        self._base_s = self._base_at = 0.0
        self._rate = 0.0
        """What arrived, bytes a second, when windows last grew; 0 after a pause, for the way may be another."""
        self._landed = 0
        self._since = self._last = 0.0

    def landed(self, nbytes: int, now: float, rtt_s: float) -> None:
        """So much has arrived since it was told last; `rtt_s` is the shortest round trip of late."""
        if now - self._last > PAUSE * rtt_s:
            self._landed, self._since, self._rate = 0, now, 0.0
        self._last = now
        self._landed += nbytes
        if rtt_s <= self._base_s or now - self._base_at > BASE_S or not self.ahead:
            self._base_s, self._base_at = rtt_s, now
        if self._base_s <= NEAR_S:
            self.ahead = 0
        elif (took_s := now - self._since) > rtt_s:
            self._follow(self._landed / took_s)
            self._landed, self._since = 0, now

    def _follow(self, rate: float) -> None:
        wanted = int(2 * rate * self._base_s)
        if wanted > self.ahead and rate > FASTER * self._rate:
            self.ahead, self._rate = min(wanted, 2 * max(self.ahead, self._least), AHEAD_BYTES_MAX), rate
        elif wanted < self.ahead // 2:
            self.ahead, self._rate = self.ahead * 3 // 4, rate  # by and by: one slow round trip is not the way


@dataclass(slots=True)
class Crediting:
    """How much credit to return, and when."""

    limits: Links
    _streams: dict[int, _Window] = field(default_factory=dict)
    _connection: _Window = field(init=False)
    _way: _Way = field(init=False)
    _landed: int = 0

    def __post_init__(self) -> None:
        self._connection = _Window(self.limits.connection_credit_bytes, CONNECTION_BYTES)
        self._way = _Way(self.limits.connection_credit_bytes)

    def landed(self, stream: int, nbytes: int, whole: bool) -> list[int]:
        """Body bytes arrived; returns the streams whose credit is due now, 0 for the connection."""
        due = []
        self._landed += nbytes
        if whole:
            self.forget(stream)
        else:
            if (window := self._streams.get(stream)) is None:
                window = self._streams[stream] = _Window(self.limits.stream_credit_bytes, STREAM_BYTES)
            if window.landed(nbytes):
                due.append(stream)
        if self._connection.landed(nbytes):
            due.append(0)
        return due

    def credit(self, stream: int, now: float, rtt_s: float | None) -> int:
        """Bytes to return to a stream whose credit is due; 0 when its window was too large.

        `rtt_s` is the shortest round trip of late; None when none was measured, which leaves windows as configured.
        """
        if rtt_s is not None:
            self._way.landed(self._landed, now, rtt_s)
            self._landed = 0
        return (self._streams[stream] if stream else self._connection).credit(self._way.ahead)

    def forget(self, stream: int) -> None:
        """The message was discarded, or is whole."""
        self._streams.pop(stream, None)
