"""Where work went, second by second."""

from __future__ import annotations

import pytest

from meshnode.tasks.flow import SECONDS, Flow
from tests.tasks.around import ANN, BOB


def test_seconds_are_told_when_they_are_over() -> None:
    """By node, with percentiles; an empty one is left out."""
    flow = Flow()
    for number in range(100):
        flow.answered(5.0 + number / 200, ANN if number % 4 else BOB, 0.010 if number < 99 else 0.500)
    flow.failed(5.9)
    flow.served(7.5, BOB)
    assert [] == list(flow.seconds(5.99))
    assert [5] == [number for number, _ in flow.seconds(7.9)]
    (five, first), (seven, second) = ((number, it.document()) for number, it in flow.seconds(8.0))
    assert (5, {ANN: 75, BOB: 25}, 1) == (five, first["went"], first["failed"])
    assert pytest.approx(10, rel=0.05) == first["p50_ms"]
    assert pytest.approx(10, rel=0.05) == first["p99_ms"]
    assert (7, {"came": {BOB: 1}}) == (seven, second)


def test_a_slow_tail_is_seen() -> None:
    """Two of a hundred are the 99th percentile."""
    flow = Flow()
    for number in range(100):
        flow.answered(5.0, ANN, 0.001 if number < 98 else 2.0)
    [(_, it)] = flow.seconds(6.0)
    assert pytest.approx(0.001, rel=0.05) == it.percentile_s(0.5)
    assert pytest.approx(2.0, rel=0.05) == it.percentile_s(0.99)


def test_two_minutes_are_kept() -> None:
    """However long it runs."""
    flow = Flow()
    for number in range(10 * SECONDS):
        flow.answered(number, ANN, 0.0)
    numbers = [number for number, _ in flow.seconds(10.0 * SECONDS)]
    assert SECONDS == len(numbers)
    assert len(flow._kept) <= SECONDS + 2


def test_time_that_stands_still_is_one_second() -> None:
    """A clock that goes back makes no second twice."""
    flow = Flow()
    flow.answered(9.0, ANN, 0.1)
    flow.answered(8.0, ANN, 0.1)
    assert [(9, {ANN: 2})] == [(number, it.went) for number, it in flow.seconds(10.0)]
