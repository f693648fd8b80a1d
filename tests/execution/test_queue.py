"""The queue of a worker: what is let in, what runs next, what a quote says. No clock but the one passed in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import Execution
from meshnode.errors import Refused
from meshnode.execution.events import (
    Again,
    Effect,
    Expired,
    Finished,
    Hold,
    Offer,
    Overdue,
    Prove,
    Proven,
    Ready,
    Start,
    Withdraw,
)
from meshnode.execution.queue import BATCH_BYTES, PACES_MAX, TaskQueue
from meshnode.wire.messages import Digest, TaskId

M = Digest("m" * 64)
SETTINGS = Execution()


def task(name: str) -> TaskId:
    return TaskId(name)


def offer(name: str, deadline: float = 100.0, **more: object) -> Offer:
    return Offer(task(name), M, deadline, **more)  # type: ignore[arg-type]


def queue(slots: int = 1, settings: Execution = SETTINGS) -> TaskQueue:
    it = TaskQueue(settings, slots)
    assert [] == it.handle(0.0, Ready(True))
    return it


def test_a_task_runs_at_once_when_a_slot_is_free() -> None:
    """Offered, started, finished."""
    it = queue()
    assert [Start(task("a"))] == it.handle(0.0, offer("a"))
    assert [] == it.handle(1.0, Finished(task("a"), 1.0))
    assert 0 == it.in_flight
    assert 1.0 == it.service_s(M)


def test_priority_comes_first_then_the_earliest_deadline() -> None:
    """High before normal before low, and within one the most urgent."""
    it = queue()
    it.handle(0.0, offer("running"))
    for name, deadline, priority in (("l", 1, "low"), ("n2", 9, "normal"), ("n1", 5, "normal"), ("h", 50, "high")):
        it.handle(0.0, offer(name, deadline, priority=priority))
    order: list[Effect] = []
    last = "running"
    while it.in_flight:
        effects = it.handle(0.5, Finished(task(last), 0.01))
        order += effects
        if not effects:
            break
        last = str(effects[0].task)
    assert ["h", "n1", "n2", "l"] == [effect.task for effect in order]


def test_expired_work_is_never_started() -> None:
    """At its deadline a waiting task is told so, and not run."""
    it = queue()
    it.handle(0.0, offer("a"))
    it.handle(0.0, offer("b", deadline=1.0))
    assert 1.0 == it.next_deadline()
    assert [Expired(task("b"))] == it.handle(1.0)
    assert [] == it.handle(2.0, Finished(task("a"), 2.0))


def test_beyond_the_bounds_it_refuses_with_a_hint() -> None:
    """Too many tasks, or too much work: Refused, with when to come again."""
    it = queue(settings=replace(SETTINGS, queue_tasks_max=2))
    for name in "abc":
        it.handle(0.0, offer(name))
    with pytest.raises(Refused) as caught:
        it.handle(0.0, offer("d"))
    assert caught.value.retry_after_s
    with pytest.raises(Refused):
        it.quote(0.0, M)

    slow = queue()
    slow.handle(0.0, offer("x"))
    slow.handle(3.0, Finished(task("x"), 3.0))
    slow.handle(3.0, offer("a"))
    slow.handle(3.0, offer("b"))
    with pytest.raises(Refused, match="s of work"):
        slow.handle(3.0, offer("c"))


def test_what_killed_a_worker_runs_alone() -> None:
    """A suspect task waits until nothing else runs, and nothing starts beside it."""
    it = queue(slots=2)
    it.handle(0.0, offer("a"))
    assert [] == it.handle(0.0, offer("suspect", deadline=1.0, alone=True))
    assert [Start(task("suspect"))] == it.handle(0.1, Finished(task("a"), 0.1))
    assert [] == it.handle(0.1, offer("b"))
    assert [Start(task("b"))] == it.handle(0.2, Finished(task("suspect"), None))


def test_promises_alone_make_no_quote_longer_than_what_may_wait() -> None:
    """A thousand tasks ask at once: the last is not told of minutes, which would be its end."""
    it = queue()
    it.handle(0.0, offer("a"))
    it.handle(0.3, Finished(task("a"), 0.3))
    for number in range(1000):
        it.handle(0.3, Hold(task(f"h{number}"), M, hold_s=0.05))
    wait_s, _ = it.quote(0.3, M)
    assert SETTINGS.queue_backlog_max_s == wait_s


def test_a_hold_makes_the_next_quote_longer_until_it_runs_out() -> None:
    """Two submitters that ask at once see each other."""
    it = queue()
    first = it.quote(0.0, M)
    it.handle(0.0, Hold(task("a"), M, hold_s=0.05))
    second = it.quote(0.01, M)
    assert second[0] > first[0]
    assert first == it.quote(0.06, M)


def test_a_place_that_nobody_comes_for_is_free_again() -> None:
    """The task went elsewhere: the next one sees an idle node, at once."""
    it = queue()
    idle = it.quote(0.0, M)
    it.handle(0.0, Hold(task("a"), M, hold_s=0.05))
    it.handle(0.001, Hold(task("a"), M, hold_s=0.0))
    assert idle == it.quote(0.001, M)


def test_nothing_starts_while_the_worker_is_away() -> None:
    """Waiting tasks survive their worker and run on the next one."""
    it = queue()
    it.handle(0.0, offer("a"))
    it.handle(0.0, Ready(False))
    it.handle(0.0, Finished(task("a"), None))
    assert [] == it.handle(0.1, offer("b"))
    assert [Start(task("b"))] == it.handle(0.5, Ready(True))


steps = st.lists(
    st.tuples(st.sampled_from(["offer", "finish", "withdraw", "hold", "tick", "down", "up"]), st.integers(0, 7)),
    max_size=60,
)


@given(steps, st.integers(1, 3))
def test_whatever_happens_the_slots_are_kept(course: list[tuple[str, int]], slots: int) -> None:
    """Never more runs than slots, no task started twice or after it was withdrawn, quotes are never negative."""
    it = queue(slots)
    running: set[str] = set()
    waiting: set[str] = set()
    now = 0.0
    for what, number in course:
        now += 0.01
        name = f"t{number}"
        effects: list[Effect] = []
        if what == "offer" and name not in running | waiting:
            try:
                effects = it.handle(now, offer(name, now + 0.2 * (number + 1)))
                waiting.add(name)
            except Refused:
                pass
        elif what == "finish" and name in running:
            running.discard(name)
            effects = it.handle(now, Finished(task(name), 0.01))
        elif what == "withdraw" and name not in running:
            waiting.discard(name)
            effects = it.handle(now, Withdraw(task(name)))
        elif what == "hold":
            effects = it.handle(now, Hold(task(f"h{number}"), M, 0.05))
        elif what in ("down", "up"):
            effects = it.handle(now, Ready(what == "up"))
        else:
            effects = it.handle(now)
        for effect in effects:
            assert effect.task in waiting
            waiting.discard(effect.task)
            if isinstance(effect, Start):
                running.add(effect.task)
        assert len(running) <= slots
        assert it.in_flight == len(running) + len(waiting)
        assert it.backlog_s(now) >= 0


def batching(size: float = 4.0, slots: int = 1, **settings: object) -> TaskQueue:
    """A queue whose model M takes 1 ms and is proven."""
    it = queue(slots, replace(SETTINGS, **settings))  # type: ignore[arg-type]
    it.pace(M).learn(1, 0.001, 30.0)
    it.pace(M).proven, it.pace(M).size = True, size
    return it


def keyed(name: str, deadline: float = 100.0, **more: object) -> Offer:
    return offer(name, deadline, key=more.pop("key", "k"), **more)


def test_what_waits_starts_as_one_when_a_slot_is_free() -> None:
    """The most urgent first, as many as the size says; nothing waits while the slot is free."""
    it = batching()
    assert [Start(task("a"))] == it.handle(0.0, keyed("a"))
    for name, deadline in (("e", 9.0), ("b", 5.0), ("d", 8.0), ("c", 7.0), ("f", 10.0)):
        assert [] == it.handle(0.0, keyed(name, deadline))
    assert [Start(task("b"), (task("c"), task("d"), task("e")))] == it.handle(0.1, Finished(task("a"), 0.001))
    assert 4 == it.running(M)
    assert 5 == it.in_flight
    assert [Start(task("f"))] == it.handle(0.2, Finished(task("b"), 0.002))
    assert 5 == it.done


def test_only_what_belongs_together_runs_together() -> None:
    """Not with another key, another priority, the work of others, or without a key; never beyond the bytes."""
    it = batching(size=8.0)
    it.handle(0.0, keyed("a"))
    for name, more in (
        ("n1", {}),
        ("high", {"priority": "high"}),
        ("other", {"key": "other", "deadline": 101.0}),
        ("once", {"key": None, "deadline": 102.0}),
        ("theirs", {"foreign": True, "deadline": 1.0}),
        ("n2", {}),
        ("large", {"nbytes": BATCH_BYTES + 1, "deadline": 103.0}),
    ):
        it.handle(0.0, keyed(name, **more))
    order, last = [], "a"
    while started := it.handle(0.1, Finished(task(last), 0.001)):
        (start,) = started
        assert isinstance(start, Start)
        order.append((start.task, *start.mates))
        last = start.task
    assert [("high",), ("n1", "n2"), ("other",), ("once",), ("large",), ("theirs",)] == order


def test_a_proof_is_wanted_when_two_wait_together() -> None:
    """Once, after the first run told that the model is quick; what it says is kept."""
    it = queue()
    it.handle(0.0, keyed("a"))
    assert [] == it.handle(0.0, keyed("b"))
    assert [] == it.handle(0.0, keyed("c")), "nobody knows yet how long a run takes"
    assert [Start(task("b"))] == it.handle(0.1, Finished(task("a"), 0.001)), "only one waits now"
    assert [Prove(task("c"), M)] == it.handle(0.1, keyed("d"))
    assert [] == it.handle(0.1, keyed("e"))
    assert [] == it.handle(0.2, Proven(M, True))
    assert [Start(task("c"), (task("d"),))] == it.handle(0.3, Finished(task("b"), 0.001))
    never = batching()
    never.handle(0.0, Proven(M, False))
    for name in "abc":
        never.handle(0.0, keyed(name))
    assert [Start(task("b"))] == never.handle(0.1, Finished(task("a"), 0.001))


def test_a_batch_that_failed_is_run_one_by_one() -> None:
    """Each waits again on its own; after a death with nothing beside it; who left does not come back."""
    it = batching(slots=2)
    it.up = False
    for name in "abc":
        it.handle(0.0, keyed(name))
    assert [Start(task("a"), (task("b"), task("c")))] == it.handle(0.0, Ready(True))
    it.handle(0.0, Withdraw(task("b")))
    assert [Start(task("a")), Start(task("c"))] == it.handle(0.1, Again(task("a"), alone=False))
    assert 2 == it.in_flight

    dead = batching(slots=2)
    dead.up = False
    for name in "ab":
        dead.handle(0.0, keyed(name))
    dead.handle(0.0, Ready(True))
    dead.handle(0.1, Ready(False))
    assert [] == dead.handle(0.1, Again(task("a"), alone=True))
    assert [Start(task("a"))] == dead.handle(0.2, Ready(True))
    assert [Start(task("b"))] == dead.handle(0.3, Finished(task("a"), None))


def test_a_quote_counts_what_runs_as_one_once() -> None:
    """The backlog of twenty tasks in batches of eight is that of three runs."""
    it = batching(size=8.0)
    it.pace(M).learn(8, 0.004, 30.0)
    it.pace(M).size = 8.0
    it.handle(0.0, keyed("running"))
    for i in range(20):
        it.handle(0.0, keyed(f"t{i}"))
    assert pytest.approx(0.001 + 3 * 0.004) == it.backlog_s(0.0)


def test_who_would_wait_longer_than_allowed_is_refused_with_a_hint() -> None:
    """At once, by the backlog; and later, when it took longer than was believed."""
    it = queue()
    it.pace(M).learn(1, 0.1, 30.0)
    assert [Start(task("a"))] == it.handle(0.0, offer("a", max_wait_s=0.0))
    with pytest.raises(Refused) as caught:
        it.handle(0.0, offer("b", max_wait_s=0.05))
    assert pytest.approx(0.1) == caught.value.retry_after_s
    assert 1 == it.in_flight
    assert [] == it.handle(0.0, offer("c", max_wait_s=0.2))
    assert 0.2 == it.next_deadline()
    (overdue,) = it.handle(0.2)
    assert isinstance(overdue, Overdue)
    assert task("c") == overdue.task
    assert overdue.backlog_s > 0


def test_who_cannot_be_done_in_time_gives_way_to_those_who_can() -> None:
    """It is sent away when its turn comes and others wait; the last one runs, whatever is believed of the model."""
    it = queue()
    it.pace(M).learn(1, 0.4, 30.0)
    it.handle(0.0, offer("a"))
    for name, deadline in (("b", 0.5), ("c", 0.7), ("d", 2.0)):
        it.handle(0.0, offer(name, deadline))
    effects = it.handle(0.4, Finished(task("a"), 0.4))
    assert [Overdue(task("b"), pytest.approx(0.8)), Overdue(task("c"), pytest.approx(0.4)), Start(task("d"))] == effects
    it.handle(0.4, offer("e", deadline=1.1))
    assert [Start(task("e"))] == it.handle(0.8, Finished(task("d"), 0.4))


def test_own_work_comes_before_that_of_others() -> None:
    """In the queue, and in who may come: a queue full of others' work refuses no own task."""
    it = queue(settings=replace(SETTINGS, queue_tasks_max=2))
    it.handle(0.0, offer("a", foreign=True))
    for name in "bc":
        it.handle(0.0, offer(name, foreign=True, priority="high"))
    with pytest.raises(Refused):
        it.handle(0.0, offer("d", foreign=True))
    with pytest.raises(Refused):
        it.quote(0.0, M, foreign=True)
    assert it.quote(0.0, M)[0] < it.backlog_s(0.0)
    assert [] == it.handle(0.0, offer("own", priority="low"))
    assert [Start(task("own"))] == it.handle(0.1, Finished(task("a"), 0.1))


