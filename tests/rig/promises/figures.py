"""What a promise says, what was seen, and whether that is within it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.mesh.history import Task, judge
from tests.mesh.load import Load

LOADED = 10.0
"""The ordinary tests allow so many times the promised seconds, and how many times as long something may take: they run
on machines that have other things to do."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report.

    Attributes:
        did: what was done to get it.
        ok: whether it is within what is promised.
        nearly: or was it late by no more than a loaded machine may be; counts have no such excuse.
    """

    did: str
    what: str
    promised: str
    seen: str
    ok: bool
    nearly: bool = False


def at_most(did: str, what: str, seen: float, limit: float, unit: str = "s") -> Figure:
    """A number that may not be larger."""
    nearly = unit in ("s", "x") and seen <= limit * LOADED
    return Figure(did, what, f"<= {limit:g} {unit}".rstrip(), f"{seen:.3g} {unit}".rstrip(), seen <= limit, nearly)


def at_least(did: str, what: str, seen: float, limit: float, unit: str = "") -> Figure:
    """A number that may not be smaller. A share of a machine that others use too may be half of it and nearly kept."""
    nearly = unit == "%" and seen >= limit / 2
    return Figure(did, what, f">= {limit:g} {unit}".rstrip(), f"{seen:.3g} {unit}".rstrip(), seen >= limit, nearly)


def none_of(did: str, what: str, found: Sequence[object]) -> Figure:
    """Something that must not happen; the first few that did."""
    shown = f": {'; '.join(map(str, found[:3]))}" if found else ""
    return Figure(did, what, "0", f"{len(found)}{shown}", not found)


def true(did: str, what: str, seen: bool, otherwise: str = "no") -> Figure:
    """Something that must be so."""
    return Figure(did, what, "yes", "yes" if seen else otherwise, seen)


def told(did: str, what: str, seen: str) -> Figure:
    """Not promised, and good to know."""
    return Figure(did, what, "-", seen, True)


def tasks(did: str, loads: Sequence[Load]) -> list[Figure]:
    """The history of the tasks of these loads."""
    return history(did, [task for load in loads for task in load.history])


def history(
    did: str,
    recorded: Sequence[Task],
    places: Mapping[str, str] | None = None,
    refused: Mapping[str, float] | None = None,
) -> list[Figure]:
    """What holds of every history: each was answered, once, rightly, and by a node that may; see `judge`."""
    verdict = judge(recorded, places, refused)
    slowest_s = max((task.seconds for task in recorded if task.answers), default=0.0)
    return [
        at_least(did, "tasks", verdict.tasks, 1),
        none_of(did, "tasks lost", verdict.lost),
        none_of(did, "wrong answers", verdict.wrong),
        none_of(did, "answers delivered twice", verdict.twice),
        none_of(did, "answers of nodes that may not", verdict.outside),
        told(did, "slowest task", f"{slowest_s:.2f} s"),
    ]


def table(rows: Sequence[tuple[str, Figure]]) -> str:
    """The report, a line a figure."""
    cells = [("", "what was done", "figure", "promised", "seen", "")]
    cells += [(name, f.did, f.what, f.promised, f.seen, "pass" if f.ok else "FAIL") for name, f in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    widths[4] = min(widths[4], 60)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 4], strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
