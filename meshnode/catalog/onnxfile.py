"""A look at an ONNX file without believing it: is it one, and which other files does it name?

Walks the protobuf wire format with budgets and builds nothing of the model: enough to refuse what is no ONNX model
and to find external data, before anything larger opens the file in a worker. Bytes in, facts or `ModelRefused` out;
no other error.

Field numbers are those of onnx.proto: ModelProto {1 ir_version, 7 graph, 8 opset_import, 20 training_info, 25
functions}, GraphProto {1 node, 5 initializer, 15 sparse_initializer}, NodeProto {5 attribute}, AttributeProto {5 t, 6
g, 10 tensors, 11 graphs, 22 sparse_tensor}, TensorProto {13 external_data, 14 data_location}.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from meshnode.errors import ModelRefused

Buffer = bytes | memoryview

DEPTH_MAX = 16
FIELDS_MAX = 5_000_000
EXTERNAL_MAX = 200_000
_GRAPH = {1: "node", 5: "tensor", 15: "sparse"}
_NODE = {5: "attribute"}
_ATTRIBUTE = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
_FUNCTION = {7: "node", 11: "attribute"}
_TRAINING = {1: "graph", 2: "graph"}
_SPARSE = {1: "tensor", 2: "tensor"}
_INSIDE = {
    "graph": _GRAPH,
    "node": _NODE,
    "attribute": _ATTRIBUTE,
    "function": _FUNCTION,
    "training": _TRAINING,
    "sparse": _SPARSE,
}
_MODEL = {7: "graph", 20: "training", 25: "function"}


@dataclass(slots=True)
class Outline:
    """What the walk found. `external` maps a location to the end of the bytes that are read of it, None for all."""

    ir_version: int = 0
    has_graph: bool = False
    external: dict[str, int | None] = field(default_factory=dict)


def outline(data: Buffer) -> Outline:
    """Raises ModelRefused."""
    view = memoryview(data).cast("B")
    if len(view) == 0:
        raise ModelRefused("the file is empty")
    if bytes(view[4:8]) == b"ORTM":
        raise ModelRefused(
            "this is an .ort file, and only ONNX models are taken", hint="add the .onnx it was made from"
        )
    found = Outline()
    budget = [FIELDS_MAX]
    try:
        for number, kind, value in _fields(view, budget):
            if number == 1 and kind == 0:
                found.ir_version = int(value)
            elif number in _MODEL and kind == 2:
                found.has_graph |= number == 7
                _walk(value, _MODEL[number], 1, found, budget)
    except _Malformed as error:
        raise ModelRefused(f"the file is not a whole ONNX model: {error}") from error
    if not found.has_graph or found.ir_version <= 0:
        raise ModelRefused("the file is not an ONNX model: it holds no graph")
    return found


class _Malformed(Exception):
    """The bytes are not what they should be."""


def _walk(view: memoryview, what: str, depth: int, found: Outline, budget: list[int]) -> None:
    if depth > DEPTH_MAX:
        raise _Malformed(f"graphs lie more than {DEPTH_MAX} deep")
    inside = _INSIDE[what]
    for number, kind, value in _fields(view, budget):
        below = inside.get(number)
        if below is None or kind != 2:
            continue
        if below == "tensor":
            _tensor(value, found, budget)
        else:
            _walk(value, below, depth + (below == "graph"), found, budget)


def _tensor(view: memoryview, found: Outline, budget: list[int]) -> None:
    entries: dict[str, str] = {}
    for number, kind, value in _fields(view, budget):
        if number == 13 and kind == 2:
            texts = {n: bytes(v) for n, k, v in _fields(value, budget) if k == 2}
            try:
                entries[texts.get(1, b"").decode()] = texts.get(2, b"").decode()
            except UnicodeDecodeError as error:
                raise _Malformed("an external data entry is no text") from error
    if not entries:
        return
    location = entries.get("location", "")
    try:
        offset, length = int(entries.get("offset", "0") or 0), entries.get("length")
        end = None if not length else offset + int(length)
    except ValueError as error:
        raise _Malformed("an external data entry has a bad number") from error
    if offset < 0 or (end is not None and end < offset):
        raise _Malformed("an external data entry has a negative range")
    if location not in found.external:
        if len(found.external) >= EXTERNAL_MAX:
            raise _Malformed(f"more than {EXTERNAL_MAX} external files are named")
        found.external[location] = end
    else:
        known = found.external[location]
        found.external[location] = None if known is None or end is None else max(known, end)


def _fields(view: memoryview, budget: list[int]) -> Iterator[tuple[int, int, memoryview]]:
    """(field number, wire type, value) of one message; the value of a varint is an int."""
    at, size = 0, len(view)
    while at < size:
        budget[0] -= 1
        if budget[0] < 0:
            raise _Malformed(f"it has more than {FIELDS_MAX} fields")
        key, at = _varint(view, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise _Malformed("a field has the number 0")
        if kind == 0:
            value, at = _varint(view, at)
            yield number, kind, value  # type: ignore[misc]
            continue
        if kind == 2:
            length, at = _varint(view, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _Malformed(f"a field has the wire type {kind}")
        if length > size - at:
            raise _Malformed("it ends in the middle of a field")
        yield number, kind, view[at : at + length]
        at += length


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(view):
            raise _Malformed("it ends in the middle of a number")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise _Malformed("a number is too long")
