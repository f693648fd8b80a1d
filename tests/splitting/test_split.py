"""Parts of a model bring what the whole brings, and each is a model of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from meshnode.errors import InvalidInput
from meshnode.splitting.files import Part, split
from tests.splitting.making import build, constant, info, inputs, save, transformer

Arrays = dict[str, Any]


def session(path: Path, *, optimised: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(paths: list[Path], given: Arrays, *, optimised: bool = False) -> Arrays:
    """One model after the other, as a pipeline does it: by equal names."""
    for path in paths:
        onnx.checker.check_model(str(path), full_check=True)
        it = session(path, optimised=optimised)
        values = it.run(None, {value.name: given[value.name] for value in it.get_inputs()})
        given = dict(zip((value.name for value in it.get_outputs()), values, strict=True))
    return given


def same(path: Path, parts: list[Part], given: Arrays) -> None:
    """Bit for bit, with ONNX Runtime's optimisations off: what it fuses across a cut may round otherwise."""
    expected = run([path], given)
    found = run([part.path for part in parts], given)
    assert list(expected) == list(found)
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], name)
    for name, array in run([part.path for part in parts], given, optimised=True).items():
        np.testing.assert_allclose(expected[name], array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outside", [False, True], ids=["one file", "external data"])
def test_parts_weigh_the_same_and_bring_the_same(tmp_path: Path, outside: bool) -> None:
    """Three parts of a transformer: equal outputs, a third of the weight each, and only the residual and the mask
    cross, though a matrix is shared and the mask is used to the end."""
    path = save(transformer(), tmp_path / "whole.onnx", outside=outside)
    parts = split(path, tmp_path / "parts", parts=3)
    same(path, parts, inputs())
    weights = [part.weight_bytes for part in parts]
    total = 4 * 12 * 256 * 256 * 6
    assert total / 3 * 0.85 < min(weights) <= max(weights) < total / 3 * 1.2
    assert [2, 2] == [len(part.outputs) for part in parts[:-1]]
    assert {"mask"} <= set(parts[0].outputs) & set(parts[1].outputs)
    assert ("x", "mask") == parts[0].inputs
    assert ("y",) == parts[2].outputs
    on_disk = [sum(file.stat().st_size for file in (tmp_path / "parts").glob(f"{part.path.name}*")) for part in parts]
    assert all(weight <= size < weight + 200_000 for weight, size in zip(weights, on_disk, strict=True))


def test_a_cut_is_where_it_is_asked_for(tmp_path: Path) -> None:
    """After each of the named tensors, in the graph's order; what is no place is refused by name."""
    path = save(transformer(2, 32), tmp_path / "whole.onnx")
    parts = split(path, tmp_path / "parts", at=["l0_out", "embedded"])
    assert [("embedded", "mask"), ("l0_out", "mask"), ("y",)] == [tuple(sorted(part.outputs)) for part in parts]
    same(path, parts, inputs(width=32))
    for names in (["nosuch"], ["x"], ["y"], ["shared"], ["embedded", "embedded"]):
        with pytest.raises(InvalidInput):
            split(path, tmp_path / "other", at=names)


def test_what_a_body_captures_crosses_with_it(tmp_path: Path) -> None:
    """A branch takes a tensor and a weight of the graph around it: it is cut before or behind, never inside."""
    body = [
        helper.make_graph([helper.make_node(kind, [*given], ["o"])], name, [], [info("o", TensorProto.FLOAT, None)])
        for kind, given, name in (("Add", ("first", "w"), "then"), ("Neg", ("second",), "else"))
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["first"]),
        helper.make_node("Neg", ["first"], ["second"]),
        helper.make_node("ReduceSum", ["second"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["yes"], to=TensorProto.BOOL),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=body[0], else_branch=body[1]),
        helper.make_node("Mul", ["chosen", "w"], ["y"]),
    ]
    model = build(
        nodes,
        [info("x", TensorProto.FLOAT, ["n"])],
        [info("y", TensorProto.FLOAT, ["n"]), info("first", TensorProto.FLOAT, ["n"])],
        [constant("w", np.float32([1, 2, 3]))],
    )
    path = save(model, tmp_path / "if.onnx")
    parts = split(path, tmp_path / "parts", at=["yes"])
    assert {"first", "second", "yes"} == set(parts[0].outputs)
    for x in ([1, -2, 3], [-1, -1, -1]):
        same(path, parts, {"x": np.float32(x)})


