"""Medians, ratios and tables of a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.bench.comparison import page
from scripts.bench.comparison.figures import Spread, report, short, spread

RUN = {
    "at": "2026-01-01T00:00:00Z",
    "rounds": 3,
    "turns": 1,
    "kills": 0,
    "seconds": 1.0,
    "command": "compare",
    "cores": 2,
    "processor": "one",
    "memory_gib": 8,
    "system": "Linux 6",
    "python": "3.11",
    "meshnode": "0.1.0",
}


def turn(system: str, number: int, **figures: Any) -> dict[str, Any]:
    """A line of a run."""
    return {"turn": f"{number}.1", "system": system, "at": RUN["at"], "load": float(number), "figures": figures}


def lines() -> list[dict[str, Any]]:
    """Three rounds in which the machine is slower each time, for all."""
    found: list[dict[str, Any]] = [{"run": RUN}]
    for number in (1, 2, 3):
        found.append(turn("direct", number, wrong=0, mlp_p50_ms=0.1 * number, cnn_p50_ms=1.0 * number))
        found.append(turn("local", number, wrong=0, mlp_p50_ms=0.4 * number, cnn_p50_ms=2.0 * number, mlp_rate=100.0))
        found.append(turn("nats", number, wrong=0, mlp_p50_ms=0.2 * number, cnn_p50_ms=4.0 * number, mlp_rate=50.0))
    return found


def test_a_spread_is_the_median_and_the_middle_half() -> None:
    """One value is its own spread; of five, a quarter lies below and a quarter above."""
    assert Spread(7.0, 7.0, 7.0, 1) == spread([7.0])
    assert Spread(3.0, 2.0, 4.0, 5) == spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert "3.00 (2.00-4.00)" == str(spread([5.0, 1.0, 4.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.00512, "0.0051"), (0.31, "0.31"), (1.0, "1.00"), (12.34, "12.3"), (18_200, "18,200")],
)
def test_a_figure_has_three_digits(value: float, said: str) -> None:
    """More would be noise."""
    assert said == short(value)


def test_ratios_are_taken_within_a_turn() -> None:
    """A machine that slows down for all changes the medians and no ratio."""
    it = report(lines())
    times = it.row("local").times("mlp_p50_ms", it.row("direct"))
    assert times is not None
    assert (pytest.approx(4.0), pytest.approx(4.0)) == (times.low, times.high)
    assert it.row("local").times("mlp_p50_ms", it.row("nobody")) is None


def test_what_a_request_costs_needs_a_request() -> None:
    """A turn in which none was answered has a rate of zero, and no cost of one."""
    it = report([turn("ray", 1, mlp_rate=0.0, mlp_server_ms=40.0, cnn_rate=2.0, cnn_server_ms=9.0)]).row("ray")
    assert [0.0] == it.values("mlp_rate")
    assert [] == it.values("mlp_server_ms")
    assert [9.0] == it.values("cnn_server_ms")


def test_the_page_names_those_ahead_and_those_behind() -> None:
    """In either direction, by what is better in that figure."""
    rows = page.text(report(lines()), plots=False).splitlines()
    assert (
        "| tiny model, one in flight, median | ONNX Runtime in the program 4.0x, NATS queue group 2.0x | nobody |"
        in rows
    )
    assert "| tiny model, 16 in flight | nobody | NATS queue group 2.0x |" in rows
    assert "| picture, one in flight, median | ONNX Runtime in the program 2.0x | NATS queue group 2.0x |" in rows


def test_who_takes_nothing_that_can_be_measured_is_ahead_too() -> None:
    """A figure of zero has no factor, and is no reason to leave it out."""
    more = [turn("local", 9, wrong=0, idle_cpu=0.5), turn("nats", 9, wrong=0, idle_cpu=0.0)]
    text = page.text(report(lines() + more), plots=False)
    assert "| processor at rest | NATS queue group (none that can be measured) | nobody |" in text


def test_who_is_absent_or_failed_is_named_with_the_reason() -> None:
    """No row is made up, and no failed turn is kept quiet."""
    more = [
        {"system": "ray", "absent": "not installed: run scripts/bench/compare --install"},
        {"turn": "2.1", "system": "dask", "at": RUN["at"], "load": 1.0, "failed": "first: nobody answered"},
        turn("dask", 1, wrong=0, mlp_p50_ms=9.0),
    ]
    text = page.text(report(lines() + more), plots=False)
    assert "* Ray Serve: not measured. not installed: run scripts/bench/compare --install" in text
    assert "| Ray Serve" not in text
    assert "**Failed** in 1 of 2 turns, first in 2.1: first: nobody answered" in text


def test_a_turn_that_broke_off_counts_once() -> None:
    """What was seen before it failed is kept, and it is one turn of three all the same."""
    more = [turn("dask", 1, wrong=0, mlp_p50_ms=9.0), turn("dask", 2, wrong=0, mlp_p50_ms=9.0) | {"failed": "it ended"}]
    more.append({"turn": "3.1", "system": "dask", "at": RUN["at"], "load": 1.0, "failed": "not asked again"})
    text = page.text(report(lines() + more), plots=False)
    assert "**Failed** in 2 of 3 turns, first in 2.1: it ended" in text


def test_the_page_is_made_of_the_lines_beside_it() -> None:
    """docs/comparison.md is what these lines come to, and nobody wrote into it by hand."""
    docs = Path(__file__).parents[2] / "docs"
    measured = [json.loads(line) for line in (docs / "comparison.jsonl").read_text().splitlines()]
    assert (docs / "comparison.md").read_text() == page.text(report(measured), plots=True)


def test_wrong_answers_are_told_before_anything_else_of_speed() -> None:
    """They are counted over all systems."""
    assert "Every answer was ONNX Runtime's own." in page.text(report(lines()), plots=False)
    wrong = [*lines(), turn("ray", 1, wrong=3, mlp_p50_ms=1.0)]
    assert "**3 answers were wrong.**" in page.text(report(wrong), plots=False)


def killed(number: int, last: float, workers: int, errors: int = 0) -> dict[str, Any]:
    """A turn with a kill: what was left afterwards."""
    figures = {"before_rate": 100.0, "last_rate": last, "errors": errors, "unanswered": 2, "gap_s": 0.5}
    more = {"slowest_s": 1.0, "error": "", "killed": ["python -m x.comparison.systems.nats_queue {}"]}
    more |= {"workers_before": 2, "workers_after": workers}
    return turn("nats", number, wrong=0, **{f"kill_{name}": value for name, value in (figures | more).items()})


def test_how_it_ended_is_told_for_each_way_it_ended() -> None:
    """Back as before, fewer than before, or silence: by what most turns showed, and all others."""
    turns = [killed(1, 90.0, 1), killed(2, 80.0, 1, errors=7), killed(3, 0.0, 1)]
    assert ("agent", "worker") == tuple(
        map(page._program, ("python -m meshnode.cli.main up", "-m meshnode.execution.x"))
    )
    row = next(it for it in page.text(report([{"run": RUN}, *turns]), plots=False).splitlines() if "0, 7, 0" in it)
    assert "| NATS queue group | nats_queue | 0, 7, 0 | 6 |" in row
    assert "2 of 3: answers, with fewer workers, 1 of 3: does not answer any more" in row
