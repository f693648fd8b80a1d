"""Whether a model should be in memory on more nodes, as one that has it there sees it. A core without clock or socket.

Routing never waits for this: while a model is on too few nodes, tasks stay with those or are refused. A node that has
the model sees its own share of the demand, because tasks and questions are spread by capacity. Of all that have it, the
one whose hash with the model is lowest decides for all (rendezvous hashing, Thaler and Ravishankar 1998), so that a
rush is not answered by each of them; when it goes away another is the lowest.

Every copy costs memory and a load, so their number grows by a factor at a time and is looked at again when they are
there: of 20 nodes that loaded blindly on the same rush, 19 did.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from meshnode.wire.messages import Digest, NodeId

BUCKET_S = 1.0
SEEN_S = 1.0
"""So long demand is watched before the first decision…"""
SETTLED_S = 4.0
"""…and after copies have come or gone: a newcomer earns its share of the tasks by results."""
SURE = 3.0
"""Too much is asked for when it would be so many standard deviations of the count, as of a Poisson process, less."""
GROWTH = 8
"""At most so many times as many copies at once."""
PATIENCE_S = 15.0
"""Copies that were asked for and have not appeared by then are not counted on any more."""


@dataclass(slots=True)
class Demand:
    """For one model at one node; times are monotonic seconds.

    Args:
        target: the share of the copies' capacity that may be used; above it more are wanted.
    """

    target: float
    _bucket: float = -math.inf
    _began: float = -math.inf
    _counts: tuple[float, float] = (0.0, 0.0)
    _copies: int = 0
    _settled: float = 0.0
    _expected: int = 0
    _expected_until: float = 0.0

    def asked(self, now: float, warm: int) -> None:
        """A submitter wants to know when a task would be done by so many that have the model; 0: it asked others."""
        if warm > 0:
            self._count(now, 1 / warm)

    def came(self, now: float) -> None:
        """A task came unasked."""
        self._count(now, 1.0)

    def missing(self, now: float, *, service_s: float, slots: int, copies: int) -> int:
        """How many more nodes should load the model now; those asked for a moment ago are on their way.

        Args:
            service_s: what a run takes here.
            slots: runs at once here.
            copies: nodes that have the model in memory, this one among them.
        """
        self._roll(now)
        if copies != self._copies:
            self._copies, self._settled = copies, now + (SETTLED_S if copies > 1 else 0.0)
        on_the_way = copies < self._expected and now < self._expected_until
        if on_the_way or now < max(self._settled, self._began + SEEN_S):
            return 0
        used, surely = (rate * service_s / max(1, slots) for rate in self._rates(now))
        if surely <= self.target:
            return 0
        wanted = min(math.ceil(copies * used / self.target), GROWTH * copies)
        self._expected, self._expected_until = wanted, now + PATIENCE_S
        return wanted - copies

    # --- inside ---

    def _count(self, now: float, tasks: float) -> None:
        self._roll(now)
        before, current = self._counts
        self._counts = (before, current + tasks)

    def _rates(self, now: float) -> tuple[float, float]:
        """Tasks a second over the last one to two, and what they surely are at least."""
        tasks, seconds = sum(self._counts), now - max(self._bucket - BUCKET_S, self._began)
        return tasks / seconds, (tasks - SURE * math.sqrt(tasks)) / seconds

    def _roll(self, now: float) -> None:
        passed = now - self._bucket
        if passed >= 2 * BUCKET_S:
            if passed >= 4 * BUCKET_S:
                self._began = now
            self._bucket, self._counts = now, (0.0, 0.0)
        elif passed >= BUCKET_S:
            self._bucket, self._counts = self._bucket + BUCKET_S, (self._counts[1], 0.0)


def decides(model: Digest, node: NodeId, copies: Iterable[NodeId]) -> bool:
    """Whether `node` is the one of those with the model in memory that asks others to load it."""
    return all(_rank(model, node) <= _rank(model, other) for other in copies)


def _rank(model: Digest, node: NodeId) -> bytes:
    return hashlib.sha256(f"{model} {node}".encode()).digest()
