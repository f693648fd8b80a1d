"""Commands about models: `meshnode model add/list/show/remove`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshnode.cli import context, render


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(help="The models of the mesh.", no_args_is_help=True, rich_markup_mode=None)
    group.command("add")(add)
    group.command("list")(list_models)
    group.command("ls", hidden=True)(list_models)
    group.command("show")(show)
    group.command("remove")(remove)
    group.command("rm", hidden=True)(remove)
    app.add_typer(group, name="model")


def names(incomplete: str) -> list[str]:
    """For the shell's completion."""
    try:
        with context.client() as client:
            return [m["name"] for m in client.models() if m["name"].startswith(incomplete)]
    except Exception:  # a completion says nothing rather than something wrong
        return []


ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="name, name:version or digest", autocompletion=names)]


def add(
    file: Annotated[Path, typer.Argument(help="An ONNX file; its external data lies beside it.")],
    name: Annotated[str, typer.Option(help="Default: the file's name.")] = "",
    version: Annotated[int | None, typer.Option(min=1, help="Default: the next one.")] = None,
) -> None:
    """Make a model known to the whole mesh."""
    with context.client() as client:
        if context.current.json:
            document = client.add_model(file, name=name or None, version=version)
        else:
            with context.console().status(f"checking and storing {file.name}"):
                document = client.add_model(file, name=name or None, version=version)
    context.show(
        document,
        lambda m: f"{m['name']}:{m['version']} is known to the mesh ({render.size(m['size'])}, {m['digest'][:12]})",
    )


def list_models() -> None:
    """The models of the mesh."""
    with context.client() as client:
        context.show(client.models(), render.model_list)


def show(model: ModelName) -> None:
    """Everything about a model."""
    with context.client() as client:
        context.show(client.ask("model.show", model=model), render.model_show)


def remove(model: ModelName) -> None:
    """Take a model out of the mesh; its publisher may, and an admin."""
    with context.client() as client:
        context.show(client.remove_model(model), lambda m: f"removed {m['name']}:{m['version']}")
