"""Tensors as the Open Inference Protocol writes them, to and from the mesh's own: a spec and the bytes.

The protocol's binary form is the mesh's: little endian, C order, texts with a u32 length before each. So what came as
bytes goes on as the bytes that came, and what a model brought is sent from where it lies.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from meshnode.errors import InvalidInput, ProtocolError
from meshnode.wire.messages import TensorSpec
from meshnode.wire.tensors import ALIGN, DTYPES, RANK_MAX, STRING, Array, Buffer, layout

WORDS = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float",
    "FP64": "double",
    "BF16": "bfloat16",
    "BYTES": STRING,
}
"""ONNX's word for each datatype of the protocol."""
DATATYPES = {word: datatype for datatype, word in WORDS.items()}
BINARY_ONLY = frozenset({"FP16", "BF16"})
"""The protocol gives these no form in JSON."""
NAME_MAX = 512
TENSORS_MAX = 1024
DIM_MAX = 2**53
FEW = 1024
"""Up to so many numbers are written and read by `struct`, which costs a fraction of what numpy does."""
_FORMATS = {
    "bool": "?",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "float": "f",
    "double": "d",
}
_LENGTH = struct.Struct("<I")
_SPACE = b" \t\r\n"
_ITEM: dict[str, type] = {"b": bool, "i": int, "u": int, "f": float}
Piece = tuple[TensorSpec, Buffer]
"""A tensor: what it is, and its bytes."""


def datatype_of(word: str) -> str:
    """The protocol's name of an element type; one that it does not know gets ONNX's, in capitals."""
    return DATATYPES.get(word) or word.upper()


def checked(name: str, datatype: str, shape: Sequence[int]) -> str:
    """ONNX's word for the datatype of an input. Raises InvalidInput."""
    if not name or len(name) > NAME_MAX:
        raise InvalidInput(f"an input's name has 1 to {NAME_MAX} characters, and one has {len(name)}")
    word = WORDS.get(datatype)
    if word is None:
        raise InvalidInput(
            f"input {_short(name)}: unknown datatype {_short(datatype)}", hint=f"there are {', '.join(WORDS)}"
        )
    if len(shape) > RANK_MAX:
        raise InvalidInput(f"input {_short(name)} has {len(shape)} dimensions, and at most {RANK_MAX} are taken")
    for dim in shape:
        if not 0 <= dim <= DIM_MAX:
            raise InvalidInput(f"input {_short(name)}: {str(dim)[:40]} is no size of a dimension")
    return word


def from_bytes(name: str, datatype: str, shape: Sequence[int], data: Buffer) -> Piece:
    """An input in binary form. Raises InvalidInput when the bytes are not what the shape says."""
    word = checked(name, datatype, shape)
    count, nbytes = math.prod(shape), len(data)
    if word == STRING:
        texts(name, count, data)
    else:
        should = count * DTYPES[word].itemsize
        if nbytes != should:
            raise InvalidInput(
                f"input {_short(name)}: {_shape(shape)} of {datatype} is {_size(should)}, and {nbytes} came"
            )
        if word == "bool" and nbytes and np.frombuffer(data, np.uint8).max() > 1:
            raise InvalidInput(f"input {_short(name)}: a byte of BOOL is 0 or 1, and there are others")
    return TensorSpec(name, word, tuple(shape), nbytes), data


def from_json(name: str, datatype: str, shape: Sequence[int], data: Buffer) -> Piece:
    """An input in JSON form: a list, flat or nested as the shape says. Raises InvalidInput."""
    word = checked(name, datatype, shape)
    if datatype in BINARY_ONLY:
        raise InvalidInput(
            f"input {_short(name)}: {datatype} has no form in JSON",
            hint="send it in binary form: `binary_data_size` and the bytes behind the JSON",
        )
    depth = _depth(data)
    if depth == 0 or depth not in (1, len(shape)):
        raise InvalidInput(
            f"input {_short(name)}: its data is nested {depth} deep; lists are flat or nested as the shape"
            f" {_shape(shape)} says"
        )
    kind = str if word == STRING else _ITEM[DTYPES[word].kind]
    try:
        values = _decoder(kind, depth).decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"input {_short(name)}, of {datatype}: {error}") from error
    return of_values(name, word, shape, values)


def of_values(name: str, word: str, shape: Sequence[int], values: Sequence[Any], *, finite: bool = True) -> Piece:
    """An input of Python's values, in one flat list or nested; of finite ones, where they must be so.

    Raises InvalidInput.
    """
    count = math.prod(shape)
    if 0 < len(values) <= FEW and word in _FORMATS and not isinstance(values[0], list) and len(values) == count:
        try:
            data = struct.pack(f"<{count}{_FORMATS[word]}", *values)
        except (struct.error, OverflowError) as error:
            raise InvalidInput(f"input {_short(name)}: a number does not fit {datatype_of(word)}: {error}") from error
        return TensorSpec(name, word, tuple(shape), len(data)), data
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, object if word == STRING else DTYPES[word])
    except (ValueError, OverflowError, TypeError) as error:
        what = "a number does not fit" if isinstance(error, OverflowError) else "its data does not fit"
        raise InvalidInput(f"input {_short(name)}: {what} {datatype_of(word)}: {error}") from error
    if array.size != count or (array.ndim > 1 and array.shape != tuple(shape)):
        raise InvalidInput(
            f"input {_short(name)} is to be {_shape(shape)}, {_count(count)} elements,"
            f" and {_shape(array.shape)}, {array.size} elements, came"
        )
    if word == STRING:
        return of_texts(name, shape, array.reshape(-1).tolist())
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidInput(f"input {_short(name)} has a number that does not fit {datatype_of(word)}")
    return TensorSpec(name, word, tuple(shape), array.nbytes), array.reshape(-1).view(np.uint8).data


