"""The judgement on an ONNX file before anything larger opens it: a verdict with figures, or `ModelRefused`.

One walk over the protobuf wire format within a budget. It builds nothing of the model and skips its weights; it counts
nodes, also those that functions would grow to, and holds what tensors declare against the data that is there. Whether
the graph makes sense is for the worker to say. Bytes in, verdict or `ModelRefused` out; no other error.

Field numbers are those of onnx.proto: ModelProto {1 ir_version, 7 graph, 8 opset_import, 20 training_info, 25
functions}, OperatorSetIdProto {1 domain, 2 version}, GraphProto {1 node, 5 initializer, 11 input, 12 output, 13
value_info, 15 sparse_initializer}, NodeProto {1 input, 4 op_type, 5 attribute, 7 domain}, AttributeProto {5 t, 6 g,
7 floats, 8 ints, 9 strings, 10 tensors, 11 graphs, 21 ref_attr_name, 22 sparse_tensor, 23 sparse_tensors},
FunctionProto {1 name, 7 node, 9 opset_import, 10 domain, 11 attribute_proto}, TrainingInfoProto {1 initialization,
2 algorithm}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from meshnode.catalog.activations import Shapes
from meshnode.catalog.expansion import CALLS_DEPTH_MAX, Body, Key, expand
from meshnode.catalog.protobuf import NESTED, VARINT, Bytes, Malformed, Reader, signed
from meshnode.catalog.tensors import Tensor, read_sparse, read_tensor
from meshnode.catalog.verdict import SCANNER, Supported, Verdict, known_here
from meshnode.errors import ModelRefused

PROTOBUF_BYTES_MAX = 2**31 - 1
NODES_MAX = 100_000
EXPANDED_NODES_MAX = 200_000
DEPTH_MAX = 16
"""Graphs within graphs."""
FIELDS_MAX = 2_000_000
"""Fields looked at; 100,000 nodes of an exporter have 1.3 million."""
FUNCTIONS_MAX = 5_000
EXPANDED_BYTES_MAX = PROTOBUF_BYTES_MAX
"""Of what functions' bodies become when each call is replaced by one."""
DOMAINS = ("", "ai.onnx.ml", "com.microsoft")
"""Whose operators are run; functions that a model brings along have domains of their own."""
REFUSED_OPERATORS = {
    "EPContext": "holds or names a program that was compiled for one device",
    "PythonOp": "runs Python code",
    "PythonOpGrad": "runs Python code",
    "Snpe": "holds or names a program that was compiled for one device",
}
_SCALARS = re.compile(
    rb"(?:=.{4}|@[\x80-\xff]{0,9}[\x00-\x7f]|J(?:" + b"|".join(b"\\x%02x.{%d}" % (n, n) for n in range(32)) + rb"))*",
    re.DOTALL,
)
"""Elements of an attribute's lists (floats, ints, short strings): a tree ensemble has millions of them."""
_SCALAR_KEYS = frozenset(b"=@J")


def scan(data: Bytes, supported: Supported | None = None) -> Verdict:
    """Raises ModelRefused with what, where, the limit and the actual value."""
    with memoryview(data) as whole, whole.cast("B") as view:
        if len(view) == 0:
            raise ModelRefused("the file is empty")
        if len(view) > PROTOBUF_BYTES_MAX:
            raise ModelRefused(
                f"the file has {len(view)} bytes, and an ONNX file has at most {PROTOBUF_BYTES_MAX}",
                hint="larger models keep their weights in external data files",
            )
        head = bytes(view[:64])
        if head[4:8] == b"ORTM":
            raise ModelRefused(
                "this is an .ort file, and only ONNX models are taken", hint="add the .onnx it was made from"
            )
        if head.startswith(b"version https://git-lfs"):
            raise ModelRefused("this is a Git LFS pointer, not the model", hint="`git lfs pull` fetches the model")
        try:
            return _Walk(view, supported or known_here()).model()
        except Malformed as error:
            raise ModelRefused(f"the file is not a sound ONNX model: {error}", hint=error.hint) from error


