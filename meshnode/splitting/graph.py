"""An ONNX graph as a line of steps, and a stretch of it as a model of its own.

What does not depend on the inputs (initializers, constants, and what is made of them) is no step: each part gets its
own. A node with a body (If, Loop, Scan) is one step that also takes what its body captures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper

from meshnode.errors import InvalidInput
from meshnode.splitting.cuts import Flow, Step

CHANCE = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"})
"""Run in two parts, they would bring two different things."""
BITS = {"INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2, "FLOAT4E2M1": 4}


@dataclass(frozen=True, slots=True)
class Made:
    """How a constant comes about: the nodes that make it, and the initializers and nodes whose bytes it needs."""

    nodes: frozenset[int]
    weights: frozenset[str]


class Whole:
    """A graph that is to be cut. Raises InvalidInput for what is no graph to cut."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        graph = model.graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._sparse = {sparse.values.name: sparse for sparse in graph.sparse_initializer}
        self._types = _types(model)
        self._bytes: dict[str, int] = {name: nbytes(tensor) for name, tensor in self._initializers.items()}
        for name, sparse in self._sparse.items():
            self._bytes[name] = nbytes(sparse.values) + nbytes(sparse.indices)
        self._made = {name: Made(frozenset(), frozenset({name})) for name in self._bytes}
        self._at: list[int] = []
        """Of each step, which node it is."""
        steps = list(self._steps())
        if len(steps) < 2:
            raise InvalidInput("the graph has fewer than two nodes that depend on its inputs: there is nothing to cut")
        outputs = tuple(value.name for value in graph.output)
        self.flow = Flow(
            steps,
            tuple(value.name for value in graph.input if value.name not in self._bytes),
            outputs,
            {name: _tensor_bytes(kind) for name, kind in self._types.items()},
            self._bytes,
            frozenset().union(*(self._made[name].weights for name in outputs if name in self._made)),
        )

    def part(self, number: int, cuts: tuple[int, ...]) -> ModelProto:
        """The model of the steps between two cuts; the first is number 0."""
        edges = [-1, *cuts, len(self.flow.steps) - 1]
        begin, end = edges[number], edges[number + 1]
        last = number == len(cuts)
        inputs = self.flow.inputs if number == 0 else self.flow.crossing(begin)
        outputs = self.flow.outputs if last else self.flow.crossing(end)
        graph = self.model.graph
        chosen = {self._at[place] for place in range(begin + 1, end + 1)}
        wanted = {name for at in chosen for name in taken(graph.node[at])} | (set(outputs) if last else set())
        made = [self._made[name] for name in wanted & self._made.keys()]
        chosen = chosen.union(*(it.nodes for it in made))
        constants = frozenset().union(*(it.weights for it in made))
        part = ModelProto()
        part.CopyFrom(_shell(self.model))
        part.graph.node.extend(graph.node[at] for at in sorted(chosen))
        part.graph.initializer.extend(it for name, it in self._initializers.items() if name in constants)
        part.graph.sparse_initializer.extend(it for name, it in self._sparse.items() if name in constants)
        part.graph.input.extend(helper.make_value_info(name, self._types[name]) for name in inputs)
        if self.model.ir_version < 4:  # where every initializer is an input too
            part.graph.input.extend(value for value in graph.input if value.name in constants)
        part.graph.output.extend(helper.make_value_info(name, self._types[name]) for name in outputs)
        names = {name for node in part.graph.node for name in (*taken(node), *node.output)}
        part.graph.value_info.extend(value for value in graph.value_info if value.name in names - set(outputs))
        part.graph.quantization_annotation.extend(
            it for it in graph.quantization_annotation if it.tensor_name in names | constants
        )
        part.functions.extend(_functions(self.model, part.graph.node))
        helper.set_model_props(
            part,
            {p.key: p.value for p in self.model.metadata_props} | {"meshnode.part": f"{number + 1} of {len(cuts) + 1}"},
        )
        return part

    def _steps(self) -> Iterator[Step]:
        for at, node in enumerate(self.model.graph.node):
            names = taken(node)
            if node.op_type not in CHANCE and all(name in self._made for name in names):
                given = [self._made[name] for name in names]
                weights = frozenset().union(*(it.weights for it in given))
                own = f"{node.output[0] if node.output else at}"
                if attached := sum(nbytes(tensor) for tensor in tensors_of(node)):
                    self._bytes[own] = attached
                    weights |= {own}
                it = Made(frozenset({at}).union(*(it.nodes for it in given)), weights)
                self._made |= dict.fromkeys((name for name in node.output if name), it)
                continue
            self._at.append(at)
            needed = frozenset().union(*(self._made[name].weights for name in names if name in self._made))
            yield Step(
                frozenset(name for name in names if name not in self._made),
                tuple(name for name in node.output if name),
                needed,
            )


def taken(node: NodeProto) -> set[str]:
    """What a node takes, also inside of its bodies."""
    names = {name for name in node.input if name}
    for body in bodies(node):
        names |= _captured(body)
    return names


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that are attributes of a node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def tensors_of(node: NodeProto) -> Iterator[TensorProto]:
    """Every tensor inside of a node: of its attributes, and of its bodies."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        yield from attribute.tensors
    for body in bodies(node):
        yield from body.initializer
        for inner in body.node:
            yield from tensors_of(inner)


def nbytes(tensor: TensorProto) -> int:
    """By its shape: the bytes themselves may lie in another file."""
    if tensor.data_type == TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    return int(math.prod(tensor.dims)) * _bits(tensor.data_type) // 8


def _bits(kind: int) -> int:
    name = TensorProto.DataType.Name(kind)
    return BITS.get(name) or 8 * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _captured(body: GraphProto) -> set[str]:
    own = {value.name for value in (*body.input, *body.initializer)} | {
        it.values.name for it in body.sparse_initializer
    }
    found: set[str] = set()
    for node in body.node:
        found |= taken(node) - own
        own |= set(node.output)
    return found | {value.name for value in body.output if value.name not in own}


def _types(model: ModelProto) -> dict[str, TypeProto]:
    """What is known of each tensor: what the model says, and what follows from it."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output, *model.graph.value_info)
    found = {value.name: value.type for value in values}
    return found | {value.name: value.type for value in (*model.graph.input, *model.graph.output)}


def _tensor_bytes(kind: TypeProto) -> int | None:
    """Of one tensor; a dimension that is not known counts as 1. None when it cannot be sent."""
    if not kind.HasField("tensor_type") or not kind.tensor_type.elem_type:
        return None
    dims = [dim.dim_value if dim.dim_value > 0 else 1 for dim in kind.tensor_type.shape.dim]
    return max(1, math.prod(dims) * _bits(kind.tensor_type.elem_type) // 8)


def _shell(model: ModelProto) -> ModelProto:
    """The same model without what its parts share out."""
    shell = ModelProto(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        opset_import=model.opset_import,
    )
    shell.graph.name = model.graph.name or "graph"
    return shell


def _functions(model: ModelProto, nodes: Iterable[NodeProto]) -> list[onnx.FunctionProto]:
    """Those that these nodes call, also through each other."""
    known = {(it.domain, it.name): it for it in model.functions}
    found: dict[tuple[str, str], onnx.FunctionProto] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        waiting += [inner for body in bodies(node) for inner in body.node]
        key = (node.domain, node.op_type)
        if key in known and key not in found:
            found[key] = known[key]
            waiting += known[key].node
    return [it for key, it in known.items() if key in found]
