"""When to ping a peer, and when it has been quiet for too long. A core: it is told the time and sets no timer.

While requests are open a ping goes out every `heartbeat_s`, otherwise every `idle_ping_s`. Three intervals without a
byte, and what a round trip takes on this connection, make a peer silent. A beat that comes late is evidence against
ourselves: what the peer said may lie unread in the socket. So is bulk of ours that is still arriving at the peer's
machine: our pings wait behind it.
"""

from __future__ import annotations

from collections import deque

from meshnode.config import KIB, Links

UNKNOWN_S = 1.0
"""What a round trip may take at most before one was measured, as TCP assumes (RFC 6298)."""
ROUND_TRIP_MAX_S = 3.0
PINGS_MAX = 64
"""Unanswered pings that are remembered: longer round trips than this many beats are not measured."""
RECENT = 8
BULK_BYTES = 16 * KIB
"""What TCP sends at once on a fresh connection. A ping behind no more than this is not kept waiting."""


class Heartbeat:
    """The state of one connection's heartbeats; times are monotonic seconds."""

    def __init__(self, settings: Links, now: float) -> None:
        self.due_at = now + settings.heartbeat_s
        self.rtt_s: float | None = None
        self.used_at = now
        """When a request was last opened, or part of one arrived."""
        self._settings = settings
        self.heard_at = now
        self._variation_s = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._unknown_s = UNKNOWN_S
        self._began = now
        self._pings: dict[int, float] = {}
        self._asked_at = float("-inf")
        self._nonce = 0
        self._arrived = 0
        self._moved_at = now

    @property
    def least_rtt_s(self) -> float | None:
        """The shortest of the last round trips: what the way takes, without what made us late just then.

        The smoothed one says for half a minute after a busy second of this process that all peers are far away.
        """
        return min(self._recent, default=None)

    @property
    def round_trip_s(self) -> float:
        """What is allowed for one: the usual time and four times its usual deviation, as TCP reckons."""
        usual_s = self._unknown_s if self.rtt_s is None else self.rtt_s + 4 * self._variation_s
        return min(usual_s, ROUND_TRIP_MAX_S)

    def opened(self, now: float) -> None:
        """The peer's HELLO is there: TLS took one round trip at least, so twice as long as all that will do for one.

        The first ping goes at once, before anything of ours can stand in its way.
        """
        self._unknown_s = min(UNKNOWN_S, 2 * (now - self._began))
        self.due_at = now

    def heard(self, now: float) -> None:
        """Any byte came."""
        self.heard_at = now

    def wake(self, now: float) -> bool:
        """A request was opened; True when the next beat moved nearer."""
        self.used_at = now
        if self.due_at <= now + self._settings.heartbeat_s:
            return False
        self.heard_at = now
        self.due_at = now + self._settings.heartbeat_s
        return True

    def beat(self, now: float, *, open: bool, sent: tuple[int, int] = (0, 0)) -> tuple[float | None, int | None]:
        """The beat is due: (seconds of silence when the peer is silent, nonce of a ping to send).

        `sent` is how many bytes of ours have arrived at the peer's machine, and how many have not yet.
        """
        interval_s = self._settings.heartbeat_s if open else self._settings.idle_ping_s
        if sent[0] > self._arrived and sent[1] > BULK_BYTES:
            self._moved_at = now
        self._arrived = sent[0]
        quiet_s = now - max(self.heard_at, self._moved_at)
        silent = None
        if now - self.due_at > self._settings.heartbeat_s:
            self.heard_at = now
        elif self._pings and quiet_s > interval_s * (self._settings.heartbeat_misses - 0.5) + self.round_trip_s:
            silent = quiet_s
        nonce = None
        if not self._pings or now - self._asked_at >= self._settings.heartbeat_s / 2:
            self._nonce = nonce = (self._nonce + 1) & 0xFFFFFFFF
            if len(self._pings) < PINGS_MAX:
                self._pings[nonce] = now
            self._asked_at = now
        self.due_at = now + interval_s
        return silent, nonce

    def pong(self, nonce: int, now: float) -> None:
        """The answer to a ping; those before it will have none any more, for a connection keeps the order."""
        if nonce not in self._pings:
            return
        rtt_s = now - self._pings[nonce]
        while nonce in self._pings:
            del self._pings[next(iter(self._pings))]
        self._recent.append(rtt_s)
        if self.rtt_s is None:
            self.rtt_s, self._variation_s = rtt_s, rtt_s / 2
        else:
            self._variation_s = 0.75 * self._variation_s + 0.25 * abs(rtt_s - self.rtt_s)
            self.rtt_s = 0.8 * self.rtt_s + 0.2 * rtt_s
