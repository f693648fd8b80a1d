"""When to ping a peer, and when it has been quiet for too long. A core: it is told the time and sets no timer.

While requests are open a ping goes out every `heartbeat_s`, otherwise every `idle_ping_s`. Three intervals without a
byte make a peer silent. A beat that comes late is evidence against ourselves: what the peer said may lie unread in
the socket.
"""

from __future__ import annotations

from meshnode.config import Links


class Heartbeat:
    """The state of one connection's heartbeats; times are monotonic seconds."""

    def __init__(self, settings: Links, now: float) -> None:
        self.due_at = now + settings.heartbeat_s  # the first one soon, for a first round trip
        self.rtt_s: float | None = None
        self.used_at = now
        """When a request was last opened."""
        self._settings = settings
        self.heard_at = now
        self._ping: tuple[int, float] | None = None
        self._nonce = 0

    def heard(self, now: float) -> None:
        """Any byte came."""
        self.heard_at = now

    def wake(self, now: float) -> bool:
        """A request was opened; True when the next beat moved nearer."""
        self.used_at = now
        if self.due_at <= now + self._settings.heartbeat_s:
            return False
        self.heard_at = now
        self._ping = None
        self.due_at = now + self._settings.heartbeat_s
        return True

    def beat(self, now: float, *, open: bool) -> tuple[float | None, int | None]:
        """The beat is due: (seconds of silence when the peer is silent, nonce of a ping to send)."""
        interval_s = self._settings.heartbeat_s if open else self._settings.idle_ping_s
        quiet_s = now - self.heard_at
        silent = None
        if now - self.due_at > self._settings.heartbeat_s:
            self.heard_at = now
        elif self._ping is not None and quiet_s > interval_s * (self._settings.heartbeat_misses - 0.5):
            silent = quiet_s
        nonce = None
        if self._ping is None or now - self._ping[1] >= self._settings.heartbeat_s / 2:
            self._nonce = (self._nonce + 1) & 0xFFFFFFFF
            self._ping = (self._nonce, now)
            nonce = self._nonce
        self.due_at = now + interval_s
        return silent, nonce

    def pong(self, nonce: int, now: float) -> None:
        """The answer to a ping."""
        if self._ping is not None and self._ping[0] == nonce:
            rtt_s = now - self._ping[1]
            self.rtt_s = rtt_s if self.rtt_s is None else 0.8 * self.rtt_s + 0.2 * rtt_s
            self._ping = None
