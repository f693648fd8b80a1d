"""How much a sender of bodies may have in flight: the receiving half of a link's flow control, a core.

Windows start as configured, which is enough for a LAN and keeps small requests quick beside bulk. Over longer ways they
follow twice what arrives in a round trip, as TCP's receive buffers do (Semke, Mahdavi and Mathis, 1998): that doubles
them while they are what limits the sender. A window that waits in queues makes the round trip longer, and would make
itself grow; so they grow only while that makes what arrives faster.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshnode.config import MIB, Links

AHEAD_BYTES_MAX = 16 * MIB
"""The largest window. It is the sender's memory and the way's: a receiver has room for a whole body before it comes."""
NEAR_S = 0.002
"""A shorter round trip needs no larger windows: the configured ones carry 1 Gb/s that far."""
FASTER = 1.1
PAUSE = 4
"""So many round trips without credit end a measurement of the rate: what came so slowly needs no larger window."""


class _Window:
    """What the sender of a stream, or of the connection, may have in flight."""

    __slots__ = ("_least", "_owed", "_size")

    def __init__(self, least: int) -> None:
        self._least = self._size = least
        self._owed = 0

    def landed(self, nbytes: int) -> bool:
        """Whether credit is due: half the least window at a time keeps frames few."""
        self._owed += nbytes
        return self._owed >= self._least // 2

    def credit(self, ahead: int) -> int:
        """What to return, so that the window becomes so large, or as soon as may be no larger."""
        left = self._size - self._owed
        self._size, self._owed = max(left, self._least, ahead), 0
        return self._size - left


@dataclass(slots=True)
class Crediting:
    """How much credit to return, and when."""

    limits: Links
    _streams: dict[int, _Window] = field(default_factory=dict)
    _connection: _Window = field(init=False)
    _ahead: int = 0
    _rate: float = 0.0
    _measured: int = 0
    _since: float = 0.0
    _last: float = 0.0

    def __post_init__(self) -> None:
        self._connection = _Window(self.limits.connection_credit_bytes)

    def landed(self, stream: int, nbytes: int, whole: bool) -> list[int]:
        """Body bytes arrived; returns the streams whose credit is due now, 0 for the connection."""
        due = []
        self._measured += nbytes
        if whole:
            self._streams.pop(stream, None)
        else:
            if (window := self._streams.get(stream)) is None:
                window = self._streams[stream] = _Window(self.limits.stream_credit_bytes)
            if window.landed(nbytes):
                due.append(stream)
        if self._connection.landed(nbytes):
            due.append(0)
        return due

    def credit(self, stream: int, now: float, rtt_s: float | None) -> int:
        """Bytes to return to a stream whose credit is due; 0 when its window was too large.

        `rtt_s` is the shortest round trip of late; None when none was measured, which leaves windows as configured.
        """
        if rtt_s is None or rtt_s <= NEAR_S:
            self._ahead = 0
        else:
            self._measure(now, rtt_s)
        return (self._streams[stream] if stream else self._connection).credit(self._ahead)

    def _measure(self, now: float, rtt_s: float) -> None:
        if now - self._last > PAUSE * rtt_s:
            self._measured, self._since = 0, now
        self._last = now
        if (took_s := now - self._since) > rtt_s:
            self._follow(self._measured / took_s, rtt_s)
            self._measured, self._since = 0, now

    def _follow(self, rate: float, rtt_s: float) -> None:
        wanted = int(2 * rate * rtt_s)
        if wanted > self._ahead and rate > FASTER * self._rate:
            self._ahead, self._rate = min(wanted, AHEAD_BYTES_MAX), rate
        elif wanted < self._ahead // 2:
            self._ahead, self._rate = self._ahead * 3 // 4, rate  # by and by: one slow round trip is not the way

    def forget(self, stream: int) -> None:
        """The message was discarded."""
        self._streams.pop(stream, None)
