"""Many deadlines, of which the nearest is cheap to see. A core: it is told the time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

What = TypeVar("What")


@dataclass(slots=True)
class Alarms(Generic[What]):
    """A heap. Nothing is cancelled: who sets an alarm looks, when it rings, whether it still means something."""

    _heap: list[tuple[float, int, What]] = field(default_factory=list)
    _order: int = 0

    def set(self, when: float, what: What) -> None:
        """Ring at `when`."""
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, what))

    def next(self) -> float:
        """When the nearest rings; infinity when there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> Iterator[What]:
        """Take out what has come; alarms that are set meanwhile for a time that is past ring too."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]
