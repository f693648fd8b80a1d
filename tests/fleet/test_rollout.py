"""Whether a new version goes on: by what failed and what it took, when enough was seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.fleet.blueprint import Canary
from meshnode.fleet.rollout import FAILED_MIN, RUNS_MIN, Tally, judge

CANARY = Canary(share_permille=100, for_s=60, errors_permille=20, slower_percent=150)
GOOD = Tally(1000, 0, 10.0)


@pytest.mark.parametrize(
    ("old", "new", "elapsed_s", "do", "says"),
    [
        (GOOD, Tally(100, 0, 1.0), 59.0, "wait", "59 of 60 s"),
        (GOOD, Tally(100, 0, 1.0), 60.0, "forward", "0 of 100 tasks failed"),
        (GOOD, Tally(RUNS_MIN - 1, 0, 0.1), 600.0, "wait", f"{RUNS_MIN} are needed"),
        (GOOD, Tally(0, FAILED_MIN, 0.0), 1.0, "back", "5 of 5 tasks failed; 2.0% may"),
        (GOOD, Tally(0, FAILED_MIN - 1, 0.0), 1.0, "wait", "1 of 60 s"),
        (GOOD, Tally(98, 2, 1.0), 60.0, "forward", "2 of 100"),
        (GOOD, Tally(97, 3, 1.0), 60.0, "back", "3 of 100"),
        (Tally(90, 10, 1.0), Tally(88, 12, 0.9), 60.0, "forward", "12 of 100"),
        (GOOD, Tally(100, 0, 1.4), 60.0, "forward", ""),
        (GOOD, Tally(100, 0, 1.6), 60.0, "back", "16 ms, the old version's 10; 15 are allowed"),
        (Tally(2, 0, 0.001), Tally(100, 0, 1.6), 60.0, "forward", ""),
    ],
)
def test_a_version_is_judged_by_what_it_did(old: Tally, new: Tally, elapsed_s: float, do: str, says: str) -> None:
    """Forward, back or wait, and why in words."""
    verdict = judge(CANARY, old, new, elapsed_s)
    assert do == verdict.do, verdict
    assert says in verdict.why


counts = st.integers(0, 10_000)
tallies = st.builds(Tally, counts, counts, st.floats(0, 1e6))


@given(tallies, tallies, st.floats(0, 1e6))
def test_nothing_goes_forward_that_fails_more_than_it_may(old: Tally, new: Tally, elapsed_s: float) -> None:
    """Whatever was counted, nor before its time or unused."""
    verdict = judge(CANARY, old, new, elapsed_s)
    if verdict.do == "forward":
        assert elapsed_s >= CANARY.for_s
        assert new.runs + new.failed >= RUNS_MIN
        assert new.error_share <= old.error_share + 0.02


@given(tallies, tallies)
def test_what_was_added_is_told_and_a_restart_begins_from_nothing(before: Tally, more: Tally) -> None:
    """Counters only grow but for that."""
    after = before + more
    grown = after.since(before)
    assert (more.runs, more.failed) == (grown.runs, grown.failed)
    if more.runs < before.runs:
        assert more == more.since(before)
