"""Tensors as raw bytes: the element types, and numpy arrays to and from the body of a message.

A body is the tensors' bytes one after the other, little endian, in C order, each beginning at a multiple of 64 bytes
from the body's start, so that views of it are aligned. Strings are a u32 length and UTF-8 for each element. 4-bit
types take one byte for each element here, as numpy holds them. Nothing is ever unpickled.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from meshnode.errors import InvalidInput, ProtocolError
from meshnode.wire.messages import TensorSpec

Array = npt.NDArray[Any]
Buffer = bytes | bytearray | memoryview

ALIGN = 64
STRING = "string"
RANK_MAX = 32
_PAD = bytes(ALIGN)
_LENGTH = struct.Struct("<I")

DTYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype("<f4"),
    "double": np.dtype("<f8"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype("i1"),
    "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
    "bool": np.dtype("?"),
    "complex64": np.dtype("<c8"),
    "complex128": np.dtype("<c16"),
    "int4": np.dtype(ml_dtypes.int4),
    "uint4": np.dtype(ml_dtypes.uint4),
    "int2": np.dtype(ml_dtypes.int2),
    "uint2": np.dtype(ml_dtypes.uint2),
    "float4e2m1": np.dtype(ml_dtypes.float4_e2m1fn),
    "float8e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "float8e8m0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
"""ONNX's words for element types, and how numpy holds them."""

_WORDS = {dtype: word for word, dtype in DTYPES.items()}


def word_of(dtype: np.dtype[Any]) -> str | None:
    """ONNX's word for a numpy type; None when it has none."""
    if dtype.kind in "OUST":
        return STRING
    return _WORDS.get(dtype.newbyteorder("<") if dtype.byteorder == ">" else dtype)


def as_array(value: Any, name: str = "input") -> Array:
    """Anything that numpy takes: arrays, `__array__`, DLPack, nested lists, scalars. Raises InvalidInput."""
    try:
        if isinstance(value, np.ndarray):
            return value
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InvalidInput(f"{name}: {type(value).__name__} cannot be taken as an array: {error}") from error


def encode(arrays: Mapping[str, Array]) -> tuple[tuple[TensorSpec, ...], list[Buffer]]:
    """Specs and body of named arrays; the body's parts are views of the arrays where that is possible.

    Raises InvalidInput, naming the array, when its element type has no ONNX word.
    """
    specs: list[TensorSpec] = []
    parts: list[Buffer] = []
    for name, array in arrays.items():
        word = word_of(array.dtype)
        if word is None:
            raise InvalidInput(f"{name}: numpy's {array.dtype} is no tensor type of ONNX")
        data = _strings(name, array) if word == STRING else _bytes(array)
        size = len(data)
        specs.append(TensorSpec(name, word, tuple(array.shape), size))
        parts.append(data)
        if padding := -size % ALIGN:
            parts.append(_PAD[:padding])
    if parts and len(parts[-1]) and specs[-1].nbytes % ALIGN:
        parts.pop()  # the last tensor needs no padding
    return tuple(specs), parts


def _bytes(array: Array) -> memoryview:
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    contiguous = np.ascontiguousarray(array)  # makes scalars 1-d; only their bytes matter here
    return contiguous.reshape(-1).view(np.uint8).data if contiguous.size else memoryview(b"")


def _strings(name: str, array: Array) -> bytes:
    out = bytearray()
    for item in array.ravel():
        if isinstance(item, bytes):
            data = item
        elif isinstance(item, str):
            try:
                data = item.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError as error:
                raise InvalidInput(f"{name}: {item!r} is no text that can be sent: {error.reason}") from error
        else:
            raise InvalidInput(f"{name}: an array of objects must hold strings, not {type(item).__name__}")
        out += _LENGTH.pack(len(data)) + data
    return bytes(out)


def layout(specs: Sequence[TensorSpec]) -> list[tuple[int, int]]:
    """Where each tensor begins and ends in the body. Raises ProtocolError when a spec contradicts itself."""
    places = []
    at = 0
    for spec in specs:
        check(spec)
        places.append((at, at + spec.nbytes))
        at += spec.nbytes + -spec.nbytes % ALIGN
    return places


def check(spec: TensorSpec) -> None:
    """Shape x element size must be the length. Raises ProtocolError."""
    count = math.prod(spec.shape)
    if spec.dtype == STRING:
        if spec.nbytes < count * _LENGTH.size:
            raise ProtocolError(f"tensor {spec.name!r}: {count} strings do not fit in {spec.nbytes} bytes")
        return
    dtype = DTYPES.get(spec.dtype)
    if dtype is None:
        raise ProtocolError(f"tensor {spec.name!r}: unknown element type {spec.dtype!r}")
    if count * dtype.itemsize != spec.nbytes:
        raise ProtocolError(
            f"tensor {spec.name!r} says {'x'.join(map(str, spec.shape)) or 'scalar'} {spec.dtype} = "
            f"{count * dtype.itemsize} bytes, but {spec.nbytes} came"
        )


def decode(specs: Sequence[TensorSpec], body: Buffer) -> dict[str, Array]:
    """The arrays of a body: views of it, without a copy (strings excepted). Raises ProtocolError."""
    view = memoryview(body).cast("B")
    places = layout(specs)
    end = places[-1][1] if places else 0
    if end > len(view) or len(view) > end + ALIGN:
        raise ProtocolError(f"the tensors take {end} bytes, and the body has {len(view)}")
    arrays: dict[str, Array] = {}
    for spec, (begin, finish) in zip(specs, places, strict=True):
        if spec.name in arrays:
            raise ProtocolError(f"tensor {spec.name!r} stands twice")
        piece = view[begin:finish]
        if spec.dtype == STRING:
            arrays[spec.name] = _decode_strings(spec, piece)
        else:
            dtype = DTYPES[spec.dtype]
            arrays[spec.name] = _shaped(np.frombuffer(piece, np.uint8).view(dtype), spec)
    return arrays


def _decode_strings(spec: TensorSpec, data: memoryview) -> Array:
    count = math.prod(spec.shape)
    items = np.empty(count, object)
    at = 0
    for i in range(count):
        if at + _LENGTH.size > len(data):
            raise ProtocolError(f"tensor {spec.name!r}: its strings end too soon")
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + size > len(data):
            raise ProtocolError(f"tensor {spec.name!r}: string {i} is longer than the tensor")
        items[i] = bytes(data[at : at + size]).decode("utf-8", "surrogateescape")
        at += size
    if at != len(data):
        raise ProtocolError(f"tensor {spec.name!r}: {len(data) - at} bytes are left over")
    return _shaped(items, spec)


def _shaped(flat: Array, spec: TensorSpec) -> Array:
    try:
        return flat.reshape(spec.shape)
    except ValueError as error:  # nothing at all, in more rows of it than numpy can count
        raise ProtocolError(f"tensor {spec.name!r} cannot have the shape {list(spec.shape)}: {error}") from error
