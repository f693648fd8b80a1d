"""Every system gets its turn, and then every system again: what the machine does meanwhile happens to all."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import meshnode
from scripts.bench.comparison import contract, environments, models
from scripts.bench.comparison.contract import Place
from scripts.bench.comparison.register import System
from scripts.bench.comparison.turn import Bench, TurnError, kill, speed


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


def measure(
    at: Path, scratch: Path, systems: Sequence[System], rounds: int, seconds: float, *, kills: bool
) -> Iterator[dict[str, Any]]:
    """The lines of a run: what it is, who is absent and why, and each turn as it ends."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    yield {"run": machine() | {"at": _now(), "rounds": rounds, "seconds": seconds, "command": command}}
    models.write(scratch / "models")
    answers(scratch / "models")
    bench, there = Bench(at, scratch, seconds), []
    for system in systems:
        if why := environments.missing(at, system):
            yield {"system": system.name, "absent": why}
        else:
            there.append(system)
            yield {"system": system.name, "versions": environments.versions(at, system)}
    for number in range(rounds):
        first = number * len(there) // rounds  # nobody is always behind the same one
        for system in there[first:] + there[:first]:
            line = {"round": number + 1, "system": system.name, "at": _now(), "load": os.getloadavg()[0]}
            began = time.monotonic()
            try:
                line["figures"] = speed(bench, system)
                if kills and system.workers:
                    more = kill(bench, system)
                    more["wrong"] += line["figures"]["wrong"]
                    line["figures"] |= more
            except TurnError as error:
                line["failed"] = str(error)
            yield line | {"took_s": time.monotonic() - began}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
