"""Every system gets a short turn, and then every system again: what the machine does meanwhile happens to all."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import meshnode
from scripts.bench.comparison import contract, counting, environments, models, turn
from scripts.bench.comparison.contract import Place
from scripts.bench.comparison.register import System
from scripts.bench.comparison.turn import Bench, TurnError


def machine() -> dict[str, Any]:
    """On what all this is measured."""
    names = [row.partition(":")[2].strip() for row in _lines("/proc/cpuinfo") if row.startswith("model name")]
    total = next(int(row.split()[1]) for row in _lines("/proc/meminfo") if row.startswith("MemTotal"))
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": names[0] if names else platform.machine(),
        "memory_gib": round(total / 2**20),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "meshnode": meshnode.__version__,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def answers(folder: Path) -> None:
    """What ONNX Runtime alone answers, by which all others are judged."""
    place = Place(str(folder), str(folder), "", (), 1)
    found = {}
    for name in contract.SHAPES:
        session = contract.session(place, name)
        found[name] = np.stack([session.run(["y"], {"x": x})[0] for x in contract.questions(name)])
    np.savez(folder / "answers.npz", **found)


Lines = Iterator[dict[str, Any]]


def measure(
    at: Path, scratch: Path, systems: Sequence[System], rounds: int, turns: int, seconds: float, kills: int
) -> Lines:
    """The lines of a run: what it is, who is absent and why, and each turn as it ends."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    about = {"at": _now(), "rounds": rounds, "turns": turns, "seconds": seconds, "kills": kills, "command": command}
    yield {"run": machine() | about}
    models.write(scratch / "models")
    answers(scratch / "models")
    bench, there = Bench(at, scratch, seconds), []
    for system in systems:
        if why := environments.missing(at, system):
            yield {"system": system.name, "absent": why}
        else:
            there.append(system)
            yield {"system": system.name, "versions": environments.versions(at, system)}
    for number in range(1, max(rounds, kills) + 1):
        if number <= rounds:
            yield from _together(bench, there, number, turns)
        if number <= kills:
            yield from _killing(bench, [system for system in there if system.workers], number)


def _together(bench: Bench, systems: Sequence[System], number: int, turns: int) -> Lines:
    """All are started and stay; then each is asked for a moment, and the next, and so on from the first again."""
    with ExitStack() as stack:
        up: dict[str, tuple[turn.Lines, int]] = {}
        for system in systems:
            line = _line(f"{number}", system.name)
            try:
                driver, tree, cold_s = stack.enter_context(turn.running(bench, system, 1))
            except TurnError as error:
                yield line | {"failed": str(error)}
                continue
            up[system.name] = driver, tree
            yield line | {"figures": {"cold_s": cold_s} if counting.below(tree) else {}}
        for name, figures in turn.rest({name: tree for name, (_, tree) in up.items()}).items():
            yield _line(f"{number}", name) | {"figures": figures}
        down: dict[str, str] = {}
        for moment in range(turns):
            names = list(up)
            for name, when in down.items():
                line = _line(f"{number}.{moment + 1}", name)
                yield line | {"failed": f"not asked again in this round, since it failed in {when}"}
            first = moment * len(names) // turns  # nobody is always behind the same one
            lines = {name: _line(f"{number}.{moment + 1}", name) | {"figures": {"wrong": 0}} for name in names}
            for model, flights in product(contract.SHAPES, (1, turn.FLIGHTS)):
                for name in [*names[first:], *names[:first]]:
                    if name in up:
                        try:
                            seen = turn.ask(bench, model, flights, *up[name])
                        except TurnError as error:
                            lines[name]["failed"] = str(error)
                            down[name] = f"{number}.{moment + 1}"
                            del up[name]
                            continue
                        seen["wrong"] += lines[name]["figures"]["wrong"]
                        lines[name]["figures"] |= seen
            yield from lines.values()


def _killing(bench: Bench, systems: Sequence[System], number: int) -> Lines:
    """With two workers, each alone."""
    for system in systems:
        line = _line(f"{number}k", system.name)
        try:
            yield line | {"figures": turn.kill(bench, system)}
        except TurnError as error:
            yield line | {"failed": str(error)}


def _line(name: str, system: str) -> dict[str, Any]:
    return {"turn": name, "system": system, "at": _now(), "load": os.getloadavg()[0]}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
