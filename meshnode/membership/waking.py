"""Noticing that the machine slept, without asking the operating system. A core: it is told what the clocks say.

While a machine sleeps its monotonic clock stands still (on Linux and macOS) and its wall clock does not; some systems
have a third clock that counts on through sleep. A look each second that finds more time on one of these than on the
monotonic clock, or that comes seconds late itself, has found a sleep, or a process that was stopped. A wall clock that
was set back or forward is not taken for a sleep where the third clock exists.
"""

from __future__ import annotations

from dataclasses import dataclass

LOOK_S = 1.0
GAP_S = 3.0


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds on each clock; `boottime` is None where there is no such clock."""

    monotonic: float
    wall: float
    boottime: float | None = None


@dataclass(slots=True)
class Waking:
    """The state between two looks."""

    last: Clocks
    set_s: float = 0.0
    """How far the wall clock was set since the look before; 0 where that cannot be told from a sleep."""

    def look(self, now: Clocks) -> float:
        """Seconds for which the machine slept, or this process stood still, since the last look; 0 for none."""
        awake_s = now.monotonic - self.last.monotonic
        self.set_s = 0.0
        if now.boottime is not None and self.last.boottime is not None:
            passed_s = now.boottime - self.last.boottime
            asleep_s = passed_s - awake_s
            set_s = now.wall - self.last.wall - passed_s
            self.set_s = set_s if abs(set_s) > GAP_S else 0.0
        else:
            asleep_s = now.wall - self.last.wall - awake_s
        self.last = now
        gone_s = max(0.0, asleep_s) + max(0.0, awake_s - LOOK_S)
        return gone_s if gone_s > GAP_S else 0.0
