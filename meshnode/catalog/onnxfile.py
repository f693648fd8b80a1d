"""A look at an ONNX file without believing it: is it one, and which other files does it name?

Walks the protobuf wire format with budgets and builds nothing of the model: enough to refuse what is no ONNX model
and to find external data, before anything larger opens the file in a worker. Whether the graph makes sense is for the
worker to say. Bytes in, facts or `ModelRefused` out; no other error.

A tensor with external data holds the word `location`, so only messages that contain it are entered: a file without
external data costs one search, whatever its size.

Field numbers are those of onnx.proto: ModelProto {1 ir_version, 7 graph, 8 opset_import, 20 training_info, 25
functions}, GraphProto {1 node, 5 initializer, 15 sparse_initializer}, NodeProto {5 attribute}, AttributeProto {5 t, 6
g, 10 tensors, 11 graphs, 22 sparse_tensor, 23 sparse_tensors}, FunctionProto {7 node, 11 attribute_proto},
TrainingInfoProto {1 initialization, 2 algorithm}, SparseTensorProto {1 values, 2 indices}, TensorProto
{13 external_data}, StringStringEntryProto {1 key, 2 value}.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from mmap import mmap

from meshnode.errors import ModelRefused

DEPTH_MAX = 16
"""Graphs within graphs."""
FIELDS_MAX = 1_000_000
"""Fields looked at; about a second."""
MENTIONS_MAX = 1_000_000
"""Places where the word `location` stands."""
KEY = b"location"
WINDOW = 1024 * 1024
"""Searched at a time: a search holds the interpreter, and with it the agent's loop, for 4 s in a model of 10 GB."""
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


def outline(data: bytes | bytearray | memoryview | mmap) -> Outline:
    """Raises ModelRefused."""
    with memoryview(data) as whole, whole.cast("B") as view:
        if len(view) == 0:
            raise ModelRefused("the file is empty")
        head = bytes(view[:64])
        if head[4:8] == b"ORTM":
            raise ModelRefused(
                "this is an .ort file, and only ONNX models are taken", hint="add the .onnx it was made from"
            )
        if head.startswith(b"version https://git-lfs"):
            raise ModelRefused("this is a Git LFS pointer, not the model", hint="`git lfs pull` fetches the model")
        try:
            found = _Walk(view).model()
        except _Malformed as error:
            raise ModelRefused(f"the file is not a whole ONNX model: {error}") from error
    if not found.has_graph or found.ir_version <= 0:
        raise ModelRefused("the file is not an ONNX model: it holds no graph")
    return found


class _Malformed(Exception):
    """The bytes are not what they should be."""


def _mentions(view: memoryview) -> array[int]:
    """Where the word stands, in order; one more than allowed at most."""
    places = (
        start + match.start()
        for start in range(0, len(view), WINDOW)
        for match in re.finditer(KEY, view[start : start + WINDOW + len(KEY) - 1])
    )
    return array("Q", islice(places, MENTIONS_MAX + 1))


class _Walk:
    """One pass over one file."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._fields_left = FIELDS_MAX
        self._found = Outline()
        self._mentions = _mentions(view)
        if len(self._mentions) > MENTIONS_MAX:
            raise _Malformed(f"it mentions external data more than {MENTIONS_MAX} times")

    def model(self) -> Outline:
        """The whole file is one ModelProto."""
        for number, kind, start, end in self._fields(0, len(self._view)):
            if number == 1 and kind == 0:
                self._found.ir_version = start
            elif number in _MODEL and kind == 2:
                self._found.has_graph |= number == 7
                self._enter(_MODEL[number], start, end, 1)
        return self._found

    def _enter(self, what: str, start: int, end: int, depth: int) -> None:
        if not self._mentioned(start, end):
            return
        if depth > DEPTH_MAX:
            raise _Malformed(f"graphs lie more than {DEPTH_MAX} deep")
        if what == "tensor":
            self._tensor(start, end)
            return
        inside = _INSIDE[what]
        for number, kind, at, to in self._fields(start, end):
            below = inside.get(number)
            if below is not None and kind == 2:
                self._enter(below, at, to, depth + (below == "graph"))

    def _tensor(self, start: int, end: int) -> None:
        entries: dict[str, str] = {}
        for number, kind, at, to in self._fields(start, end):
            if number == 13 and kind == 2:
                texts = {n: bytes(self._view[a:b]) for n, k, a, b in self._fields(at, to) if k == 2}
                try:
                    entries[texts.get(1, b"").decode()] = texts.get(2, b"").decode()
                except UnicodeDecodeError as error:
                    raise _Malformed("an external data entry is no text") from error
        if not entries:
            return
        try:
            offset, length = int(entries.get("offset") or 0), entries.get("length")
            end_byte = None if not length else offset + int(length)
        except ValueError as error:
            raise _Malformed("an external data entry has a bad number") from error
        if offset < 0 or (end_byte is not None and end_byte < offset):
            raise _Malformed("an external data entry has a negative range")
        self._name(entries.get("location", ""), offset, end_byte)

    def _name(self, location: str, offset: int, end: int | None) -> None:
        """A tensor lies in `location`; without an end it goes from the offset to the end of the file."""
        known = self._found.external.get(location, 0)
        if end is None and offset == 0:
            self._found.external[location] = known or None
        else:
            self._found.external[location] = max(known or 0, end if end is not None else offset)

    def _mentioned(self, start: int, end: int) -> bool:
        at = bisect_left(self._mentions, start)
        return at < len(self._mentions) and self._mentions[at] + len(KEY) <= end

    def _fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(field number, wire type, start, end) of the fields of one message; a varint's value stands in `start`."""
        view = self._view
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise _Malformed(f"it has more than {FIELDS_MAX} fields")
            key = view[at]
            if key < 0x80:
                at += 1
            else:
                key, at = self._varint(at, end)
            number, kind = key >> 3, key & 7
            if number == 0:
                raise _Malformed("a field has the number 0")
            if kind == 0:
                value, at = self._varint(at, end)
                yield number, kind, value, at
                continue
            if kind == 2:
                length, at = self._varint(at, end)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise _Malformed(f"a field has the wire type {kind}")
            if length > end - at:
                raise _Malformed("it ends in the middle of a field")
            yield number, kind, at, at + length
            at += length

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        view = self._view
        value = shift = 0
        while at < end:
            byte = view[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                raise _Malformed("a number is too long")
        raise _Malformed("it ends in the middle of a number")
