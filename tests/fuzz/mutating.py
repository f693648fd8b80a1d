"""Wrong bytes made of right ones, by what they are: values in a tree change, and not only bytes.

A reader of MessagePack refuses nearly all bytes in its first step. What is changed as a tree and written again comes
further, to what looks at the values. The same bytes, number and form give the same result.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any, Literal

import msgpack

Form = Literal["bytes", "msgpack", "json", "text"]

EXTREMES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 127, 255, 256, 65535, 65536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63)),
    *(0.5, -0.0, 1e-320, 1e18, 1.7e308, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        "x",
        "0" * 32,
        "0" * 64,
        "a" * 52,
        "x" * 5000,
        "\x1b[2J\r\n\0",
        "\u202etxt",
        "\ud800",
        "é" * 64,
        "nan",
        "../x",
    ),
    *(b"", b"\0", bytes(16), bytes(32), b"\xff" * 44, b"\xff" * 64, bytes(5000)),
    *([], [[]], [0] * 300, {}, {"": None}, {"t": "done"}),
)
"""Values that somebody may have forgotten."""
FRAGMENTS = (
    *("[", "]", "{", "}", '"', "'", '"""', "=", ".", ",", ":", "\\", "#", "\n", "\0", "/", "-", "+", "_", "%", "e"),
    *(
        "[" * 2000,
        "{" * 2000,
        "9" * 5000,
        "0x",
        "nan",
        "inf",
        "1e999",
        "1979-05-27T07:32:00Z",
        "true",
        "\\ud800",
        "\\u0000",
    ),
    *("[[models]]\n", "[a.b]\n", "\ud800", "\u2028", "٣", "é", "\x1b[2J"),
)
DEEP = 1200
"""Levels of nesting: more than Python's stack has, and what msgpack's own reader takes."""


def mutate(data: bytes, seed: int, form: Form, times: int = 1, other: bytes = b"") -> bytes:
    """`data` changed so often; `other` lends pieces."""
    rng = random.Random(seed)
    for _ in range(times):
        how = _AS.get(form)
        if how is None or rng.random() < 0.3:
            data = _bytes(data, rng, other)
        else:
            data = how(data, rng) or _bytes(data, rng, other)
    return data


def _bytes(data: bytes, rng: random.Random, other: bytes) -> bytes:
    out = bytearray(data)
    at = rng.randint(0, len(out))
    to = min(len(out), at + rng.choice((1, 1, 2, 4, 8, 40)))
    match rng.randrange(8):
        case 0:
            out[at:to] = rng.randbytes(to - at)
        case 1:
            out[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xC1, 0xFF, 0x91, 0x81, 0xDF))])
        case 2 if out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        case 3:
            del out[at:to]
        case 4:
            del out[at:]
        case 5:
            out[at:at] = out[at:to] * rng.choice((1, 2, 9))
        case 6:
            size = rng.choice("BHIQ")
            number = rng.choice((0, 1, 2**7, 2**15, 2**31, 2**63, 2**64 - 1, len(out), len(out) + 1))
            packed = struct.pack(rng.choice("<>") + size, number % 2 ** (8 * struct.calcsize(f"<{size}")))
            out[at : at + len(packed)] = packed
        case _:
            begin = rng.randint(0, len(other))
            out[at:to] = other[begin : begin + rng.randint(0, 60)]
    return bytes(out)


def _msgpack(data: bytes, rng: random.Random) -> bytes:
    try:
        tree = msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogateescape", max_ext_len=0)
        return bytes(msgpack.packb(changed(tree, rng), use_bin_type=True, unicode_errors="surrogatepass"))
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        return b""


def _json(data: bytes, rng: random.Random) -> bytes:
    """Of what stands before the bytes that follow the JSON, when there are some."""
    try:
        text = data.decode("utf-8", "surrogateescape")
        tree, end = json.JSONDecoder().raw_decode(text)
        written = json.dumps(changed(tree, rng), default=lambda it: it.hex(), ensure_ascii=rng.random() < 0.5)
        return (written + text[end:]).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError):
        return b""


def _text(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "surrogateescape")
    at = rng.randint(0, len(text))
    to = min(len(text), at + rng.choice((0, 0, 1, 5, 20)))
    if rng.random() < 0.2:
        lines = text.splitlines(keepends=True)
        rng.shuffle(lines)
        text, piece = "".join(lines), ""
    else:
        piece = rng.choice(FRAGMENTS)
    return (text[:at] + piece + text[to:]).encode("utf-8", "surrogatepass")


_AS: dict[Form, Callable[[bytes, random.Random], bytes]] = {"msgpack": _msgpack, "json": _json, "text": _text}


def changed(tree: Any, rng: random.Random) -> Any:
    """The same tree with one value of it another, gone, doubled, or deep inside lists."""
    if not isinstance(tree, list | dict) or not tree or rng.random() < 0.1:
        return _other(tree, rng)
    if isinstance(tree, dict):
        key = rng.choice(list(tree))
        match rng.randrange(8):
            case 0:
                return {k: v for k, v in tree.items() if k != key}
            case 1:
                return {**tree, rng.choice(("", "x", key if isinstance(key, str) else "y")): rng.choice(EXTREMES)}
            case _:
                return {**tree, key: changed(tree[key], rng)}
    at = rng.randrange(len(tree))
    match rng.randrange(8):
        case 0:
            return tree[:at] + tree[at + 1 :]
        case 1:
            return tree[:at] + [tree[at]] * rng.choice((2, 3, 40)) + tree[at:]
        case _:
            return [*tree[:at], changed(tree[at], rng), *tree[at + 1 :]]


def _other(value: Any, rng: random.Random) -> Any:
    match rng.randrange(6):
        case 0 if isinstance(value, int):
            return value + rng.choice((-1, 1, 2**31))
        case 1 if isinstance(value, str | bytes):
            at = rng.randint(0, len(value))
            return value[:at] + value[at + 1 :]
        case 2 if isinstance(value, str | bytes):
            return value + value
        case 3:
            deep: Any = value
            for _ in range(rng.choice((1, 2, 40, DEEP))):
                deep = [deep]
            return deep
        case _:
            return rng.choice(EXTREMES)
