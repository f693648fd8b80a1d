"""The widest float type that a model computes in, by its inputs and weights. Runs in the worker only.

ONNX Runtime does not tell the types of the weights, so the file is walked: ModelProto {7 graph}, GraphProto
{5 initializer}, TensorProto {2 data_type}. Nothing else is entered and nothing is built; ONNX Runtime has accepted the
file before, so what does not fit here only ends the walk.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

WIDEST_FIRST = ("double", "float", "bfloat16", "float16")
NARROW = "float8"
"""All the types of 8 bits, by the beginning of their names."""
FIELDS_MAX = 200_000
_TYPES = {1: "float", 10: "float16", 11: "double", 16: "bfloat16", 17: "float8e4m3fn", 18: "float8e4m3fnuz"} | {
    19: "float8e5m2",
    20: "float8e5m2fnuz",
}


def widest(inputs: Iterable[str], path: Path) -> str:
    """The widest of the inputs' types and those of the weights in the file; "" when none is a float."""
    found = set(inputs)
    if WIDEST_FIRST[0] not in found:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data,
            suppress(IndexError, ValueError),
        ):
            found.update(_weights(data))
    for word in WIDEST_FIRST:
        if word in found:
            return word
    return next((word for word in sorted(found) if word.startswith(NARROW)), "")


def _weights(data: mmap.mmap) -> Iterator[str]:
    left = FIELDS_MAX
    for number, start, end in _fields(data, 0, len(data)):
        if number != 7:
            continue
        for inside, begin, finish in _fields(data, start, end):
            left -= 1
            if left < 0:
                return
            if inside != 5:
                continue
            for field, value, _ in _fields(data, begin, finish):
                if field == 2:
                    if (word := _TYPES.get(value)) is not None:
                        yield word
                    break


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of what has a length, (number, value, 0) of numbers. Raises IndexError, ValueError."""
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value, 0
        elif kind == 2:
            length, at = _varint(data, at)
            yield tag >> 3, at, at + length
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