def test_a_task_that_still_ends_here_is_not_let_in_again() -> None:
    """Withdrawn while it ran, and offered anew before its worker let go: refused for a moment."""
    it = queue(slots=2)
    it.handle(0.0, offer("a"))
    it.handle(0.0, Withdraw(task("a")))
    assert 0 == it.in_flight
    with pytest.raises(Refused, match="still ending"):
        it.handle(0.0, offer("a"))
    it.handle(0.1, Finished(task("a"), None))
    assert [Start(task("a"))] == it.handle(0.1, offer("a"))


def test_what_was_withdrawn_takes_no_room() -> None:
    """A thousand withdrawn tasks behind a long run leave next to nothing behind."""
    it = queue(settings=replace(SETTINGS, queue_tasks_max=10_000, queue_backlog_max_s=1e6))
    it.handle(0.0, keyed("running"))
    for i in range(3000):
        it.handle(0.0, keyed(f"t{i}"))
        it.handle(0.0, Withdraw(task(f"t{i}")))
    assert len(it._heap) < 1000
    assert len(it._dues) < 1000
    assert {} == it._kin
    assert 1 == it.in_flight


def test_what_is_known_of_models_is_bounded() -> None:
    """Models come and go for years; the one that was known first is the one that is learnt anew."""
    it = queue()
    for number in range(PACES_MAX + 1):
        model = Digest(f"{number:064x}")
        it.handle(0.0, Offer(task("a"), model, 100.0))
        it.handle(1.0, Finished(task("a"), 1.0))
    assert it.service_s(Digest(f"{0:064x}")) is None
    assert 1.0 == it.service_s(Digest(f"{1:064x}")) == it.service_s(model)
