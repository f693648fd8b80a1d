"""Commands about blueprints: which models live where, and how far that is."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from meshnode.blocking import Client
from meshnode.cli import context, render
from meshnode.cli.asking import seconds
from meshnode.errors import InvalidInput

LOOK_S = 0.5
SAY_S = 5.0
BlueprintName = Annotated[str, typer.Argument(metavar="BLUEPRINT", help="A blueprint's name.")]
Timeout = Annotated[str, typer.Option(help="How long it may take until everything is in its place: 90s, 10m, 2h.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(apply)
    group = typer.Typer(help="Which models live where.", no_args_is_help=True, rich_markup_mode=None)
    for name, command in (("list", list_blueprints), ("show", show), ("remove", remove), ("rollback", rollback)):
        group.command(name)(command)
    app.add_typer(group, name="blueprint")


def apply(
    file: Annotated[Path, typer.Argument(help="A blueprint in TOML; - reads it from standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    timeout: Timeout = "10m",
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait until everything is in its place.")] = False,
) -> None:
    """Say which models live where, and wait until they do; exit code 0 only then."""
    timeout_s = seconds(timeout)
    with context.client() as client:
        plan = context.printable(client.ask("blueprint.apply", text=read(file), dry_run=dry_run))
        _say(render_plan(plan))
        if dry_run or detach:
            if context.current.json:
                context.emit(plan)
            return
        raise typer.Exit(_follow(client, plan["name"], plan["revision"], timeout_s))


def rollback(name: BlueprintName, timeout: Timeout = "10m") -> None:
    """Go back to what the blueprint said before, and wait until that is so."""
    with context.client() as client:
        plan = context.printable(client.ask("blueprint.rollback", name=name))
        _say(render_plan(plan))
        raise typer.Exit(_follow(client, name, plan["revision"], seconds(timeout)))


def list_blueprints() -> None:
    """The blueprints of the mesh."""
    with context.client() as client:
        documents = client.ask("blueprint.list")
    context.show(documents, _table)


def show(name: BlueprintName) -> None:
    """Who has what of a blueprint, and why not."""
    with context.client() as client:
        document = client.ask("blueprint.show", name=name)
    context.show(document, render_state)


def remove(name: BlueprintName) -> None:
    """Take a blueprint back: nothing has to be anywhere for its sake; files stay until their room is needed."""
    with context.client() as client:
        document = client.ask("blueprint.remove", name=name)
    context.show(document, lambda it: f"removed blueprint {it['name']}")


def read(file: Path) -> str:
    """A file's text, or that of standard input. Raises InvalidInput."""
    if str(file) == "-":
        return sys.stdin.read()
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}") from error


def _follow(client: Client, name: str, revision: int, timeout_s: float) -> int:
    """Tell how far it is until it is done; the exit code."""
    console = context.console(stderr=True)
    ends, said_at, said = time.monotonic() + timeout_s, 0.0, ""
    tried = False
    while True:
        document = context.printable(client.ask("blueprint.show", name=name))
        back = tried and "back to version" in document["note"]
        tried |= any(it["trial"] is not None for it in document["models"])
        if document["converged"] or time.monotonic() > ends:
            break
        text = render_progress(document)
        if text != said or time.monotonic() - said_at > SAY_S:
            console.print(text, soft_wrap=True)
            said, said_at = text, time.monotonic()
        time.sleep(LOOK_S)
    if document["revision"] > revision and document["note"]:
        console.print(document["note"], soft_wrap=True)
    ok = document["converged"] and not back
    if context.current.json:
        context.emit({"ok": ok, **document})
    elif ok:
        _say("everything is in its place")
    else:
        context.console().print(render_state(document), soft_wrap=True)
        _say("it was taken back" if back else f"not everything is in its place after {timeout_s:g} s")
    return 0 if ok else 1


def _say(text: str) -> None:
    if not context.current.json:
        context.console().print(text, soft_wrap=True)


def _table(documents: list[Mapping[str, Any]]) -> Text:
    if not documents:
        return Text("No blueprints. `meshnode apply FILE.toml` says which models live where.")
    rows: list[list[render.Cell]] = [
        [
            document["name"],
            str(document["revision"]),
            ", ".join(f"{it['model']}:{it['version']} x {it['replicas']}" for it in document["models"]),
            Text("in place", "green") if document["converged"] else Text("on its way", "yellow"),
        ]
        for document in documents
    ]
    return render.table(("blueprint", "revision", "models", ""), rows, right=("revision",))


def render_plan(document: Mapping[str, Any]) -> str:
    """What would change."""
    if document.get("changed") is False:
        return f"blueprint {document['name']} says this already (revision {document['revision']})"
    lines = [f"blueprint {document['name']}, revision {document['revision']}:"]
    for it in document["models"]:
        trial = it["trial"]
        version = it["version"] if trial is None else f"{trial['version']} (tried beside {it['version']})"
        there = [seat["name"] for seat in it["seats"] if seat["there"]]
        coming = [seat["name"] for seat in it["seats"] if not seat["there"]]
        lines.append(f"  {it['model']}:{version} x {it['replicas']}")
        lines += [f"    has it: {', '.join(there)}"] if there else []
        size = f" ({render.size(it['fetch_bytes'])} to fetch)" if it["fetch_bytes"] else ""
        lines += [f"    gets it: {', '.join(coming)}{size}"] if coming else []
        lines += [f"    may let it go: {', '.join(it['leaves'])}"] if it["leaves"] else []
        lines += _missing(it)
    lines += [f"  {name}: nowhere any more" for name in document["gone"]]
    return "\n".join(lines)


def render_progress(document: Mapping[str, Any]) -> str:
    """One line."""
    parts = []
    for it in document["models"]:
        there = sum(seat["there"] for seat in it["seats"])
        wanted = len(it["seats"]) + it["missing"]
        trial = ""
        if it["trial"] is not None:
            trial = f", version {it['trial']['version']} on trial" + (f": {why}" if (why := it["trial"]["why"]) else "")
        parts.append(f"{it['model']}:{it['version']} on {there} of {wanted}{trial}")
    return "; ".join(parts)


def render_state(document: Mapping[str, Any]) -> str:
    """Who has what, and why not."""
    state = "in place" if document["converged"] else "on its way"
    lines = [f"blueprint {document['name']}, revision {document['revision']}: {state}"]
    if document["note"]:
        lines.append(f"  {document['note']}")
    for it in document["models"]:
        lines.append(f"  {it['model']}:{it['version']} x {it['replicas']}")
        if it["trial"] is not None:
            where = (
                "everywhere"
                if it["trial"]["everywhere"]
                else "on " + ", ".join(seat["name"] for seat in it["seats"] if seat["trying"])
            )
            lines.append(f"    version {it['trial']['version']} is tried {where}")
        for seat in it["seats"]:
            has = "has it" if seat["there"] else seat.get("state", "gets it")
            why = f": {seat['reason']}" if seat.get("reason") else ""
            lines.append(f"    {seat['name']}: {has}{why}")
        lines += _missing(it)
    return "\n".join(lines)


def _missing(it: Mapping[str, Any]) -> list[str]:
    if not it["missing"]:
        return []
    lines = [f"    {it['missing']} more than there are nodes for it:"]
    return lines + [f"      not {row['name']}: {row['reason']}" for row in it["left_out"]]
