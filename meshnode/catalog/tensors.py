"""A tensor in an ONNX file, without its data: how many bytes it declares, and whether just as many are there.

ONNX Runtime allocates what the dimensions say before it looks at the data, and reads other files by what a tensor's
external data says. TensorProto: {1 dims, 2 data_type, 3 segment, 4 float_data, 5 int32_data, 6 string_data,
7 int64_data, 8 name, 9 raw_data, 10 double_data, 11 uint64_data, 13 external_data, 14 data_location};
StringStringEntryProto {1 key, 2 value}; SparseTensorProto {1 values, 2 indices, 3 dims}.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass

from meshnode.catalog.protobuf import FIXED32, FIXED64, NESTED, VARINT, Malformed, Reader, signed

BITS = {
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
}
"""Of an element, by TensorProto.DataType."""
STRING = 8
RANK_MAX = 64
EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum"})
"""All that the format knows. Others have been ways into readers that set whatever they are told (CVE-2026-34445)."""
SHAPE_VALUES_MAX = 64
DECIMAL = re.compile(r"[0-9]{1,19}")
_TYPED = {4: (1, 14), 5: (2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26), 6: (8,), 7: (7,)} | {
    10: (11, 15),
    11: (12, 13),
}
"""Which element types lie in which of the typed fields."""
_WIDTH = {4: 4, 10: 8}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's data lies outside: before `end` of the file `location`."""

    location: str
    end: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a tensor declares. `values` are those of a small int64 vector, which may be a shape."""

    name: str
    elements: int
    nbytes: int
    place: Place | None = None
    values: tuple[int, ...] | None = None


def read_tensor(reader: Reader, start: int, end: int) -> Tensor:
    """Raises Malformed when data and dimensions do not fit each other, or external data is not what it may be."""
    dims: list[int] = []
    data_type = location = strings = 0
    name = ""
    counts: dict[int, int] = {}
    raw: tuple[int, int] | None = None
    packed: tuple[int, int] | None = None
    entries: dict[str, str] = {}
    for number, kind, at, to in reader.fields(start, end):
        if number == 1:
            dims += [signed(at)] if kind == VARINT else reader.numbers(at, to, RANK_MAX)
            if len(dims) > RANK_MAX:
                raise Malformed(f"a tensor has more than {RANK_MAX} dimensions")
        elif number == 2 and kind == VARINT:
            data_type = at
        elif number == 3:
            raise Malformed("a tensor is one of several segments, which nothing reads", "save it whole")
        elif number == 8 and kind == NESTED:
            name = reader.label(at, to)
        elif number == 9 and kind == NESTED:
            raw = (at, to) if to > at else None
        elif number in _TYPED:
            counts[number] = counts.get(number, 0) + _count(reader, number, kind, at, to)
            packed = (at, to) if number == 7 and kind == NESTED else packed
            strings += to - at if number == 6 else 0
        elif number == 13 and kind == NESTED:
            _entry(reader, at, to, entries)
        elif number == 14 and kind == VARINT:
            location = at
    elements, nbytes = _declared(name, data_type, dims)
    counts = {number: count for number, count in counts.items() if count}
    if location or entries:
        return Tensor(name, elements, nbytes, _place(name, location, entries, nbytes, data_type, bool(raw or counts)))
    _check_data(name, data_type, elements, nbytes, raw, counts)
    values = None
    if data_type == 7 and len(dims) <= 1 and elements <= SHAPE_VALUES_MAX:
        values = _int64s(reader, raw, packed)
    return Tensor(name, elements, nbytes + strings, None, values)


def read_sparse(reader: Reader, start: int, end: int) -> tuple[list[Tensor], int]:
    """The tensors of a sparse one, and the bytes of the dense one that ONNX Runtime makes of them."""
    tensors: dict[int, Tensor] = {}
    dims: list[int] = []
    for number, kind, at, to in reader.fields(start, end):
        if number in (1, 2) and kind == NESTED:
            if number in tensors:
                raise Malformed("a sparse tensor has its values or indices twice")
            tensors[number] = read_tensor(reader, at, to)
        elif number == 3:
            dims += [signed(at)] if kind == VARINT else reader.numbers(at, to, RANK_MAX)
            if len(dims) > RANK_MAX:
                raise Malformed(f"a tensor has more than {RANK_MAX} dimensions")
    if any(dim < 0 for dim in dims):
        raise Malformed("a sparse tensor has a negative dimension")
    values = tensors.get(1)
    width = -(-values.nbytes // values.elements) if values is not None and values.elements else 8
    return list(tensors.values()), math.prod(dims) * width


def shown(name: str) -> str:
    """A tensor's name as a message tells it."""
    return repr(name if len(name) <= 80 else name[:80] + "…") if name else "without a name"


