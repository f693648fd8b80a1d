"""What waits for one worker and what runs next: admission, order, holds, and our own quote.

A core: `handle(now, event) -> effects`, told the time in monotonic seconds. Order is priority, then earliest deadline
first. Work whose deadline has passed is never started. A quote is in seconds: the estimated work that waits or runs,
spread over the slots, plus the places held for submitters that were quoted a moment ago. Service times are learnt per
model from what runs really took.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import assert_never

from meshnode.config import Execution
from meshnode.errors import Refused
from meshnode.wire.messages import Digest, Priority, TaskId

ALPHA = 0.2
ALPHA_EARLY = 0.5
EARLY = 5
_RANK = {"high": 0, "normal": 1, "low": 2}


@dataclass(frozen=True, slots=True)
class Offer:
    """A task wants in. `alone`: it has killed a worker before and may run only by itself."""

    task: TaskId
    model: Digest
    deadline: float
    priority: Priority = "normal"
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """A submitter was quoted: keep a place for a moment, about the two round trips until the task can be here."""

    task: TaskId
    model: Digest
    hold_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A run ended; `run_s` is None when it says nothing about the model's speed."""

    task: TaskId
    run_s: float | None


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Nobody wants the task any more. A running one goes on until its worker lets go of it."""

    task: TaskId


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker can (True) or cannot (False) take work."""

    up: bool


Event = Offer | Hold | Finished | Withdraw | Ready


@dataclass(frozen=True, slots=True)
class Start:
    """Give the task to the worker."""

    task: TaskId


@dataclass(frozen=True, slots=True)
class Expired:
    """The task's deadline passed while it waited; it was not run."""

    task: TaskId


Effect = Start | Expired


@dataclass(slots=True)
class _Service:
    mean_s: float
    seen: int = 0


@dataclass(slots=True)
class TaskQueue:
    """The queue of one worker with `slots` runs at once."""

    settings: Execution
    slots: int
    up: bool = False
    done: int = 0
    _heap: list[tuple[int, float, int, Offer]] = field(default_factory=list)
    _waiting: dict[TaskId, Offer] = field(default_factory=dict)
    _running: dict[TaskId, tuple[Offer, float]] = field(default_factory=dict)
    _holds: dict[TaskId, tuple[float, Digest]] = field(default_factory=dict)
    _service: dict[Digest, _Service] = field(default_factory=dict)
    _order: count[int] = field(default_factory=count)

    @property
    def in_flight(self) -> int:
        """Tasks waiting or running."""
        return len(self._waiting) + len(self._running)

    def running(self, model: Digest) -> int:
        """Runs of a model at this moment."""
        return sum(offer.model == model for offer, _ in self._running.values())

    def service_s(self, model: Digest) -> float | None:
        """The mean run time of a model here, seconds; None before its first run."""
        known = self._service.get(model)
        return None if known is None else known.mean_s

    def backlog_s(self, now: float) -> float:
        """Seconds of estimated work ahead of a new task, without holds."""
        work = sum(self._believed(offer.model) for offer in self._waiting.values())
        for offer, started in self._running.values():
            # A run that takes longer than believed is believed to be half way through.
            believed = self._believed(offer.model)
            elapsed = now - started
            work += believed - elapsed if elapsed < believed else elapsed
        free = self.slots - len(self._running)
        return work / self.slots if free <= 0 or self._waiting else 0.0

    def quote(self, now: float, model: Digest) -> tuple[float, float]:
        """(seconds until it would start, seconds it would run), holds included. Raises Refused when full."""
        self._forget_holds(now)
        self._check_room(now)
        held = sum(self._believed(digest) for _, digest in self._holds.values())
        free = self.slots - len(self._running) - len(self._waiting)
        wait_s = self.backlog_s(now)
        if len(self._holds) >= max(free, 0):
            wait_s += held / self.slots
        return wait_s, self._believed(model)

    def next_deadline(self) -> float | None:
        """When `handle(now)` wants to be called without an event."""
        return min((offer.deadline for offer in self._waiting.values()), default=None)

    def handle(self, now: float, event: Event | None = None) -> list[Effect]:
        """One event, or None for a deadline. `Offer` raises Refused when the queue is full."""
        match event:
            case None:
                pass
            case Offer():
                self._holds.pop(event.task, None)
                self._check_room(now)
                self._waiting[event.task] = event
                heapq.heappush(self._heap, (_RANK[event.priority], event.deadline, next(self._order), event))
            case Hold(task, model, hold_s):
                self._forget_holds(now)
                self._holds[task] = (now + hold_s, model)
            case Finished(task, run_s):
                ended = self._running.pop(task, None)
                if ended is not None and run_s is not None:
                    self.done += 1
                    self._learn(ended[0].model, run_s)
            case Withdraw(task):
                self._waiting.pop(task, None)
            case Ready(up):
                self.up = up
            case _:
                assert_never(event)
        return [*self._expire(now), *self._start(now)]

    def _start(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while self.up and self._heap and len(self._running) < self.slots:
            offer = self._heap[0][3]
            if self._waiting.get(offer.task) is not offer:
                heapq.heappop(self._heap)
                continue
            others_alone = any(running.alone for running, _ in self._running.values())
            if others_alone or (offer.alone and self._running):
                break
            heapq.heappop(self._heap)
            del self._waiting[offer.task]
            self._running[offer.task] = (offer, now)
            effects.append(Start(offer.task))
        assert len(self._running) <= self.slots
        return effects

    def _expire(self, now: float) -> list[Effect]:
        late = [task for task, offer in self._waiting.items() if offer.deadline <= now]
        for task in late:
            del self._waiting[task]
        return [Expired(task) for task in late]

    def _check_room(self, now: float) -> None:
        waiting = len(self._waiting)
        if waiting >= self.settings.queue_tasks_max:
            raise Refused(f"{waiting} tasks wait here, the limit", retry_after_s=self._relief_s(now))
        backlog_s = self.backlog_s(now)
        if waiting >= self.slots and backlog_s > self.settings.queue_backlog_max_s:
            raise Refused(f"{backlog_s:.1f} s of work wait here, the limit", retry_after_s=self._relief_s(now))

    def _relief_s(self, now: float) -> float:
        """When about a quarter of what waits will be done."""
        return min(max(self.backlog_s(now) / 4, 0.005), 1.0)

    def _believed(self, model: Digest) -> float:
        known = self._service.get(model)
        return self.settings.service_prior_s if known is None else known.mean_s

    def _learn(self, model: Digest, run_s: float) -> None:
        known = self._service.get(model)
        if known is None:
            self._service[model] = _Service(run_s, 1)
            return
        alpha = ALPHA_EARLY if known.seen < EARLY else ALPHA
        known.mean_s += alpha * (run_s - known.mean_s)
        known.seen += 1

    def _forget_holds(self, now: float) -> None:
        for task in [task for task, (until, _) in self._holds.items() if until <= now]:
            del self._holds[task]
