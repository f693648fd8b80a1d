"""The clock, the workers and the figures of one run of tasks.

A worker runs one task at a time, first come, first served. One way between any two takes 1 ms, and a task's bytes take
their time on the worker's link before it can begin. Load is gossiped once a second and seen half a second later. A
worker that was killed answers nothing; unless it vanished silently, whoever has a task there hears it one way later.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from meshnode.sim.traffic.scenarios import BASE_S, LOAD_S, TROUBLE_S, Scenario

ONE_WAY_S = 0.001
RTT_S = 2 * ONE_WAY_S
SIGMA = 0.3
DEADLINE_S = 0.5
GOSSIP_EVERY_S, GOSSIP_AGE_S = 1.0, 0.5
VERDICT_S = 3.0
"""When a node that vanished is agreed to be dead."""
HEAVY_BYTES, LIGHT_BYTES = 600_000, 1_000
PATIENCE_S = 30.0
"""So long after the last arrival a run ends; what is not back then counts as that late."""


@dataclass(slots=True, eq=False)
class Task:
    """One task: `size` is its work in means; `done_at` when its result was back, or it was given up."""

    number: int
    size: float
    nbytes: int
    began: float
    submitter: int
    expected_s: float = 0.0
    sent_at: float = 0.0
    tried: set[int] = field(default_factory=set)
    done_at: float | None = None
    failed: bool = False
    runs: int = 0


class Policy(Protocol):
    """Decides for all submitters; what one of them knows it keeps apart."""

    def submit(self, task: Task) -> None:
        """A task has come up, or is to be placed again."""
        ...

    def returned(self, task: Task, worker: Worker, run_s: float) -> None:
        """Its result is back at the submitter."""
        ...

    def lost(self, task: Task, worker: Worker) -> None:
        """The submitter noticed that the worker is gone; the task is to be placed again."""
        ...

    def held(self, worker: Worker) -> list[Task]:
        """Tasks at a worker that are not in its line."""
        ...


@dataclass(slots=True, eq=False)
class Worker:
    """One worker and its line. `work_s` is the exact work that waits, as only an oracle knows it."""

    index: int
    speed: float
    bytes_s: float
    pace: Callable[[float], float]
    warm: bool = True
    alive: bool = True
    line: deque[Task] = field(default_factory=deque)
    busy_until: float = 0.0
    work: float = 0.0
    gossip: list[tuple[float, int]] = field(default_factory=lambda: [(-9.0, 0)])

    def service_s(self, size: float, now: float) -> float:
        """What so much work takes here now."""
        return BASE_S * size / (self.speed * self.pace(now))

    def transfer_s(self, task: Task) -> float:
        """What the task's bytes take."""
        return task.nbytes / self.bytes_s

    def backlog_s(self, now: float) -> float:
        """Until a new task would begin, exactly."""
        return self.service_s(self.work, now) + max(0.0, self.busy_until - now)

    def gossiped(self, now: float) -> int:
        """How many were here, by the newest gossip."""
        return next((count for at, count in reversed(self.gossip) if at <= now - GOSSIP_AGE_S), 0)


