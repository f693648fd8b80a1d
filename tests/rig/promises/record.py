"""What was seen, as JSON lines that outlive the run, and the page that is made of them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from meshnode.version import __version__
from tests.rig.net import CONGESTION
from tests.rig.promises.figures import Figure

PAGE = Path(__file__).parents[3] / "docs" / "promises.md"
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Trial:
    """One promise, tried once; `date` is when it began, `note` what else the machine was doing."""

    promise: str
    form: str
    seed: int
    date: str
    seconds: float
    note: str


def now() -> str:
    """The time, UTC, as it stands in a line."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def machine() -> str:
    """What it was tried on; not which. How its TCP meets loss and disorder is part of it."""
    memory = psutil.virtual_memory().total / GIB
    tcp = Path(CONGESTION).read_text().strip()
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, TCP with {tcp}"


def append(path: Path, trial: Trial, figures: Sequence[Figure]) -> None:
    """A line a figure."""
    where = {"machine": machine(), "load": round(os.getloadavg()[1], 1), "version": __version__}
    with path.open("a") as file:
        for it in figures:
            seen = {"did": it.did, "figure": it.what, "promised": it.promised, "seen": it.seen, "pass": it.ok}
            file.write(json.dumps({**asdict(trial), "seconds": round(trial.seconds), **seen, **where}) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, as they were appended."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def page(lines: Sequence[Mapping[str, Any]], says: Mapping[str, str]) -> str:
    """The page: of each promise its last trial, in full where there was one."""
    trials: dict[str, list[Mapping[str, Any]]] = {}
    tried: dict[str, int] = {}
    for name in says:
        mine = [line for line in lines if line["promise"] == name]
        mine = [line for line in mine if line["form"] == "full"] or mine
        if mine:
            tried[name] = len({line["date"] for line in mine})
            last = max(line["date"] for line in mine)
            trials[name] = [line for line in mine if line["date"] == last]
    missed = [name for name, rows in trials.items() if not all(row["pass"] for row in rows)]
    head = [
        "# What is promised, and what was seen",
        "",
        "Made by `scripts/promises --table FILE` from the lines that `scripts/promises --full --json FILE` wrote; not"
        " by hand. What each",
        "experiment does stands in `tests/rig/promises/`. Times are of the machine and its load that stand with them.",
        "",
        "Shown is the last trial of each, whatever came of it. Those before stand in the same lines; the experiment"
        " itself may have been another then.",
        "",
        f"{len(trials)} promises tried, {len(trials) - len(missed)} kept"
        + (f"; **not kept: {', '.join(missed)}**." if missed else "."),
        "",
        "| | promise | last tried | trials | load | judged figures that were kept | missed |",
        "|---|---|---|---|---|---|---|",
        *(_row(name, says[name], rows, tried[name]) for name, rows in trials.items()),
    ]
    return (
        "\n".join([*head, *(line for name, rows in trials.items() for line in _section(name, says[name], rows))]) + "\n"
    )


def _row(name: str, says: str, rows: Sequence[Mapping[str, Any]], trials: int) -> str:
    judged = [row for row in rows if row["promised"] != "-"]
    kept = [row for row in judged if row["pass"]]
    failed = [row for row in judged if not row["pass"]]
    missed = "; ".join(f"{row['figure']}: {row['seen'][:60]} of {row['promised']}" for row in failed)
    when = f"{rows[0]['form']}, {rows[0]['date'][:10]}"
    cells = (name, says, when, trials, rows[0]["load"], f"{len(kept)} of {len(judged)}", missed.replace("|", "/"))
    return f"| {' | '.join(map(str, cells))} |"


def _section(name: str, says: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    first = rows[0]
    command = f"scripts/promises {name}{' --full' if first['form'] == 'full' else ''} --seed {first['seed']}"
    where = (
        f"{first['date']}, {first['seconds']} s, version {first['version']}; {first['machine']}; load {first['load']}"
    )
    lines = ["", f"## {name}: {says}", "", f"`{command}`: {where}{', ' + first['note'] if first['note'] else ''}.", ""]
    lines += ["| what was done | figure | promised | seen | |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [str(row[it]).replace("|", "/") for it in ("did", "figure", "promised", "seen")]
        lines.append(f"| {' | '.join(cells)} | {'kept' if row['pass'] else '**missed**'} |")
    return lines
