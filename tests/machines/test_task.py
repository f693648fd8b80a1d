"""The life of a task among nodes that run it, refuse it, die and fall silent, against a count of what really ran."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshnode.errors import (
    ExecutionFailed,
    MeshError,
    NoCapacity,
    PeerLost,
    PeerSilent,
    Refused,
    ResultLost,
    UnknownTask,
    WorkerCrashed,
)
from meshnode.tasks.budget import Budget
from meshnode.tasks.lifecycle import Lifecycle
from meshnode.tasks.moves import (
    Abandon,
    Answer,
    Begin,
    Cancel,
    Chosen,
    Effect,
    Event,
    Fail,
    Failed,
    Recall,
    Replied,
    Route,
    Send,
    State,
    Unroutable,
)
from meshnode.wire.messages import NodeId

NODES = tuple(NodeId(letter * 52) for letter in "abcd")
DEADLINE_S = 20.0
ATTEMPTS = 3
SELDOM = st.sampled_from([False, False, False, True])


class Life(RuleBasedStateMachine):
    """Of each attempt the model knows where it is, whether that node has begun it, and who still waits for it."""

    @initialize(once=st.booleans(), tokens=st.sampled_from([0.0, 1.0, 10.0]))
    def begin(self, once: bool, tokens: float) -> None:
        self.now, self.once = 0.0, once
        self.life = Lifecycle(DEADLINE_S, ATTEMPTS, 0.025, lambda: 0.5, Budget(tokens=tokens), once=once)
        self.route: frozenset[NodeId] | None = None
        self.sent: dict[int, NodeId] = {}
        """Attempts that have no end yet, as the submitter is told."""
        self.recalled: set[int] = set()
        self.began: set[int] = set()
        """Attempts that a node may have begun."""
        self.deaths = 0
        self.ends: list[Effect] = []
        self.tell(Begin())

    def tell(self, event: Event | None) -> None:
        over = bool(self.ends)
        for effect in self.life.handle(self.now, event):
            assert not over, "something is done for a task that is over"
            match effect:
                case Route(exclude):
                    self.route = exclude
                case Send():
                    assert effect.node not in self.sent.values(), "two copies on one node"
                    assert effect.deaths == self.deaths < 2, "it goes on killing"
                    assert effect.number <= ATTEMPTS
                    assert 0 < effect.remaining_s <= DEADLINE_S
                    assert not (self.once and self.began), "it may run twice"
                    self.sent[effect.attempt] = effect.node
                    self.began.add(effect.attempt)
                case Recall():
                    self.recalled.add(effect.attempt)
                    self.sent[effect.attempt] = effect.node
                case Answer() | Fail():
                    self.ends.append(effect)
                case Abandon():
                    pass
                case _:
                    raise AssertionError(effect)
        assert len(self.ends) <= 1
        assert bool(self.ends) == (self.life.state is State.DONE)

    @precondition(lambda self: self.route is not None and not self.ends)
    @rule(data=st.data(), late_s=st.sampled_from([None, 0.1]))
    def chosen(self, data: st.DataObject, late_s: float | None) -> None:
        assert self.route is not None
        free = [node for node in NODES if node not in self.route and node not in self.sent.values()]
        self.route = None
        if free:
            self.tell(Chosen(data.draw(st.sampled_from(free)), "n", late_s))
        else:
            self.tell(Unroutable(NoCapacity("all were tried"), final=False))

    @precondition(lambda self: self.route is not None and not self.ends)
    @rule(retry_after_s=st.sampled_from([None, 0.5, 1e300]), seldom=SELDOM)
    def nobody(self, retry_after_s: float | None, seldom: bool) -> None:
        if not seldom:
            return
        self.route = None
        self.tell(Unroutable(NoCapacity("nobody", retry_after_s=retry_after_s), final=False))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), seldom=SELDOM)
    def replied(self, data: st.DataObject, seldom: bool) -> None:
        if not seldom:
            return  # most tasks are to have a hard life
        attempt = data.draw(st.sampled_from(sorted(self.sent)))
        del self.sent[attempt]
        over = bool(self.ends)
        self.tell(Replied(attempt, f"result of {attempt}"))
        assert over or isinstance(self.ends[0], Answer), "a result in hand was thrown away"

    @precondition(lambda self: self.sent and not self.ends)
    @rule(
        data=st.data(),
        make=st.sampled_from([Refused, WorkerCrashed, UnknownTask, ResultLost, ExecutionFailed, PeerLost, PeerSilent]),
        unsent=st.booleans(),
    )
    def failed(self, data: st.DataObject, make: type[MeshError], unsent: bool) -> None:
        attempt = data.draw(st.sampled_from(sorted(self.sent)))
        error = make("no")
        asked_again = attempt in self.recalled
        if isinstance(error, PeerLost):
            error.sent = not unsent
        if isinstance(error, UnknownTask | ResultLost) and not asked_again:
            return  # only who is asked for a result says so
        if isinstance(error, Refused) and asked_again:
            return
        unreached = isinstance(error, PeerLost) and unsent and not asked_again
        if error.untouched or unreached:
            self.began.discard(attempt)
        del self.sent[attempt]
        self.deaths += isinstance(error, WorkerCrashed) and not self.ends
        self.tell(Failed(attempt, error))

    @precondition(lambda self: not self.ends)
    @rule(seldom=SELDOM)
    def cancel(self, seldom: bool) -> None:
        if seldom and self.now > 1.0:
            self.tell(Cancel())
            assert self.ends

    @precondition(lambda self: self.route is None or self.ends)
    @rule(wait_s=st.sampled_from([0.0, 0.01, 0.03, 0.2, 0.8, 3.0]))
    def tick(self, wait_s: float) -> None:
        end = self.now + wait_s
        for _ in range(100):
            due = self.life.next_deadline()
            if due is None or due > end or self.route is not None:
                break
            self.now = max(self.now, due)
            self.tell(None)
        self.now = end
        self.tell(None)

    @invariant()
    def it_ends(self) -> None:
        if not hasattr(self, "life"):
            return
        assert (self.life.next_deadline() is None) == bool(self.ends)
        assert self.life.budget.tokens >= 0
        if self.now >= DEADLINE_S:
            assert self.ends, "its time is over and nobody was told"
        elif not self.ends and self.route is None:
            due = self.life.next_deadline()
            assert due is not None
            assert due <= DEADLINE_S


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
