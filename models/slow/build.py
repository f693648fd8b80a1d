"""Build slow: a model whose run time is chosen by its input, for routing, deadlines and cancellation.

python models/slow/build.py
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper

WIDTH = 64


def weight() -> npt.NDArray[np.float32]:
    """63/64 times an orthogonal matrix, all exact fractions: Sylvester's Hadamard matrix over 8."""
    matrix = np.ones((1, 1))
    while len(matrix) < WIDTH:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (matrix / 8 * (63 / 64)).astype(np.float32)


def build() -> bytes:
    """The model's bytes; the same everywhere."""
    state = ["batch", WIDTH]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("MatMul", ["h_in", "w"], ["product"]),
            helper.make_node("Add", ["product", "x"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["h_out"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_in", TensorProto.FLOAT, state),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, state),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "zero"], ["h0"]),
            helper.make_node("Loop", ["rounds", "", "h0"], ["y"], body=body),
        ],
        "slow",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, state),
            helper.make_tensor_value_info("rounds", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, state)],
        initializer=[
            numpy_helper.from_array(weight(), "w"),
            numpy_helper.from_array(np.zeros((), np.float32), "zero"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, producer_name="meshnode", opset_imports=opset, ir_version=8)
    checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


if __name__ == "__main__":
    Path(__file__).with_name("model.onnx").write_bytes(build())
