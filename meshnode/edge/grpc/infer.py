"""`ModelInfer`: its request and its answer, from bytes and to bytes.

A tensor in `raw_input_contents` is most of the request. protobuf would copy it twice, so it is cut out before: what is
left is small, and the tensors are views of what was received. The answer is put together the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from meshnode.edge.grpc import messages
from meshnode.edge.openinference import parameters, tensors
from meshnode.edge.openinference.parameters import Wishes
from meshnode.edge.openinference.tensors import BINARY_ONLY, Piece
from meshnode.errors import InvalidInput
from meshnode.wire.messages import TensorSpec
from meshnode.wire.tensors import STRING, Buffer

_REQUEST, _RESPONSE = messages.of("ModelInferRequest"), messages.of("ModelInferResponse")
RAW_IN, RAW_OUT = 7, 6
"""The fields' numbers."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""How a field is written."""
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@dataclass(frozen=True, slots=True)
class Request:
    """`raw` is whether its tensors came as bytes: then those of the answer do."""

    model: str
    version: str
    id: str
    inputs: Sequence[Piece]
    outputs: tuple[str, ...]
    wishes: Wishes
    raw: bool


def read(data: bytes) -> Request:
    """Raises InvalidInput."""
    head, raw = cut(data)
    try:
        it = _REQUEST.FromString(head)
    except DecodeError as error:
        raise InvalidInput(f"not a ModelInferRequest: {error}") from error
    raw = raw or [memoryview(one) for one in it.raw_input_contents]
    if raw and len(raw) != len(it.inputs):
        raise InvalidInput(f"{len(it.inputs)} inputs, and raw_input_contents has {len(raw)}: it has one for each")
    inputs = [_input(one, raw[i] if raw else None) for i, one in enumerate(it.inputs)]
    for out in it.outputs:
        if out.parameters:
            parameters.of_tensor(out.name, plain(out.parameters))
    outputs = tuple(out.name for out in it.outputs)
    if len(set(outputs)) != len(outputs):
        raise InvalidInput("an output is asked for twice")
    wishes = parameters.read(plain(it.parameters)) if it.parameters else parameters.NONE
    return Request(it.model_name, it.model_version, it.id, inputs, outputs, wishes, bool(raw))


def cut(data: bytes) -> tuple[bytes, list[memoryview]]:
    """A request without its raw tensors, and these; all of it, and none, where it is written in an unusual way."""
    view, at, size = memoryview(data), 0, len(data)
    kept: list[memoryview] = []
    raw: list[memoryview] = []
    while at < size:
        begin = at
        key, at = _varint(data, at)
        how = key & 7
        if how == BYTES:
            length, at = _varint(data, at)
            if length > size - at or key < 0:
                return data, []
            at += length
            if key >> 3 == RAW_IN:
                raw.append(view[at - length : at])
                continue
        elif how == VARINT:
            length, at = _varint(data, at)
        elif how in (FIXED64, FIXED32):
            at += 8 if how == FIXED64 else 4
        else:
            return data, []
        if at > size:
            return data, []
        kept.append(view[begin:at])
    return b"".join(kept), raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; beyond all data when it is none."""
    value = shift = 0
    while shift < 70 and at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return -1, len(data) + 1


def _input(one: Any, raw: memoryview | None) -> Piece:
    if one.parameters:
        parameters.of_tensor(one.name, plain(one.parameters))
    has = one.HasField("contents") and bool(one.contents.ListFields())
    if raw is not None:
        if has:
            raise InvalidInput(f"input {one.name[:100]!r} has contents, and raw_input_contents is there too")
        return tensors.from_bytes(one.name, one.datatype, one.shape, raw)
    word = tensors.checked(one.name, one.datatype, one.shape)
    field = _CONTENTS.get(one.datatype)
    if field is None:
        raise InvalidInput(
            f"input {one.name[:100]!r}: {one.datatype} has no contents", hint="send it in raw_input_contents"
        )
    if others := [it.name for it, _ in one.contents.ListFields() if it.name != field]:
        raise InvalidInput(f"input {one.name[:100]!r}, of {one.datatype}, has {others[0]} instead of {field}")
    values = getattr(one.contents, field)
    if len(values) != math.prod(one.shape):
        raise InvalidInput(
            f"input {one.name[:100]!r}: {field} has {len(values)} elements, and the shape says {list(one.shape)!s:.200}"
        )
    if word == STRING:
        return tensors.of_texts(one.name, one.shape, values)
    return tensors.of_values(one.name, word, one.shape, values, finite=False)


def plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as Python's values."""
    found = {}
    for key, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is not None:
            found[key] = getattr(value, choice)
    return found


def write(
    request: Request,
    model: str,
    version: int,
    outputs: Sequence[tuple[TensorSpec, Buffer]],
    said: Mapping[str, str | int],
) -> bytes:
    """The answer. Raises InvalidInput for outputs that the protocol cannot say."""
    answer = _RESPONSE(model_name=model, model_version=str(version), id=request.id)
    for key, value in said.items():
        if isinstance(value, int):
            answer.parameters[key].int64_param = value
        else:
            answer.parameters[key].string_param = value
    datatypes = [tensors.output_datatype(spec) for spec, _ in outputs]
    raw = request.raw or not BINARY_ONLY.isdisjoint(datatypes)
    behind: list[Buffer] = []
    for (spec, data), datatype in zip(outputs, datatypes, strict=True):
        row = answer.outputs.add(name=spec.name, datatype=datatype, shape=spec.shape)
        if raw:
            behind += (_key(RAW_OUT, spec.nbytes), data)
        elif spec.dtype == STRING:
            row.contents.bytes_contents.extend(map(bytes, tensors.texts(spec.name, math.prod(spec.shape), data)))
        else:
            getattr(row.contents, _CONTENTS[datatype]).extend(tensors.array_of(spec, data).tolist())
    return b"".join((answer.SerializeToString(), *behind))


def _key(field: int, length: int) -> bytes:
    """What stands before the bytes of a field."""
    out = bytearray(((field << 3) | BYTES,))
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)
