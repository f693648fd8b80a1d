"""The two models that every system runs: one that costs nothing, and one that reads 602 KB and takes milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from scripts.bench.comparison.contract import SHAPES


class Maker:
    """Nodes and weights, one after the other."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, *shape: int) -> str:
        """The name of new weights that keep the size of what goes through."""
        name = f"w{len(self.weights)}"
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        value = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """The name of what it gives."""
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def model(self, name: str) -> bytes:
        """The file's bytes. The first dimension is free, as of most models that are served."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPES[name][1:]])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
            self.weights,
        )
        opset = [helper.make_opsetid("", 17)]
        made = helper.make_model(graph, producer_name="meshnode", opset_imports=opset, ir_version=8)
        checker.check_model(made, full_check=True)
        data: bytes = made.SerializeToString(deterministic=True)
        return data


def mlp() -> bytes:
    """64 numbers, two layers: microseconds."""
    it = Maker()
    hidden = it.node("Relu", it.node("Gemm", "x", it.weight(64, 64), it.weight(64), transB=1))
    it.node("Gemm", hidden, it.weight(10, 64), it.weight(10), transB=1, output="y")
    return it.model("mlp")


def cnn() -> bytes:
    """A picture of 224 by 224: five convolutions, 213 million multiplications."""
    it = Maker()
    value, channels = "x", 3
    for wide in (32, 64, 128, 256, 256):
        kernel = it.weight(wide, channels, 3, 3)
        value = it.node("Relu", it.node("Conv", value, kernel, it.weight(wide), strides=[2, 2], pads=[1, 1, 1, 1]))
        channels = wide
    flat = it.node("Flatten", it.node("GlobalAveragePool", value))
    it.node("Gemm", flat, it.weight(10, channels), it.weight(10), transB=1, output="y")
    return it.model("cnn")


def write(folder: Path) -> None:
    """Both, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlp.onnx").write_bytes(mlp())
    (folder / "cnn.onnx").write_bytes(cnn())
