"""The checker of histories, and the page that is made of what was seen: what is wrong is found, and shown."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from meshnode.errors import NoCapacity
from tests.mesh.history import Task, Verdict, judge
from tests.rig.promises import record
from tests.rig.promises.figures import at_most, history, none_of


def ended(number: int, *answers: float, zone: str = "", node: str = "a", due: float = 0.0) -> Task:
    """A task that wants its number, with these answers."""
    task = Task(number, due, zone)
    for answer in answers:
        future: Future[Any] = Future()
        task.follow(future, lambda: np.array([number]))
        future.set_result(_Result(answer, node))
    return task


class _Result(SimpleNamespace):
    def __init__(self, answer: float, node: str) -> None:
        super().__init__(node=node, run_seconds=0.0, attempts=(), y=np.array([answer]))

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def test_a_good_history_has_nothing_wrong() -> None:
    """One right answer each, by nodes that may."""
    tasks = [ended(1, 1), ended(2, 2, zone="eu", node="b")]
    assert Verdict(2, (), (), (), ()) == judge(tasks, {"b": "eu/berlin"}, {"c": 0.0})


def test_each_kind_of_wrong_is_found() -> None:
    """No answer, an error, another answer, two answers, outside of the zone, after the node was thrown out."""
    refused = Task(3, 0.0)
    future: Future[Any] = Future()
    refused.follow(future, lambda: None)
    future.set_exception(NoCapacity("full"))
    tasks = [
        Task(1, 0.0),
        ended(2, 5),
        refused,
        ended(4, 4, 4),
        ended(5, 5, zone="eu", node="b"),
        ended(6, 6, node="c", due=9.0),
        ended(7, 7, node="c", due=1.0),
    ]
    verdict = judge(tasks, {"b": "europe"}, {"c": 5.0})
    assert ("1: no answer", "3: no_capacity: full") == verdict.lost
    assert ("2 by a",) == verdict.wrong
    assert ("4: 2 answers",) == verdict.twice
    assert ("5 (eu) by b", "6 (anywhere) by c") == verdict.outside
    assert [False] * 4 == [it.ok for it in history("x", tasks, {"b": "europe"}, {"c": 5.0})[1:5]]


def test_the_page_shows_the_last_full_trial_and_what_was_missed(tmp_path: Path) -> None:
    """Lines are appended; the page names commands, machines and each figure, and says first what was not kept."""
    path = tmp_path / "lines"
    for form, date, seen in (("full", "1", 9.0), ("full", "2", 3.0), ("short", "3", 1.0)):
        figures = [at_most("a kill", "noticed", seen, 2.0), none_of("a kill", "a|b", [])]
        record.append(path, record.Trial("P2", form, 7, date, 1.4, "busy"), figures)
    text = record.page(record.read(path), {"P1": "not tried", "P2": "it is noticed"})
    assert "1 promises tried, 0 kept; **not kept: P2**" in text
    assert "## P2: it is noticed\n\n`scripts/promises P2 --full --seed 7`: 2, 1 s" in text
    assert "| a kill | noticed | <= 2 s | 3 s | **missed** |\n| a kill | a/b | 0 | 0 | kept |" in text
    assert "| 1 of 2 | noticed: 3 s of <= 2 s |" in text
    assert "busy" in text