class World:
    """One run."""

    def __init__(self, scenario: Scenario, seed: int, seconds: float) -> None:
        self.scenario, self.seconds = scenario, seconds
        self.rng = random.Random(seed)
        self.arriving = random.Random(seed + 1_000_000)
        self.now = 0.0
        self.tasks: list[Task] = []
        self.lost = 0
        self.refused = 0
        self.loads = 0
        self.workers = [
            Worker(i, speed, scenario.bytes_s(i), scenario.pace(i), warm=not (scenario.cold and i))
            for i, speed in enumerate(scenario.speeds())
        ]
        self.policy: Policy
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._rate = sum(worker.speed for worker in self.workers) / BASE_S

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Something will happen."""
        self._count += 1
        heapq.heappush(self._events, (self.now + delay_s, self._count, act))

    def run(self, policy: Policy) -> World:
        """All of it."""
        self.policy = policy
        self.after(0.0, self._arrive)
        self.after(0.0, self._gossip)
        for index in self.scenario.victims():
            worker = self.workers[index]
            self.after(TROUBLE_S, lambda worker=worker: self._kill(worker))  # type: ignore[misc]
        while self._events and self._events[0][0] <= self.seconds + PATIENCE_S:
            self.now, _, act = heapq.heappop(self._events)
            act()
        return self

    def visible(self, now: float) -> list[Worker]:
        """Those that membership holds alive."""
        if not self.scenario.killed or now < TROUBLE_S:
            return self.workers
        known = not self.scenario.silent or now >= TROUBLE_S + VERDICT_S
        return [worker for worker in self.workers if worker.alive or not known]

    # --- a task's way ---

    def send(self, task: Task, worker: Worker, arrive: Callable[[Task, Worker], None] | None = None) -> None:
        """It leaves for a worker."""
        task.sent_at = self.now
        self.after(ONE_WAY_S + worker.transfer_s(task), lambda: self._came(task, worker, arrive or self.enqueue))

    def enqueue(self, task: Task, worker: Worker) -> None:
        """It stands in the line."""
        worker.line.append(task)
        if len(worker.line) == 1:
            self.begin(worker)
        else:
            worker.work += task.size

    def begin(self, worker: Worker) -> None:
        """The first of the line runs."""
        task = worker.line[0]
        run_s = self.load(worker) + worker.service_s(task.size, self.now)
        worker.busy_until = self.now + run_s
        task.runs += 1
        self.after(run_s, lambda: self._ran(task, worker, run_s))

    def load(self, worker: Worker) -> float:
        """What it takes until the model is in memory there."""
        if worker.warm:
            return 0.0
        worker.warm = True
        self.loads += 1
        return LOAD_S

    def back(self, task: Task, *, failed: bool = False) -> None:
        """The one answer."""
        if task.done_at is None:
            task.done_at, task.failed = self.now, failed

    def _came(self, task: Task, worker: Worker, arrive: Callable[[Task, Worker], None]) -> None:
        if worker.alive:
            arrive(task, worker)
        else:
            self.gone(task, worker)

    def _ran(self, task: Task, worker: Worker, run_s: float) -> None:
        if not worker.alive:
            return
        worker.line.popleft()
        if worker.line:
            worker.work -= worker.line[0].size
            self.begin(worker)
        else:
            worker.work = 0.0
        self.after(ONE_WAY_S, lambda: self.policy.returned(task, worker, run_s))

    # --- what goes wrong ---

    def gone(self, task: Task, worker: Worker) -> None:
        """The task is with a dead worker: its submitter hears it at once, or has to find out."""
        if self.scenario.silent:
            self.after(self.silence_s(), lambda: self._lost(task, worker))
        else:
            self.after(ONE_WAY_S, lambda: self._lost(task, worker))

    def silence_s(self) -> float:
        """Until a submitter without heartbeats hears of a silent death."""
        found = getattr(self.policy, "silence_s", None)
        return float(found) if found is not None else max(0.0, TROUBLE_S + VERDICT_S - self.now)

    def _lost(self, task: Task, worker: Worker) -> None:
        if task.done_at is None:
            self.lost += 1
            task.tried.add(worker.index)
            self.policy.lost(task, worker)

    def _kill(self, worker: Worker) -> None:
        worker.alive = False
        for task in [*worker.line, *self.policy.held(worker)]:
            self.gone(task, worker)
        worker.line.clear()

    # --- what arrives, and what is told ---

    def _arrive(self) -> None:
        if self.now > self.seconds:
            return
        rng = self.arriving
        size = rng.lognormvariate(-SIGMA * SIGMA / 2, SIGMA)
        heavy = self.scenario.slow_links and rng.random() < 0.5
        submitter = rng.randrange(self.scenario.submitters)
        task = Task(len(self.tasks), size, HEAVY_BYTES if heavy else LIGHT_BYTES, self.now, submitter)
        self.tasks.append(task)
        self.after(rng.expovariate(self._rate * self.scenario.load_at(self.now)), self._arrive)
        self.policy.submit(task)

    def _gossip(self) -> None:
        if self.now < self.seconds:
            for worker in self.workers:
                worker.gossip = [*worker.gossip[-2:], (self.now, len(worker.line))]
            self.after(GOSSIP_EVERY_S, self._gossip)
