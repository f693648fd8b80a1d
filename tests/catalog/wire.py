"""Protobuf by hand: what no library writes."""

from __future__ import annotations


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, kind: int, payload: bytes = b"") -> bytes:
    """A field; a payload of kind 2 gets its length before it."""
    return varint(number << 3 | kind) + (varint(len(payload)) if kind == 2 else b"") + payload


def number(of: int, value: int) -> bytes:
    return field(of, 0) + varint(value)


def text(of: int, value: str) -> bytes:
    return field(of, 2, value.encode())


def tensor(*, dims: tuple[int, ...] = (1,), kind: int = 1, raw: bytes = b"", more: bytes = b"") -> bytes:
    """A TensorProto."""
    shape = b"".join(number(1, dim) for dim in dims)
    return shape + number(2, kind) + (field(9, 2, raw) if raw else b"") + more


def external(raw: bool = False, *, marked: bool = True, dims: tuple[int, ...] = (1,), **entries: str) -> bytes:
    """A TensorProto whose data lies elsewhere."""
    more = b"".join(field(13, 2, text(1, key) + text(2, value)) for key, value in entries.items())
    return tensor(dims=dims, raw=bytes(4) if raw else b"", more=more + (number(14, 1) if marked else b""))


def node(operator: str = "Identity", domain: str = "", *attributes: bytes) -> bytes:
    """A NodeProto x -> y."""
    of_domain = text(7, domain) if domain else b""
    return text(1, "x") + text(2, "y") + text(4, operator) + b"".join(field(5, 2, it) for it in attributes) + of_domain


def graph(*nodes: bytes, more: bytes = b"") -> bytes:
    """A GraphProto."""
    return b"".join(field(1, 2, it) for it in nodes) + more


def function(name: str, *nodes: bytes, domain: str = "l", more: bytes = b"") -> bytes:
    """A FunctionProto x -> y."""
    opsets = b"".join(field(9, 2, text(1, it) + number(2, of)) for it, of in (("", 17), ("l", 1)))
    body = b"".join(field(7, 2, it) for it in nodes)
    return text(1, name) + text(4, "x") + text(5, "y") + body + opsets + text(10, domain) + more


def model(of: bytes, *functions: bytes, more: bytes = b"") -> bytes:
    """A ModelProto around a graph."""
    opsets = b"".join(field(8, 2, text(1, it) + number(2, of)) for it, of in (("", 17), ("l", 1)))
    return number(1, 8) + field(7, 2, of) + opsets + b"".join(field(25, 2, it) for it in functions) + more


def weights(of: bytes) -> bytes:
    """A ModelProto with one initializer."""
    return model(graph(node(), more=field(5, 2, of)))
