"""What a model's tensors between its nodes take, as far as a file tells without running anything.

A lower bound: dimensions with a name count as one, and only what the file declares or makes of a constant shape is
seen. That is enough to refuse a model that makes 64 GB out of nothing before it is loaded.
"""

from __future__ import annotations

import math

from meshnode.catalog.protobuf import NESTED, VARINT, Reader, signed
from meshnode.catalog.tensors import BITS, RANK_MAX

DECLARED_MAX = 10_000
"""Declarations looked at."""
MAKERS_MAX = 10_000
_SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1}
"""Which input says how large the output is at least."""
_BETWEEN = 13


class Shapes:
    """What one file says about the sizes of its tensors."""

    def __init__(self) -> None:
        self._edges = 0
        self._largest = 0
        self._seen = 0
        self._values: dict[str, tuple[int, ...]] = {}
        self._wanted: list[str] = []

    @property
    def nbytes(self) -> int:
        """Inputs and outputs together, and the largest of the rest twice: one is read while the next is written."""
        made = max((_elements(self._values[name]) for name in self._wanted if name in self._values), default=0)
        return self._edges + 2 * max(self._largest, made)

    def keep(self, name: str, values: tuple[int, ...] | None) -> None:
        """A constant that may be a shape."""
        if values is not None and name and len(self._values) < MAKERS_MAX:
            self._values.setdefault(name, values)

    def declare(self, reader: Reader, number: int, start: int, end: int) -> None:
        """A ValueInfoProto of the main graph: {2 type {1 tensor_type {1 elem_type, 2 shape {1 dim {1 value}}}}}."""
        self._seen += 1
        if self._seen > DECLARED_MAX:
            return
        nbytes = 0
        for tensor_start, tensor_end in _path(reader, start, end, (2, 1)):
            elem_type, dims = 1, []
            for field, kind, at, to in reader.fields(tensor_start, tensor_end):
                if field == 1 and kind == VARINT:
                    elem_type = at
                elif field == 2 and kind == NESTED:
                    dims = _dims(reader, at, to)
            nbytes = _elements(tuple(dims)) * BITS.get(elem_type, 8) // 8
        if number == _BETWEEN:
            self._largest = max(self._largest, nbytes)
        else:
            self._edges += nbytes

    def makes(self, operator: str) -> int | None:
        """Which input of such a node is a shape."""
        return _SHAPE_INPUT.get(operator)

    def made(self, shape: str) -> None:
        """A node makes a tensor whose shape is what stands under this name."""
        if len(self._wanted) < MAKERS_MAX:
            self._wanted.append(shape)


def _path(reader: Reader, start: int, end: int, numbers: tuple[int, ...]) -> list[tuple[int, int]]:
    """Where the messages lie that one gets to by these field numbers."""
    places = [(start, end)]
    for wanted in numbers:
        places = [
            (at, to)
            for place in places
            for number, kind, at, to in reader.fields(*place)
            if number == wanted and kind == NESTED
        ]
    return places


def _dims(reader: Reader, start: int, end: int) -> list[int]:
    dims: list[int] = []
    for number, kind, at, to in reader.fields(start, end):
        if number == 1 and kind == NESTED:
            values = [a for n, k, a, _ in reader.fields(at, to) if n == 1 and k == VARINT]
            dims += [signed(values[-1])] if values else [1]
            if len(dims) > RANK_MAX:
                return []
    return dims


def _elements(dims: tuple[int, ...]) -> int:
    return min(math.prod(dim if dim >= 0 else 1 for dim in dims), 1 << 62)
