"""What is counted for `/metrics` and nowhere else: how tasks ended, how long they took, how late the loop is.

What the agent counts anyway is read where it is, when somebody asks. The rest is here, and only while the door is open:
whoever does not look at metrics does not pay for them.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from meshnode.edge.node import Node
from meshnode.tasks.outcomes import Ended, Served

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of buckets."""
LOOK_S = 0.25
LOOKS = 240
"""A minute of them."""
OUTCOMES_MAX = 64
"""An error's code may be one that a peer made up."""
T = TypeVar("T")


class Histogram:
    """How many values fell below each bound."""

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def note(self, value: float) -> None:
        """One more."""
        self.counts[bisect_left(SECONDS, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """(bound, how many values up to it), as Prometheus adds them up."""
        rows, total = [], 0
        for bound, count in zip((*map(str, SECONDS), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, float(total)))
        return rows


@dataclass(slots=True)
class Lateness:
    """By how much the event loop was late, lately: everything that this agent does waits as long."""

    _late: deque[float] = field(default_factory=lambda: deque([0.0], maxlen=LOOKS))

    @property
    def longest_s(self) -> float:
        """Of the last minute."""
        return max(self._late)

    async def watch(self, stopping: asyncio.Event) -> None:
        """Until the door closes."""
        while not stopping.is_set():
            due = time.monotonic() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self._late.append(max(0.0, time.monotonic() - due))


@dataclass(slots=True)
class Measures:
    """Of one node, since the door was opened."""

    ended: dict[str, int] = field(default_factory=dict)
    """Tasks that were submitted here, by how they ended: `ok`, `cancelled` or an error's code."""
    served: dict[tuple[str, bool], int] = field(default_factory=dict)
    """Tasks that this node was given to run, and whether another node gave them."""
    took: Histogram = field(default_factory=Histogram)
    """Of tasks submitted here that brought a result: from the submission to the answer."""
    ran: Histogram = field(default_factory=Histogram)
    """Of runs here: the model alone."""
    attempts: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    lateness: Lateness = field(default_factory=Lateness)
    watching: asyncio.Task[None] | None = None
    """Kept from being forgotten."""

    def listen(self, node: Node) -> None:
        """Hear of every task from now on, beside whoever does already."""
        me = node.keeper.id
        node.dispatcher.ended = both(node.dispatcher.ended, self._ended)
        node.serving.served = both(node.serving.served, lambda it: self._served(it, it.submitter != me))

    def _ended(self, it: Ended) -> None:
        outcome = it.outcome if it.outcome in self.ended or len(self.ended) < OUTCOMES_MAX else "other"
        self.ended[outcome] = self.ended.get(outcome, 0) + 1
        self.attempts += it.attempts
        if it.outcome == "ok":
            self.took.note(it.seconds)

    def _served(self, it: Served, foreign: bool) -> None:
        key = (it.outcome, foreign)
        if key not in self.served and len(self.served) >= OUTCOMES_MAX:
            key = ("other", foreign)
        self.served[key] = self.served.get(key, 0) + 1
        self.bytes_in += it.input_bytes
        self.bytes_out += it.output_bytes
        if it.outcome == "ok":
            self.ran.note(it.run_s)


def both(first: Callable[[T], None], second: Callable[[T], None]) -> Callable[[T], None]:
    """Both hear it."""

    def hear(it: T) -> None:
        first(it)
        second(it)

    return hear
