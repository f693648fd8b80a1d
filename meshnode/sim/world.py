"""A network and a clock that exist only here: seeded, so that a run can be had again.

Packets are handed over as the very objects that the cores made. Each is lost, delayed, duplicated or cut off as the
world is told; everything random comes from the world's own generator.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

Action = Callable[[], None]


@dataclass(slots=True)
class Faults:
    """What the network does to each packet."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay_min_s: float = 0.0003
    delay_max_s: float = 0.0023
    cut: Callable[[int, int], bool] = lambda sender, receiver: False
    """Whether nothing passes from one node to another."""


@dataclass(slots=True)
class World:
    """The clock, the queue of what will happen, and the network."""

    seed: int
    now: float = 0.0
    faults: Faults = field(default_factory=Faults)
    sent: int = 0
    lost: int = 0
    rng: random.Random = field(init=False)
    _queue: list[tuple[float, int, Action]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def at(self, when: float, action: Action) -> None:
        """Something will happen."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), action))

    def send(self, sender: int, receiver: int, deliver: Callable[[Any], None], packet: Any) -> None:
        """A packet leaves; what the network does with it is decided now."""
        self.sent += 1
        faults, rng = self.faults, self.rng
        if faults.cut(sender, receiver) or (faults.loss and rng.random() < faults.loss):
            self.lost += 1
            return
        copies = 2 if faults.duplicate and rng.random() < faults.duplicate else 1
        for _ in range(copies):
            self.at(self.now + rng.uniform(faults.delay_min_s, faults.delay_max_s), lambda: deliver(packet))

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> None:
        """Let time pass, or stop as soon as `stop` says so."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            action()
            if stop is not None and stop():
                return
        self.now = max(self.now, until)
