"""Commands about the policy: what is allowed, what a file would refuse, and signing it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from meshnode.cli import context
from meshnode.cli.fleet import read

PolicyFile = Annotated[Path, typer.Argument(help="A policy in TOML; - reads it from standard input.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(help="What the mesh allows.", no_args_is_help=True, rich_markup_mode=None)
    group.command("show")(show)
    group.command("check")(check)
    group.command("set")(set_policy)
    app.add_typer(group, name="policy")


def show() -> None:
    """The rules that hold on this node, and where each comes from."""
    with context.client() as client:
        document = client.ask("policy.show")
    context.show(document, _rules)


def check(file: PolicyFile) -> None:
    """Say what a policy would refuse if it were signed, and change nothing."""
    with context.client() as client:
        document = client.ask("policy.check", text=read(file))
    context.show(document, _refused)


def set_policy(file: PolicyFile) -> None:
    """Sign a policy for the whole mesh; an admin may. It takes the place of the one before."""
    with context.client() as client:
        document = client.ask("policy.set", text=read(file))
    context.show(document, _rules)


def _rules(document: Mapping[str, Any]) -> str:
    head = f"the mesh's policy is version {document['version']}" if document["version"] else "the mesh has no policy"
    lines = [head if document["rules"] else f"{head}; nothing is restricted by one"]
    for row in document["rules"]:
        value = ", ".join(map(str, row["value"])) if isinstance(row["value"], list) else row["value"]
        lines.append(f"  {row['rule']} = {value}  ({row['from']})")
    return "\n".join(lines)


def _refused(document: Mapping[str, Any]) -> str:
    lines = [
        f"  {member['name']} ({member['id'][:8]}) may not {what}: {member[what]}"
        for member in document["members"]
        for what in ("submit", "publish")
        if member[what]
    ]
    lines += [
        f"  {it['name']}:{it['version']} may not run: {it['refused']}" for it in document["models"] if it["refused"]
    ]
    return "\n".join(["it would refuse:", *lines] if lines else ["it would refuse nothing that is here now"])
