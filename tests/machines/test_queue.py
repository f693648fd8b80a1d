"""The queue of a worker against a list: nobody is lost, run twice, run late, or overtaken by somebody of lower rank."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshnode.config import Execution
from meshnode.errors import Refused
from meshnode.execution.events import (
    Effect,
    Expired,
    Finished,
    Hold,
    Offer,
    Overdue,
    Prove,
    Ready,
    Start,
    Withdraw,
)
from meshnode.execution.queue import TaskQueue
from meshnode.wire.messages import Digest, Priority, TaskId

M = Digest("m" * 64)
SELDOM = st.sampled_from([False, False, False, True])
RANKS: tuple[Priority, ...] = ("high", "normal", "low")


@dataclass
class Waiting:
    """What the model knows of a task that was let in."""

    rank: int
    deadline: float
    foreign: bool
    alone: bool


class Queue(RuleBasedStateMachine):
    """See the module's docstring."""

    @initialize(slots=st.integers(1, 3))
    def begin(self, slots: int) -> None:
        self.now, self.count, self.slots, self.up = 0.0, 0, slots, True
        self.waiting: dict[TaskId, Waiting] = {}
        self.running: set[TaskId] = set()
        self.queue = TaskQueue(Execution(), slots)
        self.heard(self.queue.handle(0.0, Ready(True)))

    def heard(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(name, mates):
                    assert self.up
                    assert () == mates, "nothing was proven"
                    it = self.waiting.pop(name)
                    assert self.now < it.deadline, "work is begun of which nobody wants the end"
                    better = [other for other in self.waiting.values() if other.rank < it.rank and not other.foreign]
                    assert it.foreign or it.alone or not [other for other in better if not other.alone]
                    self.running.add(name)
                case Expired(name):
                    assert self.waiting.pop(name).deadline <= self.now
                case Overdue(name):
                    del self.waiting[name]
                case Prove():
                    raise AssertionError("no task can run with others")

    @rule(
        ranks=st.lists(st.integers(0, 2), min_size=1, max_size=5),
        life_s=st.sampled_from([0.05, 60.0, 60.0]),
        foreign=SELDOM,
        alone=SELDOM,
        max_wait_s=st.sampled_from([None, None, None, 0.01]),
    )
    def offers(self, ranks: list[int], life_s: float, foreign: bool, alone: bool, max_wait_s: float | None) -> None:
        for rank in ranks:
            self.offer(rank, life_s, foreign=foreign, alone=alone, max_wait_s=max_wait_s)

    def offer(self, rank: int, life_s: float, *, foreign: bool, alone: bool, max_wait_s: float | None) -> None:
        self.count += 1
        name = TaskId(f"t{self.count}")
        self.waiting[name] = Waiting(rank, self.now + life_s, foreign, alone)
        given = Offer(*(name, M, self.now + life_s, RANKS[rank]), alone=alone, foreign=foreign, max_wait_s=max_wait_s)
        try:
            effects = self.queue.handle(self.now, given)
        except Refused:
            del self.waiting[name]
        else:
            self.heard(effects)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), took_s=st.sampled_from([None, 0.001, 0.3]))
    def finish(self, data: st.DataObject, took_s: float | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(name)
        self.heard(self.queue.handle(self.now, Finished(name, took_s)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), seldom=SELDOM)
    def withdraw(self, data: st.DataObject, seldom: bool) -> None:
        if not seldom:
            return
        name = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[name]
        self.heard(self.queue.handle(self.now, Withdraw(name)))

    @rule(hold_s=st.sampled_from([0.01, 1.0]))
    def hold(self, hold_s: float) -> None:
        self.count += 1
        self.heard(self.queue.handle(self.now, Hold(TaskId(f"h{self.count}"), M, hold_s)))

    @rule(seldom=SELDOM)
    def turn(self, seldom: bool) -> None:
        """The worker goes away, or comes back."""
        if self.up and not seldom:
            return
        self.up = not self.up
        self.heard(self.queue.handle(self.now, Ready(self.up)))

    @rule(wait_s=st.sampled_from([0.001, 0.01, 0.05, 2.0]))
    def tick(self, wait_s: float) -> None:
        """Time passes, and every deadline on the way is kept."""
        end = self.now + wait_s
        for _ in range(1000):
            due = self.queue.next_deadline()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.heard(self.queue.handle(self.now))
        else:
            raise AssertionError("a deadline comes again and again")
        self.now = end
        self.heard(self.queue.handle(self.now))

    @invariant()
    def all_are_there(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert len(self.running) + len(self.waiting) == self.queue.in_flight
        assert len(self.running) <= self.slots
        idle = self.up and not self.running
        assert not (idle and self.waiting), "somebody waits for nothing"
        late = [it for it in self.waiting.values() if it.deadline < self.now]
        assert not late, "somebody waits who should have been told"


Queue.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestQueue = Queue.TestCase
