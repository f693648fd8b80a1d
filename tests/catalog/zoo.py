"""Hostile and odd ONNX files, made by hand: what the scanner must refuse, and what it must not.

Each beast is bytes and a pattern of what the refusal says. None is stored: `REFUSED` and `TAKEN` make them.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from meshnode.catalog.scan import DEPTH_MAX
from tests.catalog.wire import external, field, function, graph, model, node, number, tensor, text, weights

LARGE_NODES = 200_000
TREES = 300_000


@dataclass(frozen=True)
class Beast:
    """`says` is a pattern; None when the file is to be taken."""

    name: str
    make: Callable[[], bytes]
    says: str | None


def doubling(count: int = 26) -> bytes:
    """Functions of which each calls the next one twice: 2 ** (count - 1) calls of the last."""
    calls = [function(f"f{i}", *[node(f"f{i + 1}", "l")] * 2) for i in range(count - 1)]
    return model(graph(node("f0", "l")), *calls, function(f"f{count - 1}", node()))


def chain(count: int, end: str = "") -> bytes:
    """Functions of which each calls the next one; the last calls `end`."""
    calls = [function(f"f{i}", node(f"f{i + 1}", "l")) for i in range(count - 1)]
    return model(graph(node("f0", "l")), *calls, function(f"f{count - 1}", node(end, "l") if end else node()))


def nested(depth: int, inner: bytes = b"") -> bytes:
    """Graphs in one another: `depth` of them, the model's own included."""
    innermost = inner or graph(node())
    for _ in range(depth - 1):
        innermost = graph(node("If", "", text(1, "then_branch") + field(6, 2, innermost)))
    return innermost


def identities(count: int) -> bytes:
    """A plain graph, as an exporter writes it."""
    parts = [
        field(1, 2, text(1, f"n{i}") + text(2, f"n{i + 1}") + text(3, f"node_{i}") + text(4, "Identity"))
        for i in range(count)
    ]
    return model(b"".join(parts))


def deep_by_calls() -> bytes:
    """Functions with a graph each around the call of the next: shallow in the file, deep when they are put in."""
    calls = [
        function(f"f{i}", node("If", "", text(1, "then_branch") + field(6, 2, graph(node(f"f{i + 1}", "l")))))
        for i in range(DEPTH_MAX)
    ]
    return model(graph(node("f0", "l")), *calls, function(f"f{DEPTH_MAX}", node()))


def heavy_function(calls: int = 500) -> bytes:
    """A constant of 10 MB in a function that is called again and again: 5 GB when they are put in."""
    constant = node("Constant", "", text(1, "value") + field(5, 2, tensor(dims=(2_500_000,), raw=bytes(10_000_000))))
    return model(graph(*[node("f", "l")] * calls), function("f", constant))


def heavy_argument() -> bytes:
    """An attribute of 10 MB that a function's body takes 500 times."""
    taker = node("Constant", "", text(1, "value") + text(21, "t"))
    call = node("f", "l", text(1, "t") + field(5, 2, tensor(dims=(2_500_000,), raw=bytes(10_000_000))))
    return model(graph(call), function("f", *[taker] * 500, more=text(6, "t")))


def constant_of_shape(*dims: int) -> bytes:
    """A tensor out of nothing."""
    shape = tensor(dims=(len(dims),), kind=7, raw=struct.pack(f"<{len(dims)}q", *dims), more=text(8, "s"))
    return model(graph(text(1, "s") + text(2, "y") + text(4, "ConstantOfShape"), more=field(5, 2, shape)))


def forest() -> bytes:
    """A tree ensemble: an attribute with hundreds of thousands of numbers and words, each a field of its own."""
    numbers = text(1, "nodes_featureids") + b"".join(number(8, i % 300) for i in range(TREES))
    words = text(1, "nodes_modes") + field(9, 2, b"BRANCH_LEQ") * TREES
    floats = text(1, "nodes_values") + field(7, 5, struct.pack("<f", 1.5)) * TREES
    ensemble = node("TreeEnsembleClassifier", "ai.onnx.ml", numbers, words, floats)
    return model(graph(ensemble), more=field(8, 2, text(1, "ai.onnx.ml") + number(2, 3)))


def opset(domain: str, version: int) -> bytes:
    return field(8, 2, text(1, domain) + number(2, version))


