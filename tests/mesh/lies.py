"""Every message with each of its fields in turn a lie: made of the structs themselves, so that a new one is covered.

A lie is of two kinds: a value that the struct forbids, which the decoder has to refuse; and one that it allows, at the
end of its range or of somebody else, which only the code behind it can.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import msgspec
from msgspec import inspect

from tests.fuzz.mutating import EXTREMES

Map = dict[str, Any]
SENDABLE = tuple(it for it in EXTREMES if it != "\ud800")
SOME = 6
"""Of the values that fit nothing, for each field."""
NASTY = "\x1b[2J\r\nTraceback (most recent call last):\u202e"


def golden(name: str) -> Map:
    """A right message of that tag, as a map."""
    vectors = Path(__file__).parents[2] / "protocols" / "vectors" / "messages.json"
    for row in json.loads(vectors.read_text()):
        if row["name"] == name and "hex" in row:
            found: Map = msgpack.unpackb(bytes.fromhex(row["hex"]), strict_map_key=False)
            return found
    raise KeyError(name)


def of_message(cls: type[msgspec.Struct], right: Map, words: Sequence[Any], rng: Random) -> Iterator[Map]:
    """The right message once; then one for each field and lie, and one without each field."""
    yield right
    fields = inspect.type_info(cls).fields  # type: ignore[attr-defined]
    for field in fields:
        name = field.encode_name
        yield {key: value for key, value in right.items() if key != name}
        for lie in of_type(field.type, words, rng):
            yield {**right, name: lie}


def of_row(cls: type[msgspec.Struct], right: Sequence[Any], words: Sequence[Any], rng: Random) -> Iterator[list[Any]]:
    """The same of a struct that travels as an array, whose tag, if it has one, is its first item."""
    info: Any = inspect.type_info(cls)
    begin = 0 if info.tag is None else 1
    yield list(right)
    for at, field in enumerate(info.fields, begin):
        for lie in of_type(field.type, words, rng):
            yield [*right[:at], lie, *right[at + 1 :]]
    yield list(right[:-1])
    yield [*right, *right]


def of_type(kind: Any, words: Sequence[Any], rng: Random) -> list[Any]:
    """What may stand in a field of this type, and should not be believed; and what may not stand there."""
    return [*_allowed(kind, words), *rng.sample(SENDABLE, SOME)]


def _allowed(kind: Any, words: Sequence[Any]) -> list[Any]:
    match kind:
        case inspect.IntType() | inspect.FloatType():
            ends = [kind.ge, kind.gt, kind.le, kind.lt]
            near = [end + step for end in ends if end is not None for step in (-1, 0, 1)]
            return [*near, 0, 1, *((math.nan, math.inf) if isinstance(kind, inspect.FloatType) else (2**40,))]
        case inspect.StrType():
            most = kind.max_length if kind.max_length is not None else 64
            texts = [it for it in words if isinstance(it, str)]
            return ["", NASTY[:most], "x" * most, "x" * (most + 1), *texts]
        case inspect.BytesType():
            size = kind.max_length if kind.max_length is not None else 64
            return [bytes(size), b"\xff" * size, bytes(size + 1), *(it for it in words if isinstance(it, bytes))]
        case inspect.BoolType():
            return [True, False]
        case inspect.LiteralType():
            return list(kind.values)
        case inspect.UnionType():
            return [it for one in kind.types for it in _allowed(one, words)]
        case inspect.VarTupleType() | inspect.ListType():
            inner = _allowed(kind.item_type, words)[:20]
            most = min(kind.max_length if kind.max_length is not None else 64, 5000)
            return [[], inner, *([it] for it in inner), inner[:1] * most, inner[:1] * (most + 1)]
        case inspect.TupleType():
            return [[_first(it, words) for it in kind.item_types], []]
        case inspect.StructType():
            plain = [_first(field.type, words) for field in kind.fields]
            made = [plain] if kind.array_like else [dict(zip([f.encode_name for f in kind.fields], plain, strict=True))]
            if kind.array_like:
                made += [
                    [*plain[:at], lie, *plain[at + 1 :]]
                    for at, field in enumerate(kind.fields)
                    for lie in _allowed(field.type, words)[:6]
                ]
            return made
        case inspect.DictType():
            return [{}, {NASTY: NASTY}, {str(n): n for n in range(300)}]
        case _:
            return [None]


def _first(kind: Any, words: Sequence[Any]) -> Any:
    found = _allowed(kind, words)
    return found[1] if len(found) > 1 else found[0]
