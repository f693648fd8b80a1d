"""A model file in, a file for each part out; bytes that lie beside the model are copied as they are, never loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

from meshnode.errors import InvalidInput
from meshnode.splitting.cuts import at_tensors, choose
from meshnode.splitting.graph import Whole, tensors_of

COPY_BYTES = 1024**2
ALIGN = 4096
"""Of tensors in a data file, so that they can be mapped."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part as it was written; `crossing_bytes` is what it hands on, a dimension that is not known counted as 1."""

    path: Path
    nodes: int
    weight_bytes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    crossing_bytes: int


def split(file: Path, folder: Path, *, name: str = "", parts: int = 0, at: Sequence[str] = ()) -> list[Part]:
    """Cut a model into so many parts, or after these tensors, into files NAME-1.onnx and so on of a folder.

    Raises InvalidInput when it cannot be cut like that, or a file is in the way.
    """
    try:
        model = onnx.load_model(file, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise InvalidInput(f"{file} cannot be read as an ONNX model: {error}") from error
    whole = Whole(model)
    cuts = at_tensors(whole.flow, at) if at else choose(whole.flow, parts)
    paths = [folder / f"{name or file.stem}-{number}.onnx" for number in range(1, len(cuts) + 2)]
    for path in paths:
        for target in (path, _data_of(path)):
            if target.exists():
                raise InvalidInput(f"{target} exists already", hint="remove it, or give another folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    weights, written = whole.flow.weights(cuts), []
    try:
        for number, path in enumerate(paths):
            part = whole.part(number, cuts)
            written.append(path)
            _save(part, path, file.parent)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
            _data_of(path).unlink(missing_ok=True)
        raise
    edges = [-1, *cuts, len(whole.flow.steps) - 1]
    return [
        Part(
            path,
            edges[number + 1] - edges[number],
            weights[number],
            whole.flow.inputs if number == 0 else whole.flow.crossing(edges[number]),
            whole.flow.outputs if number == len(cuts) else whole.flow.crossing(edges[number + 1]),
            0 if number == len(cuts) else int(whole.flow.costs[edges[number + 1]]),
        )
        for number, path in enumerate(paths)
    ]


def _data_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _save(part: ModelProto, path: Path, source: Path) -> None:
    """Write the model, and what lies outside of it into one file beside it."""
    outside = [tensor for tensor in _tensors(part.graph) if tensor.data_location == TensorProto.EXTERNAL]
    if outside:
        copied: dict[tuple[str, int, int], int] = {}
        with _data_of(path).open("wb") as target:
            for tensor in outside:
                told = {entry.key: entry.value for entry in tensor.external_data}
                origin = _beside(source, told.get("location", ""), tensor.name)
                offset = int(told.get("offset", 0))
                length = int(told.get("length", 0)) or origin.stat().st_size - offset
                key = (str(origin), offset, length)
                if key not in copied:
                    target.write(bytes(-target.tell() % ALIGN))
                    copied[key] = target.tell()
                    _copy(origin, offset, length, target, tensor.name)
                del tensor.external_data[:]
                given = {"location": _data_of(path).name, "offset": copied[key], "length": length}
                for name, value in given.items():
                    tensor.external_data.add(key=name, value=str(value))
    path.write_bytes(part.SerializeToString())


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from tensors_of(node)


def _beside(folder: Path, location: str, tensor: str) -> Path:
    """A file of the model's own folder. Raises InvalidInput for any other."""
    home = folder.resolve()
    path = (home / location).resolve()
    if not location or not path.is_relative_to(home) or not path.is_file():
        raise InvalidInput(f"the bytes of {tensor!r} are to lie in {location!r}, which is no file beside the model")
    return path


def _copy(origin: Path, offset: int, length: int, target: IO[bytes], tensor: str) -> None:
    with origin.open("rb") as file:
        file.seek(offset)
        while length:
            piece = file.read(min(COPY_BYTES, length))
            if not piece:
                raise InvalidInput(f"{origin} ends inside of {tensor!r}")
            target.write(piece)
            length -= len(piece)
