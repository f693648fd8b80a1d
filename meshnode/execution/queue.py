"""What waits for one worker and what runs next: admission, order, batches, holds, and our own quote.

A core: `handle(now, event) -> effects`, told the time in monotonic seconds. Own work comes before that of others, then
goes priority, then the earliest deadline. Work whose deadline has passed is never started; nor is, while others wait,
work that has less time left than its run takes: its submitter hears so while another node may be quicker. Who finds the
worker with nothing to do may have all its threads for one run, where that pays; who had to wait, and who comes beside
another, has one. When a slot is free, what waits and has the key of the first in line starts with it, as far as its
model is proven to allow that; nothing waits for others to come. A quote is in seconds: the estimated work that waits or
runs, spread over the slots, plus the places held for submitters that were quoted a moment ago.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import assert_never

from msgspec.structs import replace

from meshnode.config import Execution
from meshnode.errors import Refused
from meshnode.execution.events import (
    Again,
    Effect,
    Event,
    Expired,
    Finished,
    Hold,
    Offer,
    Overdue,
    Prove,
    Proven,
    Ready,
    Start,
    Widened,
    Withdraw,
)
from meshnode.execution.pace import WIDE_AGAIN, Pace
from meshnode.wire.messages import Digest, TaskId

BATCH_BYTES = 2 * 1024 * 1024
"""Tensors of tasks that run as one, together: above it, copying costs more than a run of their own."""
STALE_MAX = 256
PACES_MAX = 1024
"""Of so many models it is known how long they run; beyond, the oldest is learnt anew when it comes again."""
_RANK = {"high": 0, "normal": 1, "low": 2}
Rank = tuple[bool, int]


@dataclass(slots=True)
class _Waiting:
    offer: Offer
    start_by: float


@dataclass(slots=True)
class _Run:
    offers: list[Offer]
    model: Digest
    alone: bool
    began: float
    patience_s: float
    size: int
    wide: bool


@dataclass(slots=True)
class _Kin:
    """Those that wait with one key, most urgent first."""

    line: list[tuple[float, int, Offer]] = field(default_factory=list)
    live: int = 0


@dataclass(slots=True)
class TaskQueue:
    """The queue of one worker with `slots` runs at once."""

    settings: Execution
    slots: int
    up: bool = False
    done: int = 0
    _heap: list[tuple[Rank, float, int, Offer]] = field(default_factory=list)
    _dues: list[tuple[float, int, Offer]] = field(default_factory=list)
    _kin: dict[Hashable, _Kin] = field(default_factory=dict)
    _waiting: dict[TaskId, _Waiting] = field(default_factory=dict)
    _counts: Counter[tuple[Digest, bool, bool]] = field(default_factory=Counter)
    _running: dict[TaskId, _Run] = field(default_factory=dict)
    _home: dict[TaskId, _Run] = field(default_factory=dict)
    _holds: dict[TaskId, tuple[float, Digest]] = field(default_factory=dict)
    _paces: dict[Digest, Pace] = field(default_factory=dict)
    _order: count[int] = field(default_factory=count)

    @property
    def in_flight(self) -> int:
        """Tasks waiting or running."""
        return len(self._waiting) + len(self._home)

    @property
    def idle(self) -> bool:
        """Nothing waits, and a slot is free: who comes now starts at once."""
        return self.up and not self._waiting and len(self._running) < self.slots and not self._one_is_alone

    @property
    def _one_is_alone(self) -> bool:
        return any(run.alone or run.wide for run in self._running.values())

    def running(self, model: Digest) -> int:
        """Tasks of a model that run at this moment."""
        return sum(len(run.offers) for run in self._running.values() if run.model == model)

    def service_s(self, model: Digest) -> float | None:
        """The mean run time of a model here, seconds; None before its first run."""
        known = self._paces.get(model)
        return None if known is None else known.service_s

    def pace(self, model: Digest) -> Pace:
        """What is known of a model's speed."""
        known = self._paces.get(model)
        if known is None:
            if len(self._paces) >= PACES_MAX:
                del self._paces[next(iter(self._paces))]
            known = self._paces[model] = Pace(self.settings.service_prior_s, self.settings.batch_max)
        return known

    def backlog_s(self, now: float, *, foreign: bool = True) -> float:
        """Seconds of estimated work ahead of a new task, without holds; for own work, others' waits behind it."""
        work, waiting = 0.0, 0
        for (model, joins, theirs), number in self._counts.items():
            if number and (foreign or not theirs):
                pace = self.pace(model)
                work += pace.work_s(number) if joins else number * pace.run_s(1)
                waiting += number
        for run in self._running.values():
            # A run that takes longer than believed is believed to be half way through.
            pace, elapsed = self.pace(run.model), now - run.began
            believed = pace.wide_s if run.wide else pace.run_s(run.size)
            left = believed - elapsed if elapsed < believed else elapsed
            work += left * self.slots if run.wide else left
        return work / self.slots if waiting or self._full else 0.0

    @property
    def _full(self) -> bool:
        return len(self._running) >= self.slots or self._one_is_alone

    def quote(self, now: float, model: Digest, *, foreign: bool = False) -> tuple[float, float]:
        """(seconds until it would start, seconds it would run), holds included. Raises Refused when full."""
        self._forget_holds(now)
        self._check_room(now, foreign)
        held = sum(self.pace(digest).marginal_s for _, digest in self._holds.values())
        free = self.slots - len(self._running) - self._ahead(foreign)
        wait_s = self.backlog_s(now, foreign=foreign)
        if len(self._holds) >= max(free, 0):
            # Promises cannot come to more than may wait: told so of a burst, submitters gave up tasks that had time.
            wait_s = max(wait_s, min(wait_s + held / self.slots, self.settings.queue_backlog_max_s))
        pace = self.pace(model)
        return wait_s, pace.wide_s if pace.wide and self.idle and not self._running else pace.run_s(1)

    def next_deadline(self) -> float | None:
        """When `handle(now)` wants to be called without an event."""
        while self._dues and not self._waits(self._dues[0][2]):
            heapq.heappop(self._dues)
        return self._dues[0][0] if self._dues else None

    def handle(self, now: float, event: Event | None = None) -> list[Effect]:
        """One event, or None for a deadline. `Offer` raises Refused when it would wait too long."""
        model: Digest | None = None
        match event:
            case None:
                pass
            case Offer():
                self._holds.pop(event.task, None)
                self._check_room(now, event.foreign)
                self._check_patience(now, event)
                if event.task in self._running:
                    raise Refused("an earlier run of this task is still ending here", retry_after_s=0.05)
                if self.idle and now < event.deadline and not (event.alone and self._running):
                    wide = not self._running and self.slots > 1 and bool(self.pace(event.model).wide)
                    return [self._begin(now, [event], wide=wide)]
                self._wait(now, event)
                model = event.model
            case Hold(task, model_, hold_s):
                self._holds[task] = (now + hold_s, model_)
                self._forget_holds(now)
            case Finished(task, run_s):
                run = self._end(task)
                if run is not None and run_s is not None:
                    self.done += len(run.offers)
                    if run.wide:
                        self.pace(run.model).learn_wide(run_s)
                    else:
                        self.pace(run.model).learn(run.size, run_s, run.patience_s)
                    model = run.model
            case Again(task, alone):
                run = self._end(task)
                for offer in run.offers if run is not None else ():
                    self._wait(now, replace(offer, key=None, alone=offer.alone or alone, max_wait_s=None))
            case Withdraw(task):
                self._forget(task)
                if (home := self._home.pop(task, None)) is not None:
                    home.offers = [offer for offer in home.offers if offer.task != task]
            case Proven(model_, ok):
                pace = self.pace(model_)
                pace.proven, pace.proving = ok, False
            case Widened(model_, ok, run_s):
                pace = self.pace(model_)
                pace.wide, pace.wide_due = ok, 0 if ok is None else WIDE_AGAIN
                if ok:
                    pace.learn_wide(run_s)
            case Ready(up):
                self.up = up
            case _:
                assert_never(event)
        if not self._waiting:
            return []
        late = self._due(now)
        effects = [*self._expire(now, late), *self._start(now), *self._send_away(now, late)]
        return effects if model is None else [*effects, *self._prove(model)]

    # --- who waits ---

    def _waits(self, offer: Offer) -> bool:
        known = self._waiting.get(offer.task)
        return known is not None and known.offer is offer

    def _ahead(self, foreign: bool) -> int:
        if foreign:
            return len(self._waiting)
        return sum(number for (_, _, theirs), number in self._counts.items() if not theirs)

    def _wait(self, now: float, offer: Offer) -> None:
        start_by = offer.deadline if offer.max_wait_s is None else min(offer.deadline, now + offer.max_wait_s)
        order = next(self._order)
        rank = (offer.foreign, _RANK[offer.priority])
        self._waiting[offer.task] = _Waiting(offer, start_by)
        self._counts[offer.model, offer.key is not None, offer.foreign] += 1
        heapq.heappush(self._heap, (rank, offer.deadline, order, offer))
        if start_by < math.inf:
            heapq.heappush(self._dues, (start_by, order, offer))
        if offer.key is not None:
            kin = self._kin.setdefault((rank, offer.key), _Kin())
            heapq.heappush(kin.line, (offer.deadline, order, offer))
            kin.live += 1
        if len(self._heap) > 2 * len(self._waiting) + STALE_MAX:
            self._heap = [entry for entry in self._heap if self._waits(entry[3])]
            heapq.heapify(self._heap)
            self._dues = [entry for entry in self._dues if self._waits(entry[2])]
            heapq.heapify(self._dues)

    def _forget(self, task: TaskId) -> None:
        known = self._waiting.pop(task, None)
        if known is None:
            return
        offer = known.offer
        what = (offer.model, offer.key is not None, offer.foreign)
        self._counts[what] -= 1
        if not self._counts[what]:
            del self._counts[what]
        if offer.key is not None:
            place = ((offer.foreign, _RANK[offer.priority]), offer.key)
            self._kin[place].live -= 1
            if not self._kin[place].live:
                del self._kin[place]

    def _due(self, now: float) -> list[Offer]:
        """Those that may not wait any longer."""
        late = []
        while (due := self.next_deadline()) is not None and due <= now:
            late.append(heapq.heappop(self._dues)[2])
        return late

    def _expire(self, now: float, late: list[Offer]) -> list[Effect]:
        expired = [offer.task for offer in late if offer.deadline <= now]
        for task in expired:
            self._forget(task)
        return [Expired(task) for task in expired]

    def _send_away(self, now: float, late: list[Offer]) -> list[Effect]:
        overdue = [offer.task for offer in late if self._waits(offer)]
        for task in overdue:
            self._forget(task)
        return [Overdue(task, self.backlog_s(now)) for task in overdue]

    # --- what runs ---

    def _start(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while self.up and self._heap and len(self._running) < self.slots:
            rank, _, _, offer = self._heap[0]
            if not self._waits(offer):
                heapq.heappop(self._heap)
                continue
            if self._one_is_alone or (offer.alone and self._running):
                break
            heapq.heappop(self._heap)
            if len(self._waiting) > 1 and now + self.pace(offer.model).run_s(1) > offer.deadline:
                # It would be in the place of one that can be done in time: of 1,000 runs in an overload 250 came too
                # late. The last one runs, for estimates may be wrong.
                self._forget(offer.task)
                effects.append(Overdue(offer.task, self.backlog_s(now)))
                continue
            together = self._together(rank, offer)
            for each in together:
                self._forget(each.task)
            effects.append(self._begin(now, together))
        assert len(self._running) <= self.slots
        return effects

    def _begin(self, now: float, together: list[Offer], *, wide: bool = False) -> Start:
        first, *mates = together
        patience_s = min([offer.deadline for offer in together]) - now
        run = _Run(together, first.model, first.alone, now, patience_s, len(together), wide)
        self._running[first.task] = run
        for offer in together:
            self._home[offer.task] = run
        return Start(first.task, tuple([offer.task for offer in mates]), wide)

    def _together(self, rank: Rank, first: Offer) -> list[Offer]:
        """The first in line and those that start with it."""
        together = [first]
        if first.key is None or first.alone or (limit := self.pace(first.model).limit) < 2:
            return together
        line = self._kin[rank, first.key].line
        nbytes = first.nbytes
        while line and len(together) < limit:
            other = line[0][2]
            if self._waits(other) and other is not first:
                nbytes += other.nbytes
                if nbytes > BATCH_BYTES:
                    break
                together.append(other)
            heapq.heappop(line)
        return together

    def _end(self, task: TaskId) -> _Run | None:
        run = self._running.pop(task, None)
        for offer in run.offers if run is not None else ():
            del self._home[offer.task]
        return run

    def _prove(self, model: Digest) -> list[Effect]:
        pace = self.pace(model)
        if not pace.worth_proving:
            return []
        for kin in self._kin.values():
            offer = next((entry[2] for entry in kin.line if self._waits(entry[2])), None)
            if kin.live >= 2 and offer is not None and offer.model == model:
                pace.proving = True
                return [Prove(offer.task, model)]
        return []

    # --- who may come ---

    def _check_room(self, now: float, foreign: bool) -> None:
        waiting = self._ahead(foreign)
        if waiting >= self.settings.queue_tasks_max:
            raise Refused(f"{waiting} tasks wait here, the limit", retry_after_s=self._relief_s(now))
        backlog_s = self.backlog_s(now, foreign=foreign)
        if waiting >= self.slots and backlog_s > self.settings.queue_backlog_max_s:
            raise Refused(f"{backlog_s:.1f} s of work wait here, the limit", retry_after_s=self._relief_s(now))

    def _check_patience(self, now: float, offer: Offer) -> None:
        if offer.max_wait_s is not None and (wait_s := self.backlog_s(now, foreign=offer.foreign)) > offer.max_wait_s:
            raise overdue(offer.max_wait_s, wait_s)

    def _relief_s(self, now: float) -> float:
        """When about a quarter of what waits will be done."""
        return min(max(self.backlog_s(now) / 4, 0.005), 1.0)

    def _forget_holds(self, now: float) -> None:
        for task in [task for task, (until, _) in self._holds.items() if until <= now]:
            del self._holds[task]


def overdue(max_wait_s: float | None, backlog_s: float) -> Refused:
    """The refusal of a task that would wait, or waited, longer than its submitter allows or its time does."""
    allowed = "too long to run in its time" if max_wait_s is None else f"longer than {max_wait_s:.3g} s"
    return Refused(
        f"{backlog_s:.3g} s of work wait here, and the task is not to wait {allowed}", retry_after_s=backlog_s
    )