class _Walk:
    """One pass over one file."""

    def __init__(self, view: memoryview, supported: Supported) -> None:
        self._view = view
        self._supported = supported
        self._reader = Reader(view, FIELDS_MAX)
        self._graph = Body()
        self._functions: dict[Key, list[Body]] = {}
        self._nodes = 0
        self._depth = 1
        self._weights = 0
        self._external: dict[str, int] = {}
        self._carriers: set[Key] = set()
        self._function_opsets: dict[str, int] = {}
        self._functions_count = 0
        self._shapes = Shapes()
        self._last = Tensor("", 0, 0)

    def model(self) -> Verdict:
        """The whole file is one ModelProto."""
        reader = self._reader
        ir_version = graphs = 0
        opsets: dict[str, int] = {}
        for number, kind, start, end in reader.fields(0, len(self._view)):
            if number == 1 and kind == VARINT:
                ir_version = start
            elif kind != NESTED:
                continue
            elif number == 7:
                graphs += 1
                if graphs > 1:
                    raise Malformed("it has more than one graph")
                self._enter_graph(start, end, self._graph, 1)
            elif number == 8:
                self._opset(start, end, opsets)
            elif number == 20:
                for inner, inner_kind, at, to in reader.fields(start, end):
                    if inner in (1, 2) and inner_kind == NESTED:
                        self._enter_graph(at, to, self._graph, 1)
            elif number == 25:
                self._function(start, end)
        if graphs == 0 or ir_version <= 0:
            raise ModelRefused("the file is not an ONNX model: it holds no graph")
        self._check_versions(ir_version, opsets)
        return self._verdict(ir_version, opsets)

    # --- the parts of a file ---

    def _opset(self, start: int, end: int, opsets: dict[str, int]) -> None:
        domain, version = "", 0
        for number, kind, at, to in self._reader.fields(start, end):
            if number == 1 and kind == NESTED:
                domain = self._reader.text(at, to)
            elif number == 2 and kind == VARINT:
                version = signed(at)
        domain = _plain(domain)
        opsets[domain] = max(version, opsets.get(domain, version))

    def _function(self, start: int, end: int) -> None:
        self._functions_count += 1
        if self._functions_count > FUNCTIONS_MAX:
            raise ModelRefused(f"the model has more than {FUNCTIONS_MAX} functions, the limit")
        body = Body(nbytes=end - start)
        domain = name = ""
        nodes: list[tuple[int, int]] = []
        for number, kind, at, to in self._reader.fields(start, end):
            if kind != NESTED:
                continue
            if number == 1:
                name = self._reader.text(at, to)
            elif number == 7:
                self._count_node()
                nodes.append((at, to))
            elif number == 9:
                self._opset(at, to, self._function_opsets)
            elif number == 10:
                domain = self._reader.text(at, to)
            elif number == 11 and self._attribute(at, to, body, 1):
                raise Malformed("a function has a graph as the default of an attribute")
        for at, to in nodes:
            self._node(at, to, body, 1)
        self._functions.setdefault((_plain(domain), name), []).append(body)

    def _enter_graph(self, start: int, end: int, body: Body, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise ModelRefused(f"graphs lie more than {DEPTH_MAX} deep in one another, the limit")
        self._depth = max(self._depth, depth)
        body.depth = max(body.depth, depth)
        nodes: list[tuple[int, int]] = []
        for number, kind, at, to in self._reader.fields(start, end):
            if kind != NESTED:
                continue
            if number == 1:
                self._count_node()
                nodes.append((at, to))
            elif number == 5:
                self._tensor(at, to)
            elif number in (11, 12, 13):
                if depth == 1:
                    self._shapes.declare(self._reader, number, at, to)
            elif number == 15:
                self._sparse(at, to)
        for at, to in nodes:
            self._node(at, to, body, depth)

    def _count_node(self) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise ModelRefused(f"the model has more than {NODES_MAX} nodes, the limit")

    def _node(self, start: int, end: int, body: Body, depth: int) -> None:
        reader = self._reader
        domain = operator = ""
        attributes: list[tuple[int, int]] = []
        inputs: list[tuple[int, int]] = []
        output = (0, 0)
        for number, kind, at, to in reader.fields(start, end):
            if kind != NESTED:
                continue
            if number == 1:
                inputs.append((at, to))
            elif number == 2:
                output = (at, to)
            elif number == 4:
                operator = reader.text(at, to)
            elif number == 5:
                attributes.append((at, to))
            elif number == 7:
                domain = _plain(reader.text(at, to))
        body.nodes += 1
        if operator in REFUSED_OPERATORS:
            raise ModelRefused(
                f"the model has a node of the operator {operator}, which {REFUSED_OPERATORS[operator]}",
                hint="export the model without it",
            )
        key = (domain, operator)
        nbytes = 0
        for at, to in attributes:
            nbytes += to - at
            if self._attribute(at, to, body, depth):
                self._carriers.add(key)
        body.call(key, nbytes, depth)
        if operator == "Constant" and attributes:
            self._shapes.keep(reader.label(*output), self._last.values)
        shape = self._shapes.makes(operator)
        if shape is not None and shape < len(inputs):
            self._shapes.made(reader.label(*inputs[shape]))

    def _attribute(self, start: int, end: int, body: Body, depth: int) -> bool:
        """Whether a graph is among what it holds."""
        reader, view = self._reader, self._view
        at, graphs, singles = start, 0, 0
        while at < end:
            if view[at] in _SCALAR_KEYS and (after := reader.skip(_SCALARS, at, end)) > at:
                at = after
                continue
            number, kind, begins, at = reader.field(at, end)
            if kind != NESTED:
                continue
            if number in (5, 6):
                singles += 1
                if singles > 1:
                    raise Malformed("an attribute has more than one value")
            if number in (5, 10):
                self._tensor(begins, at)
            elif number in (6, 11):
                graphs += 1
                self._enter_graph(begins, at, body, depth + 1)
            elif number == 21:
                body.references += 1
            elif number in (22, 23):
                self._sparse(begins, at)
        return graphs > 0

    def _tensor(self, start: int, end: int) -> None:
        self._weigh(read_tensor(self._reader, start, end))

    def _sparse(self, start: int, end: int) -> None:
        tensors, dense_bytes = read_sparse(self._reader, start, end)
        for tensor in tensors:
            self._weigh(tensor)
        self._weights += dense_bytes

    def _weigh(self, tensor: Tensor) -> None:
        self._weights += tensor.nbytes
        self._shapes.keep(tensor.name, tensor.values)
        self._last = tensor
        if (place := tensor.place) is not None:
            self._external[place.location] = max(place.end, self._external.get(place.location, 0))

    # --- the whole of it ---

    def _check_versions(self, ir_version: int, opsets: Mapping[str, int]) -> None:
        limit = self._supported.ir_version
        if ir_version > limit:
            raise ModelRefused(
                f"the model has IR version {ir_version}, and {limit} is the newest that is taken here",
                hint="export it for an older version of ONNX",
            )
        for domain, newest in self._supported.opsets.items():
            version = max(opsets.get(domain, 0), self._function_opsets.get(domain, 0))
            if version > newest:
                raise ModelRefused(
                    f"the model wants opset {version} of {domain or 'ai.onnx'}, and {newest} is the newest that is "
                    "taken here",
                    hint=f"export it with opset {newest} or less",
                )

    def _check_operators(self, bodies: Sequence[Body]) -> None:
        """Each node is of a domain that is known, or a call of a function that the model brings along."""
        for body in bodies:
            for domain, operator in body.calls:
                if domain not in DOMAINS and (domain, operator) not in self._functions:
                    raise ModelRefused(
                        f"the model has a node of the operator {operator[:80]!r} of domain {domain[:80]!r}, and only "
                        f"operators of {', '.join(it or 'ai.onnx' for it in DOMAINS)} and functions of its own are run",
                        hint="export the model without custom operators, or with them as functions",
                    )
        for domain, name in self._carriers & self._functions.keys():
            raise Malformed(f"function {name[:80]!r} of domain {domain[:80]!r} is called with a graph as an attribute")

    def _verdict(self, ir_version: int, opsets: dict[str, int]) -> Verdict:
        bodies = [self._graph, *(body for same in self._functions.values() for body in same)]
        self._check_operators(bodies)
        grown = expand(self._graph, self._functions)
        for what, actual, limit in (
            ("grow to {} nodes when its functions are put in", grown.nodes, EXPANDED_NODES_MAX),
            ("grow to {} bytes when its functions are put in", grown.nbytes, EXPANDED_BYTES_MAX),
            ("have graphs {} deep in one another when its functions are put in", grown.depth, DEPTH_MAX),
            ("have calls of functions {} deep in one another", grown.levels, CALLS_DEPTH_MAX),
        ):
            if actual > limit:
                raise ModelRefused(f"the model would {what.format(actual)}, and {limit} is the limit")
        return Verdict(
            SCANNER,
            ir_version,
            opsets,
            tuple(sorted({domain for body in bodies for domain, _ in body.calls})),
            self._nodes,
            grown.nodes,
            self._functions_count,
            max(self._depth, grown.depth),
            self._weights + grown.nbytes,
            self._shapes.nbytes,
            self._external,
        )


def _plain(domain: str) -> str:
    """The standard's own domain has two names."""
    return "" if domain == "ai.onnx" else domain
