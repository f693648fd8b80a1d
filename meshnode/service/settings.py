"""Settings into a `config.toml` that a person may have written: what is changed is changed, all else stays as it was.

Pure. The outcome is read again and compared, so that no way of writing TOML that is not understood here does harm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from meshnode import toml
from meshnode.errors import ConfigError

_HEADER = re.compile(r"\s*\[")
Value = str | Sequence[str]


def with_settings(text: str, changes: Mapping[str, Value]) -> str:
    """The text with `{"name": "a", "discovery.seeds": ["b"]}` set in it. Raises ConfigError."""
    wanted = _read(text)
    for key, value in changes.items():
        table, _, name = key.rpartition(".")
        inner = wanted.setdefault(table, {}) if table else wanted
        if not isinstance(inner, dict):
            raise ConfigError(f"config.toml: {table} is no table")
        inner[name] = value if isinstance(value, str) else list(value)
    lines = text.splitlines()
    for key, value in changes.items():
        table, _, name = key.rpartition(".")
        lines = _set(lines, table, name, f"{name} = {json.dumps(value, ensure_ascii=False)}")
    made = "".join(f"{line}\n" for line in lines)
    if _read(made) != wanted:
        raise ConfigError(
            f"config.toml is written in a way that cannot be changed here: {', '.join(changes)}",
            hint="write them into it by hand, and leave the options out",
        )
    return made


def _read(text: str) -> dict[str, Any]:
    try:
        return toml.read(text)
    except ValueError as error:
        raise ConfigError(f"config.toml: {error}", hint="correct the file, or move it away") from error


def _set(lines: list[str], table: str, name: str, said: str) -> list[str]:
    start, end = _section(lines, table)
    if start < 0:
        return [*lines, *([""] if lines else []), f"[{table}]", said]
    assigned = re.compile(rf"\s*{re.escape(name)}\s*=")
    for i in range(start, end):
        if assigned.match(lines[i]):
            return [*lines[:i], said, *lines[i + 1 :]]
    return [*lines[:start], said, *lines[start:]]


def _section(lines: list[str], table: str) -> tuple[int, int]:
    """Where the lines of a table are; (-1, -1) when there is none."""
    headers = [i for i, line in enumerate(lines) if _HEADER.match(line)]
    if not table:
        return 0, headers[0] if headers else len(lines)
    for i in headers:
        if lines[i].partition("#")[0].replace(" ", "").strip() == f"[{table}]":
            return i + 1, next((j for j in headers if j > i), len(lines))
    return -1, -1
