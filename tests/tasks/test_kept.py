"""What a node remembers of tasks that ended here: for how long, how much, for whom."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import InvalidInput, Refused, ResultLost, WorkerCrashed
from meshnode.tasks.kept import KNOWN_MAX, KNOWN_S, RESULT_BYTES_MAX, RESULT_S, Kept
from meshnode.wire.messages import Infer, NodeId, TaskId, TensorSpec
from tests.tasks.around import ANN, BOB, MODEL

BODY = memoryview(b"abc")


def infer(task: int = 1, attempt: int = 1, **fields: Any) -> Infer:
    given: dict[str, Any] = {"model": MODEL.digest, "deadline_s": 30.0, "inputs": ()}
    return Infer(task=f"{task:032x}", attempt=attempt, **(given | fields))


def keep(kept: Kept, now: float, message: Infer, nbytes: int = 10, result: Any = "result") -> None:
    kept.ended(now, message, BODY, {ANN}, result=result, nbytes=nbytes)


def test_a_result_is_kept_for_half_a_minute_and_its_task_known_for_two() -> None:
    """Whoever asks keeps it for as long again; afterwards the task runs anew."""
    kept = Kept()
    keep(kept, 0.0, infer())
    assert "result" == kept.repeat(29.0, infer(), BODY, ANN)
    assert "result" == kept.repeat(58.0, infer(), BODY, ANN)
    assert 58.0 + RESULT_S == kept.next_deadline()
    assert None is kept.repeat(89.0, infer(), BODY, ANN)
    assert 0 == kept.bytes
    assert None is kept.next_deadline()
    assert kept.find(119.0, TaskId(infer().task)) is not None
    assert kept.find(KNOWN_S, TaskId(infer().task)) is None


def test_what_may_run_once_is_known_until_its_own_time_is_over() -> None:
    """Its result is gone, or it failed: it is said so, and the task does not run again."""
    kept = Kept()
    keep(kept, 0.0, infer(1, once=True, deadline_s=500.0))
    kept.ended(0.0, infer(2, once=True), BODY, {ANN}, error=WorkerCrashed("signal 9"))
    kept.ended(0.0, infer(3), BODY, {ANN}, error=WorkerCrashed("signal 9"))
    with pytest.raises(WorkerCrashed):
        kept.repeat(1.0, infer(2, once=True), BODY, ANN)
    assert None is kept.repeat(1.0, infer(3), BODY, ANN)
    with pytest.raises(ResultLost):
        kept.repeat(499.0, infer(1, once=True, deadline_s=500.0), BODY, ANN)
    assert None is kept.repeat(500.0, infer(1, once=True), BODY, ANN)


def test_results_stay_within_their_bytes() -> None:
    """The one not asked for the longest leaves first; one that is too large alone is not kept and drives nobody out."""
    kept = Kept()
    for task in range(4):
        keep(kept, 0.0, infer(task), nbytes=RESULT_BYTES_MAX // 4 - BODY.nbytes)
    assert "result" == kept.repeat(1.0, infer(0), BODY, ANN)
    keep(kept, 1.0, infer(4), nbytes=100)
    assert [True, False, True, True, True] == [
        kept.repeat(1.0, infer(task), BODY, ANN) is not None for task in range(5)
    ]
    before = kept.bytes
    keep(kept, 1.0, infer(5), nbytes=RESULT_BYTES_MAX)
    assert before == kept.bytes
    assert None is kept.repeat(1.0, infer(5), BODY, ANN)


def test_ten_thousand_tasks_are_known() -> None:
    """The oldest are forgotten; of those that may run once none is, and no more are taken."""
    kept = Kept()
    for task in range(KNOWN_MAX + 5):
        keep(kept, 0.0, infer(task), nbytes=0)
    known = [kept.find(1.0, TaskId(infer(task).task)) is not None for task in range(KNOWN_MAX + 5)]
    assert [False] * 5 + [True] * KNOWN_MAX == known
    for task in range(KNOWN_MAX):
        kept.check_room()
        keep(kept, 1.0, infer(task, once=True), nbytes=0)
    with pytest.raises(Refused, match="limit"):
        kept.check_room()


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"model": "f" * 64}, BODY),
        ({"inputs": (TensorSpec("x", "float", (1,), 4),)}, BODY),
        ({"outputs": ("y",)}, BODY),
        ({"zone": "eu"}, BODY),
        ({"provider": "CPUExecutionProvider"}, BODY),
        ({}, memoryview(b"abd")),
        ({}, memoryview(b"abcd")),
    ],
)
def test_a_task_id_stands_for_one_task(fields: dict[str, Any], body: memoryview) -> None:
    """Nobody gets another's result, or a wrong one, by using its id."""
    kept = Kept()
    keep(kept, 0.0, infer())
    with pytest.raises(InvalidInput, match="another task"):
        kept.repeat(1.0, infer(**fields), body, BOB)
    assert "result" == kept.repeat(1.0, infer(attempt=2, deadline_s=3.0, deaths=1), memoryview(b"abc"), BOB)


def test_a_task_that_was_given_up_does_not_begin() -> None:
    """Not this attempt nor an earlier one, of that submitter; a later one is a new decision."""
    kept = Kept()
    kept.give_up(0.0, ANN, TaskId(infer().task), 2)
    assert [True, True, False] == [kept.is_given_up(1.0, ANN, infer(attempt=attempt)) for attempt in (1, 2, 3)]
    assert not kept.is_given_up(1.0, BOB, infer())
    assert not kept.is_given_up(KNOWN_S, ANN, infer())


steps = st.lists(
    st.tuples(st.floats(0, 40), st.integers(0, 6), st.booleans(), st.integers(0, RESULT_BYTES_MAX // 3)), max_size=60
)


@given(steps)
def test_whatever_comes_the_table_keeps_its_bounds(given_steps: list[tuple[float, int, bool, int]]) -> None:
    """Bytes are counted right and bounded, nothing is kept beyond its time, and a result is always the task's own."""
    kept, now = Kept(), 0.0
    last: dict[int, float] = {}
    owner: NodeId = ANN
    for pause, task, ends, nbytes in given_steps:
        now += pause
        if ends:
            keep(kept, now, infer(task), nbytes, result=f"result {task}")
            last[task] = now
        else:
            found = kept.repeat(now, infer(task), BODY, owner)
            assert found in (None, f"result {task}")
            if found is not None:
                assert now < last[task] + RESULT_S
                last[task] = now
        results = kept._results.values()
        assert sum(it.nbytes for it in results) == kept.bytes <= RESULT_BYTES_MAX
        due = kept.next_deadline()
        assert due is None or now < due <= now + RESULT_S
    kept.expire(now + KNOWN_S)
    assert (0, None) == (kept.bytes, kept.next_deadline())
    assert not kept._known
