"""`meshnode top`: two looks as one screen."""

from __future__ import annotations

from typing import Any

from meshnode.cli.top import figures, screen

COUNTERS = {"rerouted": 3}


def node(name: str, done: int | None, **fields: Any) -> dict[str, Any]:
    given = {"id": name * 52, "name": name, "self": name == "a", "state": "alive", "paused": None, "in_flight": 2}
    return given | {"tasks_done": done, "backlog_s": 0.05, "rtt_ms": 1.5, "cpu": {"load": 0.5}} | fields


def look(at: float, *nodes: dict[str, Any], **work: Any) -> tuple[float, Any, Any]:
    mesh = {"id": "m" * 64, "name": "home", "nodes": {"alive": len(nodes), "suspect": 0, "dead": 0, "left": 0}}
    own = {"p50_s": 0.01, "p99_s": 0.05, "per_s": 12.0, "failed_per_s": 0.0, "open": 4, "since_start": COUNTERS}
    return at, {"mesh": mesh, "nodes": list(nodes)}, own | work


def test_tasks_a_second_are_what_came_between_two_looks() -> None:
    """Of each node and of all; a node that came, went or began anew counts nothing."""
    before = look(1.0, node("a", 100), node("b", 50), node("c", 70))
    now = look(3.0, node("a", 140), node("b", None, state="dead"), node("c", 5), node("d", 9))
    frame = figures(before, now)
    assert {"a": 20.0, "b": None, "c": 0.0, "d": None} == {it["name"]: it["per_s"] for it in frame["nodes"]}
    assert 20.0 == frame["per_s"]


def test_the_busiest_stands_first_with_the_longest_bar() -> None:
    """And fits 80 columns."""
    frame = figures(look(0.0, node("a", 0), node("b", 0)), look(1.0, node("a", 10), node("b", 40)))
    lines = screen(frame).plain.splitlines()
    assert "50 tasks a second in all" in lines[0]
    assert "12 a second, p50 10.0 ms, p99 50.0 ms" in lines[1]
    assert lines[4].startswith("b (bbbbbbbb)")
    assert [10, 2] == [line.count("█") for line in lines[4:6]]
    assert max(map(len, lines)) <= 80


def test_without_own_tasks_it_says_so() -> None:
    """No percentiles of nothing."""
    frame = figures(look(0.0, node("a", 0)), look(1.0, node("a", 0), p50_s=None, p99_s=None))
    assert "no task in the last ten seconds" in screen(frame).plain
