"""What is learnt of a model's speed, and how many of its tasks run as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.execution.pace import TARGET_S, Pace


def proven(size_max: int = 32) -> Pace:
    it = Pace(0.05, size_max)
    it.learn(1, 0.001, 30.0)
    it.proven = True
    return it


def test_unproven_runs_one_by_one() -> None:
    """Until somebody proved it, and where the setting says 1."""
    assert 1 == Pace(0.05, 32).limit
    one = Pace(0.05, 1)
    one.learn(1, 0.001, 30.0)
    one.proven = True
    assert 1 == one.limit
    assert not one.worth_proving


def test_only_what_is_quick_is_worth_a_proof() -> None:
    """Two runs within the target; known only after the first run; and asked once."""
    it = Pace(0.05, 32)
    assert not it.worth_proving
    it.learn(1, TARGET_S / 2, 30.0)
    assert it.worth_proving
    it.proving = True
    assert not it.worth_proving
    slow = Pace(0.05, 32)
    slow.learn(1, TARGET_S, 30.0)
    assert not slow.worth_proving


def test_the_size_grows_by_one_and_shrinks_by_a_tenth() -> None:
    """Full batches within the target add a task; one beyond takes a tenth; one that was not full says nothing."""
    it = proven(8)
    it.size = 4.0
    it.learn(4, 0.01, 30.0)
    assert 5.0 == it.size
    it.learn(3, 0.01, 30.0)
    assert 5.0 == it.size
    it.learn(5, TARGET_S * 1.1, 30.0)
    assert 4.5 == it.size
    assert 4 == it.limit
    for _ in range(20):
        it.learn(it.limit, 0.01, 30.0)
    assert 8 == it.limit


def test_an_urgent_task_makes_batches_smaller() -> None:
    """The target is also a quarter of what the most urgent task had left."""
    it = proven()
    it.size = 10.0
    it.learn(10, 0.02, 0.079)
    assert 9.0 == it.size
    it.learn(9, 0.02, 0.081)
    assert 10.0 == it.size


def test_what_waits_costs_what_its_batches_cost() -> None:
    """ceil(queued / B) runs of B; one by one before the proof."""
    it = proven()
    it.size = 8.0
    it.learn(8, 0.004, 30.0)
    assert 9 == it.limit
    it.size = 8.0
    assert 0.001 == it.run_s(1)
    assert 0.004 == it.run_s(8)
    assert pytest.approx(3 * 0.004) == it.work_s(20)
    assert pytest.approx(0.0005) == it.marginal_s
    it.proven = False
    assert pytest.approx(20 * 0.001) == it.work_s(20)


def test_a_size_never_seen_is_believed_to_gain_nothing() -> None:
    """As long as one after the other, but no longer than a larger batch took; the prior before any run."""
    assert pytest.approx(0.15) == Pace(0.05, 32).run_s(3)
    it = proven()
    assert pytest.approx(0.016) == it.run_s(16)
    it.learn(32, 0.008, 30.0)
    assert pytest.approx(0.008) == it.run_s(16)
    assert 0.001 == it.service_s


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 10), st.floats(0, 100)), max_size=50), st.integers(1, 64))
def test_whatever_is_learnt_the_size_keeps_its_bounds(course: list[tuple[int, float, float]], size_max: int) -> None:
    """From 1 to the setting; estimates are positive and finite, more work never takes less time by runs."""
    it = Pace(0.05, size_max, proven=True)
    for number, run_s, patience_s in course:
        it.learn(number, run_s, patience_s)
        assert 1 <= it.limit <= size_max
        assert 0 < it.marginal_s < 1e3
        assert 0 == it.work_s(0)
        assert it.work_s(1) > 0
