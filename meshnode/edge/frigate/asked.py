"""What Frigate's `zmq` detector says: the parts of one message, taken apart with every number checked. Pure.

A message is a JSON header and, for a frame or a model, the bytes behind it:

    {"shape": [1, 320, 320, 3], "dtype": "uint8", "model_type": "ssd"}   tensor, C order
    {"model_request": true, "model_name": "yolo.onnx"}
    {"model_data": true, "model_name": "yolo.onnx"}                      the file
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from meshnode.errors import ProtocolError

HEADER_BYTES_MAX = 4096
RANK_MAX = 8
DTYPES = frozenset({"uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64"})
Buffer = bytes | memoryview
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture, ready for the model."""

    tensor: Array


@dataclass(frozen=True, slots=True)
class ModelAsked:
    """Is this model there?"""

    name: str


@dataclass(frozen=True, slots=True)
class ModelGiven:
    """Here it is."""

    name: str
    data: Buffer


Asked = Frame | ModelAsked | ModelGiven


class _Header(msgspec.Struct, frozen=True):
    shape: Annotated[tuple[Annotated[int, Meta(ge=1, le=2**31)], ...], Meta(min_length=1, max_length=RANK_MAX)] = ()
    dtype: Annotated[str, Meta(max_length=16)] = ""
    model_request: bool = False
    model_data: bool = False
    model_name: Annotated[str, Meta(max_length=255)] = ""


_DECODER = msgspec.json.Decoder(_Header)


def read(parts: Sequence[Buffer]) -> Asked:
    """Raises ProtocolError."""
    if not 1 <= len(parts) <= 2:
        raise ProtocolError(f"a message of {len(parts)} parts; one or two were expected")
    if len(parts[0]) > HEADER_BYTES_MAX:
        raise ProtocolError(f"a header of {len(parts[0])} bytes; at most {HEADER_BYTES_MAX} are read")
    try:
        header = _DECODER.decode(parts[0])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a header: {error}") from error
    if header.model_request or header.model_data:
        if len(parts) != (2 if header.model_data else 1) or (header.model_request and header.model_data):
            raise ProtocolError("a message about a model with the wrong number of parts")
        return ModelGiven(header.model_name, parts[1]) if header.model_data else ModelAsked(header.model_name)
    if len(parts) != 2 or not header.shape:
        raise ProtocolError("a header that is neither that of a frame nor about a model")
    if header.dtype not in DTYPES:
        raise ProtocolError(f"a frame of {header.dtype!r}, which is no element type that is taken")
    dtype = np.dtype(header.dtype).newbyteorder("<")
    expected = math.prod(header.shape) * dtype.itemsize
    if expected != len(parts[1]):
        raise ProtocolError(f"a frame of {len(parts[1])} bytes; {list(header.shape)} {header.dtype} are {expected}")
    return Frame(np.frombuffer(parts[1], dtype).reshape(header.shape))


def rows(table: npt.NDArray[np.float32]) -> list[bytes]:
    """The answer to a frame: a header, and 20 x 6 numbers."""
    header = {"shape": list(table.shape), "dtype": table.dtype.name}
    return [msgspec.json.encode(header), np.ascontiguousarray(table, np.float32).tobytes()]


def about_model(*, asked: bool, there: bool, loaded: bool) -> list[bytes]:
    """The answer to a question about a model (`asked`), or to one that was brought."""
    return [msgspec.json.encode({"model_available" if asked else "model_saved": there, "model_loaded": loaded})]
