"""Models to cut: something like a transformer, and small ones with what is hard about graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = [helper.make_opsetid("", 17)]
info = helper.make_tensor_value_info


def constant(name: str, array: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def build(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: list[TensorProto], **more: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=8, **more)
    onnx.checker.check_model(model)
    return model


def transformer(layers: int = 6, width: int = 256, words: int = 16) -> onnx.ModelProto:
    """Layers of attention and a wide perceptron, with residuals; a mask that all use, and one shared matrix.

    Each layer weighs 12 width^2 floats.
    """
    rng = np.random.default_rng(7)
    nodes: list[Any] = []
    weights = [
        constant("shared", rng.standard_normal((width, width)).astype(np.float32) / 16),
        constant("scale", np.float32(width**-0.5)),
        constant("one", np.ones(width, np.float32)),
        constant("zero", np.zeros(width, np.float32)),
    ]

    def matmul(x: str, name: str, rows: int, columns: int) -> str:
        weights.append(constant(f"{name}_w", rng.standard_normal((rows, columns)).astype(np.float32) / rows**0.5))
        nodes.append(helper.make_node("MatMul", [x, f"{name}_w"], [name]))
        return name

    def node(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    x = node("MatMul", ["x", "shared"], "embedded")
    for layer in range(layers):
        at = f"l{layer}"
        q, k, v = (matmul(x, f"{at}_{which}", width, width) for which in "qkv")
        scores = node("MatMul", [q, node("Transpose", [k], f"{at}_kt", perm=[0, 2, 1])], f"{at}_scores")
        masked = node("Add", [node("Mul", [scores, "scale"], f"{at}_scaled"), "mask"], f"{at}_masked")
        mixed = node("MatMul", [node("Softmax", [masked], f"{at}_soft", axis=-1), v], f"{at}_mixed")
        x = node("Add", [x, matmul(mixed, f"{at}_o", width, width)], f"{at}_mid")
        x = node("LayerNormalization", [x, "one", "zero"], f"{at}_norm", axis=-1)
        wide = node("Relu", [matmul(x, f"{at}_up", width, 4 * width)], f"{at}_relu")
        x = node("Add", [x, matmul(wide, f"{at}_down", 4 * width, width)], f"{at}_out")
    node("MatMul", [x, "shared"], "y")
    shape = ["b", words, width]
    return build(
        nodes,
        [info("x", TensorProto.FLOAT, shape), info("mask", TensorProto.FLOAT, [words, words])],
        [info("y", TensorProto.FLOAT, shape)],
        weights,
    )


def inputs(words: int = 16, width: int = 256) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    mask = np.triu(np.full((words, words), -1e4, np.float32), 1)
    return {"x": rng.standard_normal((2, words, width)).astype(np.float32), "mask": mask}


def save(model: onnx.ModelProto, path: Path, *, outside: bool = False) -> Path:
    """In one file, or with all large tensors in another one beside it."""
    if outside:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.bin", size_threshold=64)
    else:
        onnx.save(model, path)
    return path
