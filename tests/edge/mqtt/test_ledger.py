"""Each task once, each answer once."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshnode.edge.mqtt.ledger import KEPT_BYTES_MAX, KEPT_MAX, KEPT_S, QUIET_S, TAKEN_MAX_S, Ledger, Turn

A, B = "a" * 32, "b" * 32


def test_a_task_is_run_by_its_first_message() -> None:
    """The others wait for it, or for its answer, or are silent once the broker has that."""
    it = Ledger()
    assert Turn.RUN is it.arrived(0, A, again=False, session=1)
    assert Turn.WAIT is it.arrived(0, A, again=True, session=1)
    it.ended(1, A, "answer", 6)
    assert Turn.AGAIN is it.arrived(1, A, again=True, session=1), "the broker does not have it yet"
    it.settled(1, A, 1)
    assert Turn.SILENT is it.arrived(1, A, again=True, session=1)
    assert Turn.SILENT is it.arrived(1 + QUIET_S - 0.1, A, again=False, session=1)


def test_who_asks_again_is_answered_again() -> None:
    """After a while; or at once when the broker began anew and may have lost the answer. It is never run twice."""
    it = Ledger()
    it.arrived(0, A, again=False, session=1)
    it.ended(0, A, "answer", 6)
    it.settled(0, A, 1)
    assert Turn.AGAIN is it.arrived(QUIET_S, A, again=False, session=1)
    assert Turn.AGAIN is it.arrived(1, A, again=False, session=2)
    assert Turn.SILENT is it.arrived(1, A, again=True, session=2), "a broker that delivers again has forgotten nothing"
    assert "answer" == it.answer(A)


def test_another_nodes_task_is_left_to_it() -> None:
    """For as long as it said, at most; and taken over when it is gone."""
    it = Ledger()
    it.taken(0, A, "other", 10)
    assert (Turn.ELSEWHERE, "other") == (it.arrived(1, A, again=False, session=1), it.owner(1, A))
    it.taken(0, B, "other", 1e9)
    assert Turn.RUN is it.arrived(11, A, again=False, session=1)
    assert Turn.RUN is it.arrived(TAKEN_MAX_S + 1, B, again=False, session=1)
    it.taken(12, A, "other", 10)
    assert Turn.WAIT is it.arrived(12, A, again=False, session=1), "what runs here runs here"
    it.given_up(A)
    it.taken(20, A, "other", 10)
    it.take_over(A)
    assert Turn.WAIT is it.arrived(21, A, again=False, session=1)


class Kept(RuleBasedStateMachine):
    """Any order of messages, ends and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.it = Ledger()
        self.now = 0.0
        self.open: set[str] = set()
        self.ended_at: dict[str, float] = {}

    @rule(task=st.integers(0, 20).map(str), again=st.booleans(), session=st.integers(1, 3))
    def arrive(self, task: str, again: bool, session: int) -> None:
        turn = self.it.arrived(self.now, task, again=again, session=session)
        kept = task in self.ended_at and self.ended_at[task] + KEPT_S > self.now
        assert (turn is Turn.WAIT) == (task in self.open)
        if turn is Turn.RUN:
            assert not kept
            self.open.add(task)
        elif turn is not Turn.WAIT:
            assert kept

    @rule(task=st.integers(0, 20).map(str), session=st.integers(1, 3), size=st.integers(0, 1000))
    def end(self, task: str, session: int, size: int) -> None:
        if task in self.open:
            self.it.ended(self.now, task, task, size)
            self.it.settled(self.now, task, session)
            self.open.discard(task)
            self.ended_at[task] = self.now

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def its_bytes_are_those_it_keeps(self) -> None:
        assert self.it.bytes == sum(entry.nbytes for entry in self.it._kept.values())


TestKept = Kept.TestCase


def test_what_is_kept_is_bounded() -> None:
    """In number and in bytes: a client cannot fill this node's memory with answers."""
    it = Ledger()
    for i in range(KEPT_MAX + 50):
        it.arrived(0, str(i), again=False, session=1)
        it.ended(0, str(i), i, 1)
        it.taken(0, f"o{i}", "other", 10)
    assert (KEPT_MAX, KEPT_MAX) == (len(it._kept), len(it._elsewhere))
    it.arrived(0, A, again=False, session=1)
    it.ended(0, A, "big", KEPT_BYTES_MAX)
    assert [A] == list(it._kept)