def _sparse(dims: int) -> bytes:
    values, indices = tensor(raw=bytes(4)), tensor(kind=7, raw=bytes(8))
    return model(graph(node(), more=field(15, 2, field(1, 2, values) + field(2, 2, indices) + number(3, dims))))


def _at(location: str, **entries: str) -> Callable[[], bytes]:
    return lambda: weights(external(location=location, **entries))


def _of(data: bytes) -> Callable[[], bytes]:
    return lambda: data


PLAIN = model(graph(node(), node("Relu"), more=field(5, 2, tensor(dims=(2, 2), raw=bytes(16)))))
MINUS_ONE = (1 << 64) - 1
REFUSED = tuple(
    Beast(name, make, says)
    for name, make, says in [
        ("empty", _of(b""), "empty"),
        ("zeros", _of(bytes(1000)), "number 0"),
        ("words", _of(b"hello, world\n"), "not a"),
        ("zip", _of(b"PK\x03\x04" + bytes(100)), "not a"),
        ("ort format", _of(b"\x00\x00\x00\x00ORTM" + bytes(100)), r"\.ort"),
        ("git lfs", _of(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "pointer"),
        ("cut", _of(PLAIN[: len(PLAIN) // 2]), "middle of a"),
        ("random", lambda: random.Random(1).randbytes(100_000), "not a"),
        ("no graph", _of(number(1, 8)), "no graph"),
        ("no version", _of(field(7, 2, graph(node()))), "no graph"),
        ("two graphs", _of(model(graph(node()), more=field(7, 2, graph(node())))), "more than one graph"),
        ("endless number", _of(field(1, 0) + b"\xff" * 12), "too long"),
        ("group", _of(model(b"") + field(30, 3)), "wire type 3"),
        (
            "wrong wire type",
            _of(model(graph(node(), more=field(5, 2, tensor(more=field(4, 0) + b"\x01"))))),
            "wire type",
        ),
        ("bad utf-8", _of(model(graph(text(1, "x") + field(4, 2, b"\xff\xfe")))), "no text"),
        ("name of a megabyte", _of(model(graph(node("x" * 1_000_000)))), "1000000 bytes"),
        ("newer format", _of(model(graph(node()), more=number(1, 999))), "IR version 999, and 13"),
        ("newer opset", _of(model(graph(node()), more=opset("", 99))), "opset 99 of ai.onnx, and 26"),
        ("newer opset, other name", _of(model(graph(node()), more=opset("ai.onnx", 99))), "opset 99"),
        ("newer opset, in a function", _of(model(graph(node()), function("f", more=field(9, 2, number(2, 99))))), "99"),
        ("newer ml opset", _of(model(graph(node()), more=opset("ai.onnx.ml", 6))), r"opset 6 of ai\.onnx\.ml"),
        ("custom operator", _of(model(graph(node("Run", "evil.ops")))), r"'Run' of domain 'evil\.ops'"),
        (
            "custom operator beside a function",
            _of(model(graph(node("g", "l")), function("f", node()))),
            "'g' of domain",
        ),
        (
            "custom operator in a function",
            _of(model(graph(), function("f", node("R", "evil")))),
            "'R' of domain 'evil'",
        ),
        ("custom operator in a branch", lambda: model(nested(4, graph(node("R", "evil")))), "'R' of domain 'evil'"),
        ("internal operator", _of(model(graph(node("Conv", "com.microsoft.nchwc")))), "'Conv' of domain"),
        (
            "EPContext",
            _of(model(graph(node("EPContext", "com.microsoft")))),
            "EPContext, which holds or names a program",
        ),
        ("EPContext in a branch", lambda: model(nested(3, graph(node("EPContext", "com.microsoft")))), "EPContext"),
        ("EPContext in a function", _of(model(graph(), function("f", node("EPContext")))), "EPContext"),
        ("python", _of(model(graph(node("PythonOp", "com.microsoft")))), "PythonOp, which runs Python"),
        ("doubling functions", doubling, "grow to 100663295 nodes .* 200000 is the limit"),
        ("doubling functions, many", lambda: doubling(70), "grow to 4611686018427387904 nodes"),
        ("functions in a circle", lambda: chain(5, "f2"), "calls itself"),
        ("a function that calls itself", lambda: chain(1, "f0"), "'f0' of domain 'l' calls itself"),
        ("functions in a circle, not called", _of(model(graph(node()), function("f", node("f", "l")))), "calls itself"),
        ("a chain that is slow", lambda: chain(100), "100 deep in one another, and 32"),
        ("a heavy function", heavy_function, r"grow to 5000\d{6} bytes"),
        ("a heavy argument", heavy_argument, r"grow to 5000\d{6} bytes"),
        (
            "a function called with a graph",
            _of(model(graph(node("f", "l", field(6, 2, graph(node())))), function("f", node()))),
            "with a graph",
        ),
        (
            "a function with a graph for a default",
            _of(model(graph(), function("f", more=field(11, 2, field(6, 2, graph()))))),
            "default",
        ),
        ("deep graphs", lambda: model(nested(DEPTH_MAX + 1)), f"more than {DEPTH_MAX} deep"),
        ("very deep graphs", lambda: model(nested(3000)), f"more than {DEPTH_MAX} deep"),
        ("graphs deep by calls", deep_by_calls, "graphs 17 deep"),
        (
            "two values in an attribute",
            _of(model(graph(node("If", "", field(6, 2, graph()) + field(6, 2, graph()))))),
            "one value",
        ),
        ("parent folder", _at("../secret"), None),
        ("absolute path", _at("/etc/passwd"), None),
        ("a folder", _at("a/b"), None),
        ("backslashes", _at("..\\secret"), None),
        ("drive", _at("C:\\secret"), None),
        ("hidden file", _at(".files"), None),
        ("end of text", _at("w.bin\x00.txt"), None),
        ("line break", _at("w.bin\n"), None),
        ("memory of the process", _at("*/_ORT_MEM_ADDR_/*", offset="140737488355328", length="4"), None),
        ("nameless", _at(""), None),
    ]
)
"""With None, the scan itself takes them: the name that they read is refused when the files are looked at."""
REFUSED_TENSORS = tuple(
    Beast(name, _of(weights(data)), says)
    for name, data, says in [
        ("a tebibyte", tensor(dims=(1 << 40,), kind=2, raw=bytes(8)), "declares 1099511627776 bytes and holds 8"),
        ("a tebibyte of nothing", tensor(dims=(1 << 40,), kind=2), "declares 1099511627776 elements and holds 0"),
        ("overflowing shape", tensor(dims=(1 << 33, 1 << 33), raw=bytes(4)), "declares 295147905179352825856 bytes"),
        ("negative dimension", tensor(dims=(MINUS_ONE,), raw=bytes(4)), "negative dimension"),
        ("thousands of dimensions", tensor(dims=(1,) * 5000, raw=bytes(4)), "more than 64"),
        ("packed dimensions", field(1, 2, b"\x01" * 5000) + number(2, 1), "more than 64"),
        ("too little data", tensor(dims=(3,), raw=bytes(8)), "declares 12 bytes and holds 8"),
        ("too much data", tensor(dims=(1,), raw=bytes(8)), "declares 4 bytes and holds 8"),
        ("no type", tensor(kind=0, raw=bytes(4)), "element type 0"),
        ("a type of the future", tensor(kind=99, raw=bytes(4)), "element type 99"),
        ("data twice", tensor(raw=bytes(4), more=field(4, 2, bytes(4))), "data twice"),
        ("data of another type", tensor(kind=7, more=field(4, 2, bytes(4))), "another element type"),
        ("half a number", tensor(more=field(4, 2, bytes(3))), "middle of an element"),
        ("cut number", tensor(kind=7, more=field(7, 2, b"\x80")), "middle of a number"),
        ("segment", tensor(more=field(3, 2, number(1, 0))), "segments"),
        ("raw text", tensor(kind=8, raw=b"text"), "raw bytes"),
        ("marked and unnamed", tensor(more=number(14, 1)), "external in one place"),
        ("named and unmarked", external(location="w.bin", marked=False), "external in one place"),
        ("inside and outside", external(True, location="w.bin"), "inside and outside"),
        ("negative offset", external(location="w.bin", offset="-1"), "no count of bytes"),
        ("fractional offset", external(location="w.bin", offset="1e9"), "no count of bytes"),
        ("offset in other digits", external(location="w.bin", offset="٣"), "no count of bytes"),
        ("offset of 5,000 digits", external(location="w.bin", offset="9" * 4000), "no count of bytes"),
        ("length of another shape", external(location="w.bin", length="5"), "declares 4 bytes, and its .* has 5"),
        ("injected attribute", external(location="w.bin", __class__="x"), "the key '__class__'"),
        ("prepacked weights", external(location="w.bin", prepacked_0="x"), "the key 'prepacked_0'"),
        ("two locations", external(location="w.bin") + field(13, 2, text(1, "location") + text(2, "v")), "twice"),
        ("a wordy location", external(location="w" * 10_000), "10000 bytes"),
    ]
)
LARGE = (
    Beast("200,000 nodes", lambda: identities(LARGE_NODES), "more than 100000 nodes"),
    Beast("100,000 nodes", lambda: identities(100_000), None),
    Beast("a chain that overflows the stack", lambda: chain(5000), "5000 deep in one another, and 32"),
    Beast("ten thousand functions", lambda: model(graph(), *[function("f")] * 10_000), "more than 5000 functions"),
    Beast("a bomb of fields", lambda: model(graph(node(), more=field(10, 2) * 3_000_000)), "fields"),
    Beast("a forest", forest, None),
)
"""Megabytes of structure: they take longer, and within bounds."""
TAKEN = tuple(
    Beast(name, make, None)
    for name, make in [
        ("plain", _of(PLAIN)),
        ("functions", lambda: chain(32)),
        (
            "functions of its own domain",
            _of(model(graph(node("f", "pkg.torch")), function("f", node(), domain="pkg.torch"))),
        ),
        (
            "a standard operator as a function",
            _of(model(graph(node("Gelu")), function("Gelu", node("Erf"), domain=""))),
        ),
        ("ml", _of(model(graph(node("Scaler", "ai.onnx.ml")), more=opset("ai.onnx.ml", 3)))),
        ("fused", _of(model(graph(node("FusedMatMul", "com.microsoft")), more=opset("com.microsoft", 1)))),
        ("opsets nobody uses", _of(model(graph(node()), more=opset("com.microsoft.nchwc", 1) + opset("x.y", 99)))),
        ("deep", lambda: model(nested(DEPTH_MAX))),
        ("data types packed", _of(weights(tensor(dims=(3,), kind=22, more=field(5, 2, b"\x01\x02"))))),
        ("half floats as numbers", _of(weights(tensor(dims=(2,), kind=10, more=field(5, 2, b"\x80\x7c\x00"))))),
        ("text", _of(weights(tensor(dims=(2,), kind=8, more=field(6, 2, b"a") + field(6, 2, b"b"))))),
        ("complex", _of(weights(tensor(dims=(1,), kind=14, more=field(4, 2, bytes(8)))))),
        ("empty tensor", _of(weights(tensor(dims=(0, 4))))),
        ("number", _of(weights(tensor(dims=(), raw=bytes(4))))),
        ("outside", _at("weights.bin", offset="0", length="4", checksum="0")),
        ("unknown fields", _of(PLAIN + field(99, 2, b"later") + field(100, 1, bytes(8)))),
        ("metadata", _of(PLAIN + field(14, 2, text(1, "ort_config") + text(2, "{}")))),
    ]
)


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """Changed, cut, doubled and moved bytes of the smaller beasts; one seed gives the same ones."""
    rng = random.Random(seed)
    stock = [it.make() for it in (*REFUSED, *REFUSED_TENSORS, *4 * TAKEN)]
    stock = [data for data in stock if 0 < len(data) <= 4096]
    for _ in range(count):
        mutant = bytearray(rng.choice(stock))
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, max(0, len(mutant) - 1))
            to = min(len(mutant), at + rng.randint(0, 40))
            match rng.randrange(6):
                case 0:
                    mutant[at : at + 1] = rng.randbytes(1)
                case 1:
                    mutant[at:to] = rng.randbytes(rng.randint(0, 8))
                case 2:
                    del mutant[to:]
                case 3:
                    mutant[at:at] = mutant[at:to]
                case 4:
                    mutant[at : at + 1] = bytes([rng.choice((0, 0x7F, 0x80, 0xFF))])
                case _:
                    other = rng.choice(stock)
                    begin = rng.randint(0, len(other))
                    mutant[at:to] = other[begin : begin + rng.randint(0, 60)]
        yield bytes(mutant)