def _declared(name: str, data_type: int, dims: list[int]) -> tuple[int, int]:
    if any(dim < 0 for dim in dims):
        raise Malformed(f"tensor {shown(name)} has a negative dimension")
    elements = math.prod(dims)
    if data_type == STRING:
        return elements, 0
    bits = BITS.get(data_type)
    if bits is None:
        raise Malformed(f"tensor {shown(name)} has the element type {data_type}, which is none")
    return elements, -(-elements * bits // 8)


def _count(reader: Reader, number: int, kind: int, at: int, to: int) -> int:
    """How many elements one field of typed data brings."""
    if number == 6:
        return 1
    width = _WIDTH.get(number)
    if kind == NESTED:
        if width is None:
            return reader.varints(at, to)
        if (to - at) % width:
            raise Malformed("a tensor's data ends in the middle of an element")
        return (to - at) // width
    if kind != (VARINT if width is None else FIXED32 if width == 4 else FIXED64):
        raise Malformed("a tensor's data has a wire type that does not fit it")
    return 1


def _check_data(
    name: str, data_type: int, elements: int, nbytes: int, raw: tuple[int, int] | None, counts: dict[int, int]
) -> None:
    if bool(raw) + len(counts) > 1:
        raise Malformed(f"tensor {shown(name)} holds its data twice")
    if raw is not None:
        if data_type == STRING:
            raise Malformed(f"tensor {shown(name)} holds text as raw bytes")
        if raw[1] - raw[0] != nbytes:
            raise Malformed(f"tensor {shown(name)} declares {nbytes} bytes and holds {raw[1] - raw[0]}")
        return
    number, count = next(iter(counts.items()), (0, 0))
    if number and data_type not in _TYPED[number]:
        raise Malformed(f"tensor {shown(name)} holds its data in the field of another element type")
    wanted = elements * (2 if data_type in (14, 15) else 1)
    if data_type != STRING and BITS[data_type] < 8:
        wanted = nbytes  # one number for each byte of packed elements
    if count != wanted:
        raise Malformed(f"tensor {shown(name)} declares {wanted} elements and holds {count}")


def _entry(reader: Reader, at: int, to: int, entries: dict[str, str]) -> None:
    texts = {n: (a, b) for n, k, a, b in reader.fields(at, to) if k == NESTED}
    key, value = (reader.text(*texts.get(number, (0, 0))) for number in (1, 2))
    if key not in EXTERNAL_KEYS:
        raise Malformed(
            f"an external data entry has the key {shown(key)}", f"known are {', '.join(sorted(EXTERNAL_KEYS))}"
        )
    if key in entries:
        raise Malformed(f"an external data entry has the key {key!r} twice")
    entries[key] = value


def _place(name: str, location: int, entries: dict[str, str], nbytes: int, data_type: int, inside: bool) -> Place:
    if "location" not in entries or location != 1:
        raise Malformed(
            f"tensor {shown(name)} is external in one place and not in another: data_location is {location}, and it "
            f"names {'a file' if 'location' in entries else 'no file'}",
            "save the model again with its external data",
        )
    if inside:
        raise Malformed(f"tensor {shown(name)} has data inside and outside")
    if data_type == STRING:
        raise Malformed(f"tensor {shown(name)} is text and lies outside, which nothing reads")
    numbers = {key: entries[key] for key in ("offset", "length") if entries.get(key)}
    for key, text in numbers.items():
        if not DECIMAL.fullmatch(text):
            raise Malformed(
                f"tensor {shown(name)} has the external data {key} {text[:40]!r}, which is no count of bytes"
            )
    offset, length = int(numbers.get("offset", 0)), int(numbers.get("length", nbytes))
    if length != nbytes:
        raise Malformed(f"tensor {shown(name)} declares {nbytes} bytes, and its external data has {length}")
    return Place(entries["location"], offset + nbytes)


def _int64s(reader: Reader, raw: tuple[int, int] | None, packed: tuple[int, int] | None) -> tuple[int, ...] | None:
    if raw is not None:
        return tuple(value for (value,) in struct.iter_unpack("<q", reader.view[raw[0] : raw[1]]))
    return None if packed is None else tuple(reader.numbers(*packed, SHAPE_VALUES_MAX))
