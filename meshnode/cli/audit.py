"""Commands about the audit record: what was done here, and whether the record is as it was written.

They read the files of the home, whether its agent runs or not.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from meshnode.audit import book
from meshnode.audit.chain import Broken
from meshnode.cli import context
from meshnode.errors import HomeError, InvalidInput, MeshError
from meshnode.trust import identity

LOOK_S = 0.3
FIRST = ("seq", "at", "event", "prev")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(help="What was done on this node, by whom.", no_args_is_help=True, rich_markup_mode=None)
    group.command("verify")(verify)
    group.command("tail")(tail)
    app.add_typer(group, name="audit")


def verify() -> None:
    """Whether the record is as it was written: nothing changed, dropped or put in. Exit code 1 when not."""
    folder = _folder()
    try:
        reading = book.verify(folder, identity.verify, _keys())
    except Broken as error:
        raise MeshError(f"the record is not what was written: {error}") from error
    document = {
        "ok": True,
        "records": sum(reading.counts.values()),
        "files": len(book.files(folder)),
        "from": reading.first_at,
        "to": reading.last_at,
        "sealed_at": reading.sealed_at or None,
        "unsealed": (reading.seq or 0) - reading.sealed_seq,
        "events": dict(sorted(reading.counts.items())),
    }
    context.show(document, _text)


def tail(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last records.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they are made.")] = False,
    event: Annotated[str, typer.Option(help="Only these: task, submitted, grant, revoke, model, asked, …")] = "",
) -> None:
    """The last records."""
    folder = _folder()
    wanted = {word.strip() for word in event.split(",") if word.strip()}
    records = (it for it in _records(folder) if not wanted or it.get("event") in wanted)
    seen = -1
    for record in deque(records, maxlen=lines or 1):
        seen = record.get("seq", seen)
        if lines:
            _show(record)
    try:
        while follow:
            time.sleep(LOOK_S)
            for record in _records(folder):
                if record.get("seq", 0) > seen:
                    seen = record["seq"]
                    if not wanted or record.get("event") in wanted:
                        _show(record)
    except KeyboardInterrupt:
        raise typer.Exit from None


def _folder() -> Any:
    folder = context.current.home / "audit"
    if not book.files(folder):
        raise InvalidInput(f"there is no audit record in {context.current.home}", hint="is it the right --home?")
    return folder


def _keys() -> frozenset[bytes]:
    """This node's key, and those that it had and put away."""
    found = set()
    for path in context.current.home.glob("node.key*"):
        try:
            found.add(identity.public_der(identity.load_key(path)))
        except HomeError:
            continue
    return frozenset(found)


def _records(folder: Any) -> Iterator[dict[str, Any]]:
    try:
        for line in book.lines(folder):
            try:
                yield msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError:
                continue
    except OSError as error:
        raise HomeError(f"the audit record cannot be read: {error}") from error


def _show(record: dict[str, Any]) -> None:
    if context.current.json:
        context.emit(record)
        return
    at = datetime.fromtimestamp(record.get("at", 0), UTC).strftime("%Y-%m-%d %H:%M:%S")
    rest = [f"{key}={_short(value)}" for key, value in record.items() if key not in FIRST and value is not None]
    context.console().print(context.printable(f"{at}  {record.get('event')}  {' '.join(rest)}"), soft_wrap=True)


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) >= 52 and " " not in text else text


def _text(document: dict[str, Any]) -> str:
    def day(at: float) -> str:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")

    sealed = f"sealed at {day(document['sealed_at'])}" if document["sealed_at"] else "not sealed yet"
    behind = f", {document['unsealed']} records since" if document["unsealed"] else ""
    events = ", ".join(f"{count} {event}" for event, count in document["events"].items())
    return (
        f"{document['records']} records in {document['files']} files, "
        f"{day(document['from'])} to {day(document['to'])} UTC: as they were written\n{sealed}{behind}\n{events}"
    )
