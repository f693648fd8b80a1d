"""Build echo: a model that gives back what it gets, for measuring everything but the model.

python models/echo/build.py
"""

from pathlib import Path

from onnx import TensorProto, checker, helper


def build() -> bytes:
    """The model's bytes; the same every time."""
    shape = ["batch", "n"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "echo",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(
        graph, producer_name="meshnode", opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


if __name__ == "__main__":
    Path(__file__).with_name("model.onnx").write_bytes(build())
