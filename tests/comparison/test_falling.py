"""What a user saw of a kill, by the times of his requests."""

from __future__ import annotations

import pytest

from scripts.bench.comparison.falling import Seen, said


class Clock:
    """Moves when it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_gap_is_the_longest_silence_after_the_kill() -> None:
    """Answers before do not count, nor the way from the last answer before to the kill; the end of the load does."""
    clock = Clock()
    seen = Seen(clock)
    for number, at in enumerate([1.0, 2.0, 4.5, 5.0, 12.0]):
        if at > 4.0 and number == 2:
            clock.now = 4.0
            seen.killed()
        clock.now = at - 0.25
        seen.asked(number)
        clock.now = at
        seen.answered(number)
    clock.now = 13.0
    seen.ended()
    figures = seen.figures()
    assert 7.0 == figures["gap_s"]
    assert 0.5 == figures["before_rate"]
    assert 0.5 == figures["last_rate"]
    assert 0.25 == figures["slowest_s"]


def test_silence_to_the_end_is_a_gap_too() -> None:
    """Who never answers again has a gap as long as the load, and no rate."""
    clock = Clock()
    seen = Seen(clock)
    clock.now = 1.0
    seen.killed()
    clock.now = 9.0
    seen.ended()
    assert (8.0, 0.0) == (seen.figures()["gap_s"], seen.figures()["last_rate"])


def test_errors_and_requests_without_an_end_are_counted_apart() -> None:
    """An error tells the user something; a request that never ends does not."""
    clock = Clock()
    seen = Seen(clock)
    clock.now = 1.0
    seen.killed()
    for number in range(5):
        seen.asked(number)
    for number in range(3):
        seen.failed(number, said(ValueError("it\n  broke")))
    clock.now = 3.0
    seen.ended()
    figures = seen.figures()
    assert (3, 2) == (figures["errors"], figures["unanswered"])
    assert "ValueError: it broke" == figures["error"]
    assert 2.0 == pytest.approx(figures["gap_s"])
