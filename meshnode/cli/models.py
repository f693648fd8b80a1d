"""Commands about models: `meshnode model add/list/show/remove/flag/clear`, `pull/load/unload/pin/unpin` and `split`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from meshnode.cli import context, render
from meshnode.cli.completion import model_names, node_names
from meshnode.cli.fleet import read
from meshnode.cli.moving import moving
from meshnode.cli.publisher import sign
from meshnode.cli.split import split
from meshnode.client import AsyncClient
from meshnode.errors import InvalidInput

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="name, name:version or digest", autocompletion=model_names)
]

ModelNames = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="name, name:version or digest; several with commas between", autocompletion=model_names
    ),
]

OnNode = Annotated[
    str | None, typer.Option("--on", metavar="NODE", help="Default: this node.", autocompletion=node_names)
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(help="The models of the mesh.", no_args_is_help=True, rich_markup_mode=None)
    group.command("add")(add)
    group.command("sign")(sign)
    group.command("list")(list_models)
    group.command("ls", help="The same as list.")(list_models)
    group.command("show")(show)
    group.command("remove")(remove)
    group.command("split")(split)
    group.command("rm", help="The same as remove.")(remove)
    group.command("flag")(flag)
    group.command("clear")(clear)
    for command in (pull, load, unload, pin, unpin):
        group.command()(command)
    app.add_typer(group, name="model")


def add(
    file: Annotated[Path, typer.Argument(help="An ONNX file; its external data lies beside it.")],
    name: Annotated[str, typer.Option(help="Default: the file's name.")] = "",
    version: Annotated[int | None, typer.Option(min=1, help="Default: the next one.")] = None,
    zone: Annotated[str, typer.Option(help="Keep it in this zone: no node outside gets, runs or passes it on.")] = "",
    signature: Annotated[
        Path | None, typer.Option(help="A publisher's, by `model sign`; it says name, version and zone.")
    ] = None,
) -> None:
    """Make a model known to the whole mesh: it is hashed, stored, loaded and run once on this node."""
    if not file.is_file():
        raise InvalidInput(f"{file}: no such file" if not file.exists() else f"{file} is no file")
    signed = read(signature) if signature else None
    document = asyncio.run(
        _add(file.expanduser().absolute(), name or None, version, zone or None, signed, file.stat().st_size)
    )
    context.show(
        document,
        lambda m: f"{m['name']}:{m['version']} is known to the mesh ({render.size(m['size'])}, {m['digest'][:12]})",
    )


async def _add(
    file: Path, name: str | None, version: int | None, zone: str | None, signature: str | None, nbytes: int
) -> dict[str, Any]:
    """The model's document; meanwhile, when it takes long, how far it is, on stderr."""
    async with AsyncClient(context.current.home) as client:
        adding = client.add_model(file, name=name, version=version, zone=zone, signature=signature)
        return await moving(client, adding, f"storing and trying {file.name} ({render.size(nbytes)})", path=str(file))


def list_models() -> None:
    """The models of the mesh."""
    with context.client() as client:
        documents = client.models()
    context.show(documents, lambda documents: render.model_list(documents, context.console().width))


def show(model: ModelName) -> None:
    """Everything about a model."""
    with context.client() as client:
        document = client.ask("model.show", model=model)
    context.show(document, render.model_show)


def remove(model: ModelName) -> None:
    """Take a model out of the mesh; its publisher may, and an admin."""
    with context.client() as client:
        document = client.remove_model(model)
    context.show(document, lambda m: f"removed {m['name']}:{m['version']}")


def flag(
    model: ModelName, reason: Annotated[str, typer.Option(help="What people are told who want to run it.")] = ""
) -> None:
    """Keep a model from running on any node, at once; an admin may."""
    with context.client() as client:
        document = client.ask("model.flag", model=model, reason=reason)
    context.show(document, lambda m: f"{m['name']}:{m['version']} runs on no node any more")


def clear(model: ModelName) -> None:
    """Let a model run again that nodes reported for killing their workers; an admin may."""
    with context.client() as client:
        document = client.ask("model.clear", model=model)
    context.show(document, lambda m: f"{m['name']}:{m['version']} may run again ({m['cleared']} reports taken back)")


def pull(model: ModelName, on: OnNode = None) -> None:
    """Have a model on the disk of this node, or of another one, before a task needs it."""
    document = asyncio.run(_pull(model, on))
    context.show(
        document, lambda m: f"{_what(m)} is on {m['node_name']} ({render.size(m['size'])}, {m['seconds']:.1f} s)"
    )


async def _pull(model: str, on: str | None) -> dict[str, Any]:
    async with AsyncClient(context.current.home) as client:
        pulling = client.ask("model.pull", model=model, node=on)
        document: dict[str, Any] = await moving(client, pulling, f"fetching {model}", model=model, node=on)
        return document


def load(model: ModelName, on: OnNode = None) -> None:
    """Have a model in memory, so that its first task need not wait; it is fetched when it must be."""
    with context.client() as client:
        document = client.ask("model.load", model=model, node=on)
    context.show(document, lambda m: f"{_what(m)} is in the memory of {m['node_name']}")


def unload(model: ModelName, on: OnNode = None) -> None:
    """Take a model out of memory; the next task that needs it loads it again."""
    with context.client() as client:
        document = client.ask("model.unload", model=model, node=on)
    context.show(document, lambda m: f"{_what(m)} is not in the memory of {m['node_name']} any more")


def pin(
    model: ModelName,
    replicas: Annotated[int | None, typer.Option(min=1, help="So many nodes keep it on their disks.")] = None,
    on: Annotated[
        str | None, typer.Option("--on", metavar="NODE", help="This one does.", autocompletion=node_names)
    ] = None,
) -> None:
    """Have a model kept where it is wanted, whatever else needs the room: a blueprint `pin-NAME` of one entry."""
    if (replicas is None) == (on is None):
        raise typer.BadParameter("give --replicas N or --on NODE")
    with context.client() as client:
        document = client.ask("model.pin", model=model, replicas=replicas, node=on)
    context.show(document, _pinned)


def unpin(model: ModelName) -> None:
    """Take a pin back; the files stay until their room is needed."""
    with context.client() as client:
        document = client.ask("model.unpin", model=model)
    context.show(document, lambda it: f"removed blueprint {it['name']}")


def _pinned(document: dict[str, Any]) -> str:
    (row,) = document["models"]
    names = ", ".join(seat["name"] for seat in row["seats"]) or "no node"
    short = f"; {row['missing']} more than there are nodes for it" if row["missing"] else ""
    return f"{row['model']}:{row['version']} is pinned on {names}{short} (blueprint {document['name']})"


def _what(document: dict[str, Any]) -> str:
    return f"{document['name']}:{document['version']}"
