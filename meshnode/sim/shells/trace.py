"""What happened in a run, row by row: packets and events. It is hashed as it grows, and can be read."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

TAIL = 400
"""Rows that are kept to be shown when nobody asked for all."""
DIAGRAM_MAX = 400
"""Arrows and notes of a diagram: no viewer draws more."""


class Row(NamedTuple):
    """From one node to another, or of one alone; `nbytes` is 0 for what is no packet."""

    at: float
    node: int
    other: int
    what: str
    nbytes: int = 0

    def __str__(self) -> str:
        size = f" {self.nbytes} B" if self.nbytes else ""
        who = f"{self.node:>3}" if self.node == self.other else f"{self.node:>3} -> {self.other}"
        return f"{self.at:12.6f}  {who:10} {self.what}{size}"


class Trace:
    """See the module's docstring."""

    def __init__(self, *, whole: bool = False) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._rows: deque[Row] = deque(maxlen=None if whole else TAIL)

    def note(self, row: Row) -> None:
        """It happened."""
        self._hash.update(f"{row.at!r} {row.node} {row.other} {row.what} {row.nbytes}\n".encode())
        self._rows.append(row)

    def digest(self) -> str:
        """Of all of it: the same seed must give the same."""
        return self._hash.hexdigest()

    def rows(self) -> tuple[Row, ...]:
        """What was kept."""
        return tuple(self._rows)


def write(rows: Sequence[Row], path: Path) -> None:
    """Into a file to be read: as a diagram when its name ends with .mmd, and else as lines."""
    lines = diagram(rows) if path.suffix == ".mmd" else map(str, rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def diagram(rows: Sequence[Row]) -> Iterator[str]:
    """The last events, without packets, as a sequence diagram of mermaid."""
    shown = [row for row in rows if not row.nbytes][-DIAGRAM_MAX:]
    yield "sequenceDiagram"
    for node in sorted({node for row in shown for node in (row.node, row.other)}):
        yield f"    participant n{node}"
    for row in shown:
        said = f"{row.at:.3f} s {row.what}".replace(";", ",").replace("#", "")
        arrow = f"Note over n{row.node}" if row.node == row.other else f"n{row.node}->>n{row.other}"
        yield f"    {arrow}: {said}"
