"""What many turns come to: medians, quartiles, and ratios within one."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

PER_REQUEST = ("_server_ms", "_client_ms")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the turns, and where the middle half of them lies."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 1:
            return short(self.median)
        return f"{short(self.median)} ({short(self.low)}-{short(self.high)})"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def short(value: float) -> str:
    """Three digits, at most."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.1f}".removesuffix(".0")
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


@dataclass(slots=True)
class Row:
    """All turns of one system."""

    name: str
    absent: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    turns: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By the turn's name."""
    failed: dict[str, str] = field(default_factory=dict)

    def values(self, figure: str) -> list[float]:
        """One a turn, of those that have it."""
        return [float(it[figure]) for it in self.turns.values() if figure in it]

    def spread(self, figure: str) -> Spread | None:
        """None when no turn has it."""
        values = self.values(figure)
        return spread(values) if values else None

    def total(self, figure: str) -> int:
        """Of all turns."""
        return int(sum(self.values(figure)))

    def usual(self, figure: str) -> Any:
        """What most turns have of something that is no number."""
        seen = Counter(str(it[figure]) for it in self.turns.values() if it.get(figure))
        return seen.most_common(1)[0][0] if seen else ""

    def times(self, figure: str, other: Row) -> Spread | None:
        """How many times the other's, each turn for itself."""
        ratios = [
            it[figure] / other.turns[number][figure]
            for number, it in self.turns.items()
            if figure in it and other.turns.get(number, {}).get(figure)
        ]
        return spread(ratios) if ratios else None


@dataclass(slots=True)
class Report:
    """A run."""

    run: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader of the lines has to know, said by whoever put them together."""

    def row(self, name: str) -> Row:
        """Of a system; empty when it did not take part."""
        return self.rows.get(name, Row(name))


def report(lines: Iterable[dict[str, Any]]) -> Report:
    """Of the lines that a run wrote."""
    it = Report()
    for line in lines:
        if "run" in line:
            it.run = line["run"]
            continue
        if "note" in line:
            it.notes.append(line["note"])
            continue
        row = it.rows.setdefault(line["system"], Row(line["system"]))
        row.absent = line.get("absent", row.absent)
        row.versions = line.get("versions", row.versions)
        if "turn" in line:
            it.loads.append(line["load"])
            if "figures" in line:
                row.turns.setdefault(line["turn"], {}).update(_meant(line["figures"]))
            if "failed" in line:
                row.failed[line["turn"]] = line["failed"]
    return it


def _meant(figures: dict[str, Any]) -> dict[str, Any]:
    """Without what a request costs where none was answered in that turn."""
    idle = tuple(name.removesuffix("rate") for name in ("mlp_rate", "cnn_rate") if figures.get(name) == 0)
    return {name: it for name, it in figures.items() if not (name.startswith(idle) and name.endswith(PER_REQUEST))}
