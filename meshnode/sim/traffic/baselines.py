"""The policies of other systems, and bounds that know everything. Each decides at once, from what it is said to know.

Peak EWMA as in Finagle and linkerd (its cost falls back over ten seconds); Prequal as in Wydrowski and others (NSDI
2024) with three probes a query, a pool of 16 that ages out after a second, and the 0.84 quantile of requests in flight
as what is hot. Power of two choices and the least loaded go by gossip, which is half to one and a half seconds old.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from meshnode.sim.traffic.scenarios import BASE_S
from meshnode.sim.traffic.world import ONE_WAY_S, Task, Worker, World

DECAY_S = 10.0
POOL_MAX, PROBES, POOL_AGE_S, REUSE, HOT = 16, 3, 1.0, 3, 0.84


@dataclass(slots=True, eq=False)
class Baseline(ABC):
    """Chooses a worker at once."""

    world: World

    def submit(self, task: Task) -> None:
        """Place it."""
        seen = self.world.visible(self.world.now)
        fit = [worker for worker in seen if worker.index not in task.tried] or list(seen)
        self.world.send(task, self.choose(task, fit))

    @abstractmethod
    def choose(self, task: Task, fit: Sequence[Worker]) -> Worker:
        """One of those that may be used."""

    def returned(self, task: Task, worker: Worker, run_s: float) -> None:
        """See `Policy`."""
        self.world.back(task)

    def lost(self, task: Task, worker: Worker) -> None:
        """See `Policy`."""
        self.submit(task)

    def held(self, worker: Worker) -> list[Task]:
        """See `Policy`: all stand in the line."""
        return []

    def any(self, fit: Sequence[Worker]) -> Worker:
        """One at random."""
        return fit[self.world.rng.randrange(len(fit))]

    def by_speed(self, fit: Sequence[Worker]) -> Worker:
        """One at random, the faster the more often."""
        return self.world.rng.choices(fit, [worker.speed for worker in fit])[0]


class Random(Baseline):
    """Any worker."""

    def choose(self, task: Task, fit: Sequence[Worker]) -> Worker:
        """See `Baseline`."""
        return self.any(fit)


@dataclass(slots=True, eq=False)
class RoundRobin(Baseline):
    """Each submitter goes round by itself."""

    turns: dict[int, int] = field(default_factory=dict)

    def choose(self, task: Task, fit: Sequence[Worker]) -> Worker:
        """See `Baseline`."""
        turn = self.turns.get(task.submitter)
        turn = self.world.rng.randrange(1000) if turn is None else turn + 1
        self.turns[task.submitter] = turn
        return fit[turn % len(fit)]


class WeightedRandom(Baseline):
    """By capacity, blind to load."""

    def choose(self, task: Task, fit: Sequence[Worker]) -> Worker:
        """See `Baseline`."""
        return self.by_speed(fit)


class LeastByGossip(Baseline):
    """The smallest (gossiped line + 1) / speed."""

    def choose(self, task: Task, fit: Sequence[Worker]) -> Worker:
        """See `Baseline`."""
        now = self.world.now
        return min(fit, key=lambda it: ((it.gossiped(now) + 1) / it.speed, it.index))


@dataclass(slots=True, eq=False)
class TwoChoices(Baseline):
    """The better of two by gossip."""

    weighted: bool = False

    def choose(self, task: Task, fit: Sequence[Worker]) -> Worker:
        """See `Baseline`."""
        now, draw = self.world.now, self.by_speed if self.weighted else self.any
        return min((draw(fit), draw(fit)), key=lambda it: (it.gossiped(now) + 1) / it.speed)


@dataclass(slots=True)
class _Seen:
    """What a submitter has seen of a worker."""

    mean_s: float
    at: float
    pending: int = 0


@dataclass(slots=True, eq=False)
class PeakEwma(Baseline):
    """The better of two by peak-sensitive latency times own tasks in flight."""

    weighted: bool = False
    seen: dict[tuple[int, int], _Seen] = field(default_factory=dict)

    def choose(self, task: Task, fit: Sequence[Worker]) -> Worker:
        """See `Baseline`."""
        draw = self.by_speed if self.weighted else self.any
        chosen = min((draw(fit), draw(fit)), key=lambda it: self._cost(task.submitter, it))
        self._of(task.submitter, chosen).pending += 1
        return chosen

    def returned(self, task: Task, worker: Worker, run_s: float) -> None:
        """See `Policy`."""
        seen, now = self._of(task.submitter, worker), self.world.now
        seen.pending -= 1
        latency_s = now - task.sent_at
        share = math.exp(-(now - seen.at) / DECAY_S)
        seen.mean_s = max(latency_s, seen.mean_s * share + latency_s * (1 - share))
        seen.at = now
        self.world.back(task)

    def lost(self, task: Task, worker: Worker) -> None:
        """See `Policy`."""
        self._of(task.submitter, worker).pending -= 1
        self.submit(task)

    def _cost(self, submitter: int, worker: Worker) -> float:
        seen = self._of(submitter, worker)
        return seen.mean_s * (seen.pending + 1)

    def _of(self, submitter: int, worker: Worker) -> _Seen:
        return self.seen.setdefault((submitter, worker.index), _Seen(BASE_S / worker.speed, self.world.now))


@dataclass(slots=True)
class _Probe:
    worker: Worker
    inflight: int
    latency_s: float
    at: float
    uses: int = 0


@dataclass(slots=True, eq=False)
class Prequal(Baseline):
    """Probes ahead of need; the fastest of those that are not hot, else the least busy."""

    weighted: bool = False
    pools: dict[int, list[_Probe]] = field(default_factory=dict)

    def choose(self, task: Task, fit: Sequence[Worker]) -> Worker:
        """See `Baseline`."""
        now = self.world.now
        pool = self.pools.setdefault(task.submitter, [])
        draw = self.by_speed if self.weighted else self.any
        for _ in range(PROBES):
            self._probe(pool, draw(fit))
        pool[:] = [it for it in pool if now - it.at < POOL_AGE_S and it.uses < REUSE and it.worker.alive][-POOL_MAX:]
        if len(pool) < 2:
            return draw(fit)
        hot = sorted(it.inflight for it in pool)[min(len(pool) - 1, int(HOT * len(pool)))]
        cold = [it for it in pool if it.inflight < hot]
        best = min(cold, key=lambda it: it.latency_s) if cold else min(pool, key=lambda it: it.inflight)
        best.inflight += 1
        best.latency_s += BASE_S / best.worker.speed
        best.uses += 1
        return best.worker

    def _probe(self, pool: list[_Probe], worker: Worker) -> None:
        def asked() -> None:
            if worker.alive:
                inflight = len(worker.line)
                latency_s = (inflight + 1) * worker.service_s(1.0, self.world.now)
                probe = _Probe(worker, inflight, latency_s, self.world.now + ONE_WAY_S)
                self.world.after(ONE_WAY_S, lambda: pool.append(probe))

        self.world.after(ONE_WAY_S, asked)


class JoinShortest(Baseline):
    """The shortest line as it is at that moment, which nobody can know; blind to speed."""

    def choose(self, task: Task, fit: Sequence[Worker]) -> Worker:
        """See `Baseline`."""
        return min(fit, key=lambda it: (len(it.line), self.world.rng.random()))


@dataclass(slots=True, eq=False)
class Bound(Baseline):
    """The earliest completion by exact lines at the moment of arrival; `sizes`: knowing every task's work as well."""

    sizes: bool = False

    def submit(self, task: Task) -> None:
        """It also knows no delay, so that choices are never stale, and who is dead."""
        chosen = self.choose(task, [worker for worker in self.world.workers if worker.alive])
        task.sent_at = self.world.now
        self.world.after(chosen.transfer_s(task), lambda: self._arrived(task, chosen))

    def choose(self, task: Task, fit: Sequence[Worker]) -> Worker:
        """See `Baseline`."""
        return min(fit, key=lambda worker: self._done_s(task, worker))

    def _done_s(self, task: Task, worker: Worker) -> float:
        now = self.world.now
        if self.sizes:
            wait_s, size = worker.backlog_s(now), task.size
        else:
            wait_s, size = worker.service_s(max(0, len(worker.line) - 1), now), 1.0
            if worker.line:
                elapsed_s = now - (worker.busy_until - worker.service_s(worker.line[0].size, now))
                wait_s += max(0.0, worker.service_s(1.0, now) - elapsed_s)
        return max(wait_s, worker.transfer_s(task)) + worker.service_s(size, now)

    def _arrived(self, task: Task, worker: Worker) -> None:
        if worker.alive:
            self.world.enqueue(task, worker)
        else:
            self.submit(task)


BASELINES: dict[str, Callable[[World], Baseline]] = {
    "random": Random,
    "round robin": RoundRobin,
    "weighted random": WeightedRandom,
    "least by gossip": LeastByGossip,
    "two choices": TwoChoices,
    "two choices, weighted": lambda world: TwoChoices(world, weighted=True),
    "peak EWMA": PeakEwma,
    "peak EWMA, weighted": lambda world: PeakEwma(world, weighted=True),
    "Prequal": Prequal,
    "Prequal, weighted": lambda world: Prequal(world, weighted=True),
}
BOUNDS: dict[str, Callable[[World], Baseline]] = {
    "shortest line, fresh": JoinShortest,
    "bound, sizes unknown": Bound,
    "bound": lambda world: Bound(world, sizes=True),
}
