"""Who asks the systems of a comparison: what is wrong or broken is told, and never a figure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.bench.comparison import models, rounds, turn
from scripts.bench.comparison.contract import Array, Place
from scripts.bench.comparison.driver import Driver
from scripts.bench.comparison.register import BY_NAME
from scripts.bench.comparison.systems import direct
from scripts.bench.comparison.turn import Bench, TurnError


class Off(direct.Client):
    """A system that answers, and wrongly."""

    async def infer(self, model: str, x: Array) -> Array:
        return (await super().infer(model, x)) + 1


def driver(folder: Path, client: type[direct.Client]) -> Driver:
    """Of a system within this process."""
    models.write(folder)
    rounds.answers(folder)
    system = SimpleNamespace(Client=client, commands=lambda place: [])
    return Driver(system, Place(str(folder), str(folder), "", (), 1))


async def test_a_start_ends_with_a_right_answer(tmp_path: Path) -> None:
    """A wrong one is no start, and the reason is told."""
    assert {"at"} == (await driver(tmp_path, direct.Client).first(60.0)).keys()
    assert {"failed": "3 of its first answers were wrong"} == await driver(tmp_path, Off).first(60.0)


async def test_wrong_answers_of_a_load_are_counted(tmp_path: Path) -> None:
    """Each of them, whatever the rate."""
    it = driver(tmp_path, Off)
    it.client = Off(it.place)
    await it.client.start()
    seen = await it.latency("mlp", 0.01)
    assert seen["n"] + 3 == it.wrong, "what warms it up is looked at too"


def test_who_failed_is_told_in_each_turn_that_it_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that breaks in the second of four turns has failed in three, and nobody else is disturbed."""
    asked: list[str] = []

    @contextmanager
    def running(bench: Bench, system: Any, workers: int) -> Iterator[tuple[str, int, float]]:
        yield system.name, os.getpid(), 1.0

    def ask(bench: Bench, model: str, flights: int, name: str, tree: int) -> dict[str, Any]:
        asked.append(name)
        if name == "nats" and asked.count(name) > 5:
            raise TurnError("it ended")
        return {f"{model}_{flights}": 1.0, "wrong": 0}

    monkeypatch.setattr(turn, "running", running)
    monkeypatch.setattr(turn, "ask", ask)
    monkeypatch.setattr(turn, "rest", lambda trees: {})
    systems = [BY_NAME["direct"], BY_NAME["nats"]]
    lines = list(rounds._together(Bench(tmp_path, tmp_path, 0.1), systems, 1, 4))
    failed = {line["turn"]: line["failed"] for line in lines if "failed" in line}
    missed = "not asked again in this round, since it failed in 1.2"
    assert {"1.2": "it ended", "1.3": missed, "1.4": missed} == failed
    assert {"nats"} == {line["system"] for line in lines if "failed" in line}
    assert 16 == asked.count("direct")
