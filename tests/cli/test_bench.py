"""`meshnode bench`: what it counts, and a short load on a small agent."""

from __future__ import annotations

import json

import pytest

from meshnode.cli.bench import Load, summary, text
from meshnode.errors import Refused
from tests.cli.conftest import Command
from tests.client.door import NODE, Door


def loaded() -> Load:
    """Two nodes, three results and an error."""
    load = Load(took_s=[0.1, 0.2, 0.4], off=[0.1, 0.3, 0.2], skipped=1)
    load.names = {"a" * 52: "ann", "b" * 52: "bob"}
    load.nodes = {"a" * 52: [(0.1, 0.05)], "b" * 52: [(0.2, 0.1), (0.4, 0.1)]}
    load.failed(Refused("too many tasks wait"))
    return load


def test_the_bound_is_what_the_runs_would_allow() -> None:
    """Two slots of 50 ms and one of 100 ms: 50 a second; 3 in 0.6 s are a tenth of it. Skipped and failed count."""
    report = summary(loaded(), {"a" * 52: 2, "b" * 52: 1}, lasted_s=0.6, timeout_s=0.25)
    assert pytest.approx(50.0) == report["bound_per_s"]
    assert pytest.approx(0.1) == report["efficiency"]
    assert (5, 3, 2 / 5, 0.2) == (
        report["submitted"],
        report["answered"],
        report["goodput"],
        report["prediction_error"],
    )
    assert [("bob", 2 / 3), ("ann", 1 / 3)] == [(node["name"], node["share"]) for node in report["nodes"]]


def test_people_read_shares_errors_and_the_error_of_the_forecast() -> None:
    """One line each."""
    shown = text({"model": "m:1", **summary(loaded(), {}, lasted_s=1.0, timeout_s=1.0)}).plain
    assert "3 of 5 tasks" in shown
    assert "off by 20 %" in shown
    assert "1 x refused: too many tasks wait" in shown
    assert "bob (bbbbbbbb)     66.7" in shown


def test_nothing_back_is_no_division_by_zero() -> None:
    """Only errors: no percentiles, no bound."""
    report = summary(Load(skipped=2), {}, lasted_s=1.0, timeout_s=1.0)
    assert (None, None, 0.0) == (report["p50_s"], report["efficiency"], report["goodput"])
    assert "0 of 2 tasks" in text({"model": "m:1", **report}).plain


@pytest.mark.parametrize("how", [("--concurrency", "2"), ("--rate", "50")])
def test_a_short_load(door: Door, meshnode: Command, how: tuple[str, str]) -> None:
    """Real tasks against an agent, with zeros; everything came back from the one node."""
    code, out, err = meshnode("--json", "bench", "double", "--seconds", "0.5", *how)
    assert (0, "") == (code, err)
    report = json.loads(out)
    assert report["answered"] == report["submitted"] > 5
    assert [NODE] == [node["node"] for node in report["nodes"]]


def test_a_model_that_is_not_there(door: Door, meshnode: Command) -> None:
    """The agent's own error, before any load."""
    code, _, err = meshnode("bench", "nope")
    assert 1 == code
    assert "there is double" in err
