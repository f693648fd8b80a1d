"""The queue of a worker: what is let in, what runs next, what a quote says. No clock but the one passed in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import Execution
from meshnode.errors import Refused
from meshnode.execution.queue import Effect, Expired, Finished, Hold, Offer, Ready, Start, TaskQueue, Withdraw
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


def test_a_hold_makes_the_next_quote_longer_until_it_runs_out() -> None:
    """Two submitters that ask at once see each other."""
    it = queue()
    first = it.quote(0.0, M)
    it.handle(0.0, Hold(task("a"), M, hold_s=0.05))
    second = it.quote(0.01, M)
    assert second[0] > first[0]
    assert first == it.quote(0.06, M)


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
        elif what == "withdraw":
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
