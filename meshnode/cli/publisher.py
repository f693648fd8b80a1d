"""Commands about publishers: keys that sign models away from the mesh."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from meshnode.cli import context
from meshnode.errors import InvalidInput

KeyFile = Annotated[Path, typer.Option("--key", help="The publisher's key, made by `meshnode publisher keygen`.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(help="Whose signatures on models count.", no_args_is_help=True, rich_markup_mode=None)
    for name, command in (("keygen", keygen), ("add", add), ("remove", remove), ("list", list_publishers)):
        group.command(name)(command)
    app.add_typer(group, name="publisher")


def keygen(
    file: Annotated[Path, typer.Argument(help="Where the key goes; its public half beside it, as FILE.pub.")],
) -> None:
    """Make a publisher's key; keep it away from the mesh. Needs no agent."""
    from meshnode.trust import identity

    public = file.with_name(file.name + ".pub")
    if file.exists() or public.exists():
        raise InvalidInput(f"{file if file.exists() else public} is there already")
    key = identity.public_der(identity.load_or_create_key(file)).hex()
    public.write_text(key + "\n")
    context.show({"key": key, "public": str(public)}, lambda it: f"{it['public']} is for `meshnode publisher add`")


def add(
    name: Annotated[str, typer.Argument(help="What the publisher is called.")],
    file: Annotated[Path, typer.Argument(help="The public key: FILE.pub.")],
) -> None:
    """Let a key's signatures count; an admin may."""
    try:
        key = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}") from error
    with context.client() as client:
        document = client.ask("publisher.add", name=name, key=key)
    context.show(document, lambda it: f"signatures of {it['name']} count")


def remove(name: Annotated[str, typer.Argument(help="A publisher's name.")]) -> None:
    """Let them count no more; an admin may."""
    with context.client() as client:
        document = client.ask("publisher.remove", name=name)
    context.show(document, lambda it: f"signatures of {it['name']} count no more")


def list_publishers() -> None:
    """Whose signatures count, and what they signed."""
    with context.client() as client:
        documents = client.ask("publisher.list")
    context.show(documents, _rows)


def _rows(documents: list[Mapping[str, Any]]) -> str:
    if not documents:
        return "No publishers. `meshnode publisher keygen` and `meshnode publisher add` make one."
    return "\n".join(f"{it['name']}  {it['key'][-16:]}  {', '.join(it['models']) or '-'}" for it in documents)


def sign(
    file: Annotated[Path, typer.Argument(help="An ONNX file; its external data lies beside it.")],
    key: KeyFile,
    name: Annotated[str, typer.Option(help="Default: the file's name.")] = "",
    version: Annotated[int, typer.Option(min=1)] = 1,
    zone: Annotated[str, typer.Option(help="Bind it to this zone.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: FILE.sig.")] = None,
) -> None:
    """Sign a model as a publisher, for `model add --signature`. Needs no agent."""
    from meshnode.catalog.manifest import model_name
    from meshnode.catalog.store import Store
    from meshnode.config import Catalog
    from meshnode.trust import identity, publishing
    from meshnode.trust.zones import checked_zone

    signer = identity.load_key(key)
    called, zone = model_name(name or file.stem), checked_zone(zone) if zone else ""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        digest = asyncio.run(Store(Path(folder), Catalog()).add(file)).digest
    signature = signer.sign(publishing.message(called, version, digest, zone)).hex()
    public = identity.public_der(signer).hex()
    made = publishing.Signature(called, version, digest, public, signature, zone)
    target = output or file.with_name(file.name + ".sig")
    target.write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")
    context.show(
        {"file": str(target), **msgspec.to_builtins(made)},
        lambda it: (
            f"{it['file']}: {called}:{version} ({digest[:12]}); bring it in with `meshnode model add --signature`"
        ),
    )
