"""What every command shares: the global options, the client, and how results and errors are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshnode import config
from meshnode.errors import MeshError

if TYPE_CHECKING:
    from rich.console import Console

    from meshnode.blocking import Client

ATTEMPTS_SHOWN = 8


@dataclass(slots=True)
class Context:
    """The global options of this run."""

    home: Path = field(default_factory=config.default_home)
    json: bool = False
    debug: bool = False


current = Context()


def console(*, stderr: bool = False) -> Console:
    """Where people read; honours NO_COLOR and the terminal's width. Brackets in what it is given are only brackets."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, stderr=stderr)


@contextmanager
def client() -> Iterator[Client]:
    """A client of the agent. Raises AgentUnavailable."""
    from meshnode.blocking import Client

    with Client(current.home) as it:
        yield it


def show(value: Any, text: Callable[[Any], Any]) -> None:
    """The value as JSON, or as `text` makes it for people."""
    if current.json:
        emit(value)
        return
    shown = text(printable(value))
    if isinstance(shown, str):  # what is plain needs no library that knows of colours
        print(shown)
    else:
        console().print(shown, soft_wrap=True)


def emit(value: Any) -> None:
    """One JSON value on a line of its own."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    try:
        text.encode(sys.stdout.encoding, "strict")
    except UnicodeEncodeError:  # what the terminal, or Unicode itself, cannot say; JSON can
        text = json.dumps(value, allow_nan=False, default=str)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def fail(error: MeshError) -> None:
    """One line and a hint, and what was tried; with --json one object."""
    attempts = [
        {"node": a.node, "name": a.name, "outcome": a.outcome, "seconds": a.seconds, "detail": a.detail}
        for a in error.attempts
    ]
    wire = {key: value for key, value in error.to_wire().items() if key not in ("code", "message", "hint")}
    fail_with(error.code, str(error), error.hint, **wire | ({"attempts": attempts} if attempts else {}))
    if not current.json:
        for attempt in attempts[:ATTEMPTS_SHOWN]:
            detail = f": {attempt['detail']}" if attempt["detail"] not in ("", str(error)) else ""
            line = f"tried {attempt['name']}: {attempt['outcome']} after {attempt['seconds']:.3f} s{detail}"
            sys.stderr.write(f"  {printable(line)}\n")


def fail_with(code: str, message: str, hint: str, **more: Any) -> None:
    """One line and a hint; with --json one object."""
    if current.json:
        with suppress(OSError):  # a full disk behind stdout; what it says on stderr is all that is left
            emit({"event": "error", "code": code, "message": message} | ({"hint": hint} if hint else {}) | more)
            return
    sys.stderr.write(f"meshnode: {printable(message)}\n")
    if hint:
        sys.stderr.write(f"  {printable(hint)}\n")


def printable(value: Any) -> Any:
    """A document without control characters: what a peer says may be shown, and may not move the cursor."""
    if isinstance(value, str):
        return value if value.isprintable() else "".join(c if c.isprintable() else " " for c in value)
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    return value
