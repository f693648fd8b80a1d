"""What every command shares: the global options, the client, and how results and errors are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from meshnode import config
from meshnode.blocking import Client
from meshnode.errors import MeshError


@dataclass(slots=True)
class Context:
    """The global options of this run."""

    home: Path = field(default_factory=config.default_home)
    json: bool = False
    debug: bool = False


current = Context()


def console() -> Console:
    """Where people read; honours NO_COLOR and the terminal's width."""
    return Console(highlight=False, soft_wrap=False)


@contextmanager
def client() -> Iterator[Client]:
    """A client of the agent. Raises AgentUnavailable."""
    with Client(current.home) as it:
        yield it


def show(value: Any, text: Callable[[Any], Any]) -> None:
    """The value as JSON, or as `text` makes it for people."""
    if current.json:
        emit(value)
    else:
        rendered = text(value)
        if rendered is not None:
            console().print(rendered)


def emit(value: Any) -> None:
    """One JSON value on a line of its own."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()


def fail(error: MeshError) -> None:
    """One line and a hint."""
    if current.json:
        emit({"event": "error", **error.to_wire()})
        return
    sys.stderr.write(f"meshnode: {_printable(str(error))}\n")
    if error.hint:
        sys.stderr.write(f"  {_printable(error.hint)}\n")
    for attempt in error.attempts[:8]:
        detail = f": {attempt.detail}" if attempt.detail else ""
        sys.stderr.write(
            f"  tried {attempt.name}: {attempt.outcome} after {attempt.seconds:.3f} s{_printable(detail)}\n"
        )


def _printable(text: str) -> str:
    """Without control characters: what a peer says may be shown, and may not move the cursor."""
    return "".join(c if c.isprintable() else " " for c in text)
