"""A machine made of files and of what its programs said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def plant(root: Path, files: dict[str, object]) -> Path:
    """Write the files of a pretended machine; returns its root."""
    for name, said in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{said}\n")
    return root


class Programs:
    """The machine's programs: what each says, by its first word; None is a program that fails. Counts its runs."""

    def __init__(self, **said: str | None) -> None:
        self.said = said
        self.runs: list[tuple[str, ...]] = []

    def __call__(self, words: Sequence[str]) -> str | None:
        self.runs.append(tuple(words))
        return self.said.get(words[0])
