"""Commands about models: `meshnode model add/list/show/remove`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from meshnode.cli import context, render
from meshnode.cli.completion import model_names
from meshnode.cli.fleet import read
from meshnode.cli.publisher import sign
from meshnode.client import AsyncClient
from meshnode.errors import InvalidInput

SLOW_S = 1.0
"""An add that takes longer says what it does."""
SAY_S = 10.0

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="name, name:version or digest", autocompletion=model_names)
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
    group.command("rm", help="The same as remove.")(remove)
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
    document = asyncio.run(
        _add(file, name or None, version, zone or None, read(signature) if signature else None, file.stat().st_size)
    )
    context.show(
        document,
        lambda m: f"{m['name']}:{m['version']} is known to the mesh ({render.size(m['size'])}, {m['digest'][:12]})",
    )


async def _add(
    file: Path, name: str | None, version: int | None, zone: str | None, signature: str | None, nbytes: int
) -> dict[str, Any]:
    """The model's document; meanwhile, when it takes long, what is going on, on stderr."""
    began = time.monotonic()
    console = context.console(stderr=True)
    text = f"storing and trying {file.name} ({render.size(nbytes)})"
    async with AsyncClient(context.current.home) as client:
        adding = asyncio.ensure_future(
            client.add_model(file, name=name, version=version, zone=zone, signature=signature)
        )
        await asyncio.wait([adding], timeout=SLOW_S)
        if console.is_terminal and not adding.done():
            with console.status(text) as spinner:
                while not adding.done():
                    spinner.update(f"{text}, {time.monotonic() - began:.0f} s")
                    await asyncio.wait([adding], timeout=SLOW_S)
        while not adding.done():
            console.print(f"{text}, {time.monotonic() - began:.0f} s", soft_wrap=True)
            await asyncio.wait([adding], timeout=SAY_S)
        return adding.result()


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