def test_constants_are_copied_and_not_sent(tmp_path: Path) -> None:
    """What is made of weights alone is made in each part that uses it, and nothing of it crosses."""
    nodes = [
        helper.make_node("Constant", [], ["k"], value=constant("k", np.float32([2]))),
        helper.make_node("DequantizeLinear", ["q", "k"], ["w"]),
        helper.make_node("Add", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Mul", ["r", "w"], ["y"]),
    ]
    model = build(
        nodes,
        [info("x", TensorProto.FLOAT, ["n"])],
        [info("y", TensorProto.FLOAT, ["n"]), info("k", TensorProto.FLOAT, [1])],
        [constant("q", np.int8([1, 2, 3]))],
    )
    path = save(model, tmp_path / "constants.onnx")
    parts = split(path, tmp_path / "parts", at=["r"])
    assert [("r",), ("r",)] == [parts[0].outputs, parts[1].inputs]
    same(path, parts, {"x": np.float32([1, -5, 9])})


def test_functions_go_where_they_are_called(tmp_path: Path) -> None:
    """A model-local function is in each part that calls it, and in no other."""
    twice = helper.make_function("own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], OPS)
    nodes = [
        helper.make_node("Twice", ["x"], ["t"], domain="own"),
        helper.make_node("Relu", ["t"], ["r"]),
        helper.make_node("Neg", ["r"], ["y"]),
    ]
    floats = [info(name, TensorProto.FLOAT, ["n"]) for name in "xyt"]
    graph = helper.make_graph(nodes, "g", [floats[0]], [floats[1]], [], value_info=[floats[2]])
    opsets = [*OPS, helper.make_opsetid("own", 1)]
    path = save(helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[twice]), tmp_path / "f.onnx")
    parts = split(path, tmp_path / "parts", at=["t"])
    assert [1, 0] == [len(onnx.load(part.path).functions) for part in parts]
    same(path, parts, {"x": np.float32([1, -5, 9])})


OPS = [helper.make_opsetid("", 17)]


def test_what_cannot_be_cut_is_said(tmp_path: Path) -> None:
    """No model, too few nodes, too many parts, tensors that are a sequence, a file in the way, bytes from elsewhere;
    and nothing is left of what failed."""
    floats = info("x", TensorProto.FLOAT, ["n"]), info("y", TensorProto.FLOAT, ["n"])
    chain = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]
    listed = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
        helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0),
    ]
    no_model = tmp_path / "no.onnx"
    no_model.write_bytes(b"\xff" * 100)
    good = save(build(chain, [floats[0]], [floats[1]], []), tmp_path / "chain.onnx")
    sequence = save(build(listed, [floats[0]], [floats[1]], []), tmp_path / "sequence.onnx")
    outside = save(transformer(1, 32), tmp_path / "outside.onnx", outside=True)
    model = onnx.load(outside, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../outside.onnx.bin"
    folder = tmp_path / "in"
    folder.mkdir()
    stray = folder / "stray.onnx"
    stray.write_bytes(model.SerializeToString())
    wrong: list[tuple[Path, dict[str, Any], str]] = [
        (no_model, {"parts": 2}, "cannot be read"),
        (good, {"parts": 3}, "too few for 3 parts"),
        (good, {"parts": 1}, "2 to 16 parts"),
        (sequence, {"parts": 2}, "too few for 2 parts"),
        (sequence, {"at": ["s"]}, "'s', whose type is unknown or no tensor"),
        (stray, {"parts": 2}, "no file beside the model"),
    ]
    for path, how, text in wrong:
        with pytest.raises(InvalidInput, match=text):
            split(path, tmp_path / "parts", **how)
    assert [] == [*tmp_path.glob("parts/*")]
    split(good, tmp_path / "parts", parts=2)
    with pytest.raises(InvalidInput, match="exists already"):
        split(good, tmp_path / "parts", parts=2)
