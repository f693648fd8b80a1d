"""Whose turn it is to look for a place: tasks of one kind line up while the nodes are full.

A thousand tasks that each asked three nodes, were refused and asked again would make the asking the load: the agent
that submits them came to nothing else for seconds, and quotes were late or counted places that nobody took. So only
`ASKING_MAX` ask at a time. When they are refused nobody asks until the time that the nodes named, then one, and for
each that finds a place one more, as TCP does it. Who has the least time left goes first.

A core: it is told the time; `T` is whatever stands in line, and what is returned may ask now.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Generic, TypeVar

ASKING_MAX = 32
"""At 10 ms for a decision among loaded peers that is 3,000 a second; among idle ones on a LAN ten times as many."""
SURE_S = 0.05
"""What was found out a moment ago is not asked again. More would miss nodes that were not asked."""

T = TypeVar("T")


@dataclass(slots=True)
class Line(Generic[T]):
    """See the module's docstring; times are monotonic seconds."""

    window: int = ASKING_MAX
    asking: int = 0
    opens_at: float = 0.0
    soonest_at: float = 0.0
    sure_until: float = 0.0
    _waiting: list[tuple[float, int, T]] = field(default_factory=list)
    _gone: set[int] = field(default_factory=set)
    _order: int = 0

    def idle(self, now: float) -> bool:
        """Nobody asks, waits or must wait: whoever comes next may begin a new line."""
        return not self.asking and not self._waiting and now >= max(self.opens_at, self.sure_until)

    def hopeless(self, now: float, soonest_s: float) -> None:
        """Nobody who was asked could be done before so long."""
        self.soonest_at, self.sure_until = now + soonest_s, now + SURE_S

    def too_late(self, now: float, deadline: float) -> bool:
        """Somebody was just told that nobody would be done by then: lines get shorter only as fast as time goes by."""
        return now < self.sure_until and deadline < self.soonest_at

    def enter(self, now: float) -> bool:
        """Ask at once, when nobody waits and there is room."""
        if self._waiting or self.asking >= self.window or now < self.opens_at:
            return False
        self.asking += 1
        return True

    def join(self, deadline: float, who: T) -> int:
        """Stand in line; the number of the place."""
        self._order += 1
        heapq.heappush(self._waiting, (deadline, self._order, who))
        return self._order

    def leave(self, place: int) -> None:
        """Somebody who waits does so no longer."""
        self._gone.add(place)
        while self._waiting and self._waiting[0][1] in self._gone:
            self._gone.discard(heapq.heappop(self._waiting)[1])

    def placed(self) -> None:
        """Somebody who asked found a place."""
        self.asking -= 1
        self.window = min(self.window + 1, ASKING_MAX)

    def refused(self, now: float, retry_after_s: float) -> None:
        """All nodes that were asked are full, and said for how long."""
        self.asking -= 1
        self.window = 1
        self.opens_at = max(self.opens_at, now + retry_after_s)

    def ended(self) -> None:
        """It ended otherwise, which says nothing about the nodes' room."""
        self.asking -= 1

    def next_deadline(self) -> float | None:
        """When `next` wants to be called although nothing happened, or when the line is idle."""
        if self._waiting:
            return self.opens_at if self.asking < self.window else None
        return None if self.asking else max(self.opens_at, self.sure_until)

    def next(self, now: float) -> list[T]:
        """Those whose turn it is now."""
        called: list[T] = []
        while self._waiting and self.asking < self.window and now >= self.opens_at:
            _, place, who = heapq.heappop(self._waiting)
            if place in self._gone:
                self._gone.discard(place)
            else:
                self.asking += 1
                called.append(who)
        return called
