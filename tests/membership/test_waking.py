"""Noticing sleep from clocks alone."""

from __future__ import annotations

import pytest

from meshnode.membership.waking import Clocks, Waking


@pytest.mark.parametrize(
    ("before", "after", "gone_s"),
    [
        (Clocks(10, 1000, 50), Clocks(11, 1001, 51), 0),  # a second like any other
        (Clocks(10, 1000, 50), Clocks(11, 1601, 651), 600),  # ten minutes of sleep, seen by the third clock
        (Clocks(10, 1000), Clocks(11, 1601), 600),  # and by the wall clock where there is no third
        (Clocks(10, 1000, 50), Clocks(11, 4601, 51), 0),  # the wall clock was set an hour forward
        (Clocks(10, 1000, 50), Clocks(11, -9999, 51), 0),  # or back
        (Clocks(10, 1000, 50), Clocks(19, 1009, 59), 8),  # the process was stopped for eight seconds
        (Clocks(10, 1000, 50), Clocks(13.5, 1003.5, 53.5), 0),  # a busy moment
    ],
)
def test_sleep_is_told_from_a_clock_that_was_set(before: Clocks, after: Clocks, gone_s: float) -> None:
    """Only time that passed while nothing ran counts."""
    assert gone_s == pytest.approx(Waking(before).look(after))


@pytest.mark.parametrize(
    ("after", "set_s"),
    [
        (Clocks(11, 1001, 51), 0),
        (Clocks(11, 4601, 51), 3600),
        (Clocks(11, -2599, 51), -3600),
        (Clocks(11, 1601, 651), 0),  # it slept
        (Clocks(11, 1003, 51), 0),  # a correction of two seconds is nobody's business
        (Clocks(11, 4601), 0),  # without a third clock nobody can tell
    ],
)
def test_a_clock_that_was_set_is_told_from_sleep(after: Clocks, set_s: float) -> None:
    """By how much the wall clock moved beside the one that counts through sleep."""
    waking = Waking(Clocks(10, 1000, 50))
    waking.look(after)
    assert set_s == waking.set_s
    if after.boottime is not None:
        later = Clocks(after.monotonic + 1, after.wall + 1, after.boottime + 1)
        waking.look(later)
        assert 0 == waking.set_s, "it is told once"
