"""What happened in a run, row by row: packets and events. It is hashed as it grows, and can be read."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
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

    def lines(self) -> tuple[str, ...]:
        """What was kept, to be read."""
        return tuple(map(str, self._rows))

    def diagram(self) -> Iterator[str]:
        """The first events, without packets, as a sequence diagram of mermaid."""
        rows = [row for row in self._rows if not row.nbytes][:DIAGRAM_MAX]
        yield "sequenceDiagram"
        for node in sorted({node for row in rows for node in (row.node, row.other)}):
            yield f"    participant n{node}"
        for row in rows:
            said = f"{row.at:.3f} s {row.what}".replace(";", ",").replace("#", "")
            yield (
                f"    Note over n{row.node}: {said}"
                if row.node == row.other
                else (f"    n{row.node}->>n{row.other}: {said}")
            )

    def write(self, path: Path) -> None:
        """Into a file: as a diagram when its name ends with .mmd, and else as lines."""
        lines = self.diagram() if path.suffix == ".mmd" else self.lines()
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
