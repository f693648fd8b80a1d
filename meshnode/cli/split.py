"""`meshnode model split`: one model cut into several that run as a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from meshnode.cli import context, render
from meshnode.errors import InvalidInput, ToolMissing

INSTALL = 'install it with `pip install "meshnode[split]"`'


def split(
    file: Annotated[Path, typer.Argument(help="An ONNX file; its external data lies beside it.")],
    parts: Annotated[int | None, typer.Option(help="Cut it into so many, of about the same weight.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TENSOR,...", help="Cut it after each of these instead.")] = None,
    name: Annotated[str, typer.Option(help="Parts are called NAME-1 and so on. Default: the file's name.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder of the parts. Default: NAME-parts.")
    ] = None,
) -> None:
    """Cut a model that is too big for one machine into parts that are ordinary models, for a pipeline.

    Cuts lie between nodes, where parts weigh about the same and little has to cross. The parts run as `meshnode run
    NAME-1,NAME-2 FILE`, or `mesh.pipeline("NAME-1", "NAME-2")`. Needs the package onnx.
    """
    if (parts is None) == (at is None):
        raise typer.BadParameter("give --parts N, or --at TENSOR,...")
    if not file.is_file():
        raise InvalidInput(f"{file}: no such file")
    try:
        from meshnode.splitting.files import split as cut
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("onnx", "google"):
            raise
        raise ToolMissing("cutting a model needs the package onnx, which is not installed", hint=INSTALL) from error
    stem = name or file.stem
    if Path(stem).name != stem:
        raise typer.BadParameter(f"{stem!r} is no name of a file")
    tensors = [tensor.strip() for tensor in (at or "").split(",") if tensor.strip()]
    made = cut(file, output or Path(f"{stem}-parts"), name=stem, parts=parts or 0, at=tensors)
    document = [
        {
            "path": str(part.path),
            "nodes": part.nodes,
            "weight_bytes": part.weight_bytes,
            "inputs": list(part.inputs),
            "outputs": list(part.outputs),
            "crossing_bytes": part.crossing_bytes,
        }
        for part in made
    ]
    context.show(document, _text)


def _text(document: list[dict[str, Any]]) -> str:
    lines = []
    for part in document:
        hands = f", hands on {render.size(part['crossing_bytes'])}: {', '.join(part['outputs'])}"
        last = part is document[-1]
        lines.append(
            f"{part['path']}: {part['nodes']} nodes, {render.size(part['weight_bytes'])} of weights"
            f"{'' if last else hands}"
        )
    names = ",".join(Path(part["path"]).stem.lower() for part in document)
    lines.append(f"`meshnode model add` each of them, anywhere; then `meshnode run {names} FILE`")
    return "\n".join(lines)
