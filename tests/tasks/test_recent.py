"""What an agent's own tasks did lately."""

from __future__ import annotations

import pytest

from meshnode.tasks.recent import KEPT, Recent
from tests.tasks.around import ANN, BOB


def test_the_last_ten_seconds_count() -> None:
    """Rates, percentiles and shares of what was answered in them; nothing older."""
    recent = Recent()
    recent.answered(1.0, ANN, 9.0)
    for number in range(30):
        recent.answered(10.0 + number / 10, ANN if number % 3 else BOB, 0.1)
    recent.failed(1.0)
    recent.failed(12.0)
    document = recent.document(15.0)
    assert (3.0, 0.1, 0.1) == (document["per_s"], document["failed_per_s"], document["p99_s"])
    assert [(ANN, 2 / 3), (BOB, 1 / 3)] == [(node["node"], node["share"]) for node in document["nodes"]]


def test_nothing_lately_has_no_percentiles() -> None:
    """And is no error."""
    document = Recent().document(5.0)
    assert (0.0, None, []) == (document["per_s"], document["p50_s"], document["nodes"])


def test_many_answers_are_counted_over_the_time_that_is_kept() -> None:
    """A busy agent keeps less than ten seconds, and its rate is right all the same."""
    recent = Recent()
    for number in range(3 * KEPT):
        recent.answered(number / 2000, ANN, 0.001)
    document = recent.document(3 * KEPT / 2000)
    assert pytest.approx(2000.0, rel=0.01) == document["per_s"]