def of_texts(name: str, shape: Sequence[int], values: Sequence[str | bytes]) -> Piece:
    """An input of texts. Raises InvalidInput."""
    if len(values) != math.prod(shape):
        raise InvalidInput(f"input {_short(name)} is to be {_shape(shape)}, and {len(values)} elements came")
    out = bytearray()
    for value in values:
        if not isinstance(value, str | bytes):
            raise InvalidInput(f"input {_short(name)}, of BYTES: {type(value).__name__} is no text")
        data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        out += _LENGTH.pack(len(data)) + data
    return TensorSpec(name, STRING, tuple(shape), len(out)), out


def joined(pieces: Sequence[Piece]) -> Buffer:
    """The body of a task; that of one tensor without a copy. Raises InvalidInput."""
    names = {spec.name for spec, _ in pieces}
    if len(names) != len(pieces):
        raise InvalidInput("two inputs have one name")
    if len(pieces) > TENSORS_MAX:
        raise InvalidInput(f"{len(pieces)} inputs, and at most {TENSORS_MAX} are taken")
    if len(pieces) == 1:
        return pieces[0][1]
    parts: list[Buffer] = []
    for spec, data in pieces:
        parts += (data, bytes(-spec.nbytes % ALIGN))
    return b"".join(parts[:-1])


def split(specs: Sequence[TensorSpec], body: Buffer) -> list[Piece]:
    """What a task brought, as views of its body. Raises ProtocolError."""
    view = memoryview(body).cast("B")
    places = layout(specs)
    if places and places[-1][1] > len(view):
        raise ProtocolError(f"the outputs take {places[-1][1]} bytes, and {len(view)} came")
    return [(spec, view[begin:end]) for spec, (begin, end) in zip(specs, places, strict=True)]


def output_datatype(spec: TensorSpec) -> str:
    """Raises InvalidInput for an output whose element type the protocol cannot say."""
    datatype = DATATYPES.get(spec.dtype)
    if datatype is None:
        raise InvalidInput(
            f"output {_short(spec.name)} is {spec.dtype}, which the Open Inference Protocol has no word for",
            hint="ask for other outputs only, or use meshnode's own client",
        )
    return datatype


def to_values(spec: TensorSpec, data: Buffer) -> list[Any]:
    """An output as one flat list for JSON. Raises InvalidInput for what JSON cannot say."""
    datatype = output_datatype(spec)
    hint = "ask for it in binary form: `binary_data`, or `binary_data_output` for all"
    if datatype in BINARY_ONLY:
        raise InvalidInput(f"output {_short(spec.name)}: {datatype} has no form in JSON", hint=hint)
    if spec.dtype == STRING:
        try:
            return [str(it, "utf-8") for it in texts(spec.name, math.prod(spec.shape), data)]
        except UnicodeDecodeError as error:
            raise InvalidInput(f"output {_short(spec.name)} holds bytes that are no UTF-8", hint=hint) from error
    values: list[Any]
    count = math.prod(spec.shape)
    if count <= FEW:
        values = list(struct.unpack(f"<{count}{_FORMATS[spec.dtype]}", data))
        finite = spec.dtype not in ("float", "double") or all(map(math.isfinite, values))
    else:
        array = array_of(spec, data)
        finite = array.dtype.kind != "f" or bool(np.isfinite(array).all())
        values = array.tolist()
    if not finite:
        raise InvalidInput(f"output {_short(spec.name)} holds NaN or infinity, which JSON cannot say", hint=hint)
    return values


def array_of(spec: TensorSpec, data: Buffer) -> Array:
    """Numbers, flat: a view."""
    return np.frombuffer(data, np.uint8).view(DTYPES[spec.dtype])


def texts(name: str, count: int, data: Buffer) -> list[memoryview]:
    """The elements of a tensor of texts. Raises InvalidInput when they are not there, or more is."""
    view, at, items = memoryview(data).cast("B"), 0, []
    size, unpack = len(view), _LENGTH.unpack_from
    if count * _LENGTH.size > size:
        raise InvalidInput(f"{_short(name)}: {_count(count)} elements of BYTES do not fit in {size} bytes")
    for i in range(count):
        if at + 4 > size:
            raise InvalidInput(f"{_short(name)}: the length of element {i} is cut off")
        end = at + 4 + unpack(view, at)[0]
        if end > size:
            raise InvalidInput(f"{_short(name)}: element {i} says {end - at - 4} bytes, and {size - at - 4} are left")
        items.append(view[at + 4 : end])
        at = end
    if at != size:
        raise InvalidInput(f"{_short(name)}: {size - at} bytes are left over behind its {count} elements")
    return items


def _depth(data: Buffer) -> int:
    """How many lists begin before the first value."""
    depth = 0
    for byte in memoryview(data).cast("B"):
        if byte == 0x5B:
            depth += 1
            if depth > RANK_MAX:
                break
        elif byte not in _SPACE:
            break
    return depth


@functools.cache
def _decoder(kind: Any, depth: int) -> msgspec.json.Decoder[list[Any]]:
    shape: Any = kind
    for _ in range(depth):
        shape = list[shape]
    return msgspec.json.Decoder(shape)


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(_count(dim) for dim in shape)}]"


def _count(number: int) -> str:
    """Of a number that may have a thousand digits."""
    return str(number) if number.bit_length() < 128 else f"some 2^{number.bit_length() - 1}"


def _size(nbytes: int) -> str:
    return f"{_count(nbytes)} bytes"


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")
