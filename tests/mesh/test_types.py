"""Every kind of tensor through a mesh of two: bit-equal to a direct onnxruntime session on the same file."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import meshnode
from tests.mesh.rig import Agent, rig, wait_for

ONNX_TYPES: dict[str, tuple[int, Any]] = {
    "float": (TensorProto.FLOAT, np.float32),
    "double": (TensorProto.DOUBLE, np.float64),
    "float16": (TensorProto.FLOAT16, np.float16),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "int8": (TensorProto.INT8, np.int8),
    "int16": (TensorProto.INT16, np.int16),
    "int32": (TensorProto.INT32, np.int32),
    "int64": (TensorProto.INT64, np.int64),
    "uint8": (TensorProto.UINT8, np.uint8),
    "uint16": (TensorProto.UINT16, np.uint16),
    "uint32": (TensorProto.UINT32, np.uint32),
    "uint64": (TensorProto.UINT64, np.uint64),
    "bool": (TensorProto.BOOL, np.bool_),
    "float8e4m3fn": (TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
    "float8e4m3fnuz": (TensorProto.FLOAT8E4M3FNUZ, ml_dtypes.float8_e4m3fnuz),
    "float8e5m2": (TensorProto.FLOAT8E5M2, ml_dtypes.float8_e5m2),
    "float8e5m2fnuz": (TensorProto.FLOAT8E5M2FNUZ, ml_dtypes.float8_e5m2fnuz),
}
SHAPES = [(), (1,), (0,), (2, 3), (2, 0, 3), (1, 1, 1, 1, 2)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[meshnode.Client, Agent]]:
    """A client of one agent, and the other agent."""
    with rig(tmp_path_factory.mktemp("types")) as it:
        a, b = it.mesh(2)
        with meshnode.Client(a.home) as client:
            yield client, b


def save(folder: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], **more: Any) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, **more)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def identity(folder: Path, kind: int, rank: int) -> Path:
    shape = [f"d{i}" for i in range(rank)]
    return save(
        folder,
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )


def sample(dtype: Any, shape: tuple[int, ...]) -> Any:
    """Random bytes as an array of the type: every bit pattern has to survive, NaNs included."""
    wide = np.dtype(dtype)
    count = int(np.prod(shape))
    if wide == np.bool_:
        return np.random.default_rng(1).integers(0, 2, shape).astype(bool)
    raw = np.random.default_rng(1).integers(0, 256, count * wide.itemsize, dtype=np.uint8)
    return raw.view(wide).reshape(shape)


def bits(array: Any) -> bytes:
    return np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("word", ONNX_TYPES)
def test_every_bit_of_every_type_survives(pair: tuple[meshnode.Client, Agent], tmp_path: Path, word: str) -> None:
    """Scalars, empty dimensions and arrays of each type come back bit for bit, from here and from a peer."""
    client, other = pair
    kind, dtype = ONNX_TYPES[word]
    for shape in SHAPES:
        name = f"id-{word}-{len(shape)}"
        client.add_model(identity(tmp_path, kind, len(shape)), name=name)
        x = sample(dtype, shape)
        wait_for(lambda name=name: client.ask("model.show", model=name), within_s=10, why="known")  # type: ignore[misc]
        for node in (None, other.id):
            y = client.infer(name, {"x": x}, node=node, timeout=30)["y"]
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert bits(x) == bits(y)


def test_strings_survive(pair: tuple[meshnode.Client, Agent], tmp_path: Path) -> None:
    """Strings of any length and script, in any shape, as objects or as numpy's own text."""
    client, other = pair
    for shape, value in (
        ((), "héllo"),
        ((0,), []),
        ((2, 2), [["", "日本語"], ["a" * 10_000, "\N{PILE OF POO}"]]),
    ):
        name = f"text-{len(shape)}"
        client.add_model(identity(tmp_path, TensorProto.STRING, len(shape)), name=name)
        x = np.array(value, object).reshape(shape)
        for given in (x, x.astype(str)):
            y = client.infer(name, {"x": given}, node=other.id, timeout=30)["y"]
            assert shape == y.shape
            assert x.tolist() == y.tolist()


@pytest.mark.parametrize("word", ["int4", "uint4"])
def test_four_bit_tensors_go_in_and_come_out(pair: tuple[meshnode.Client, Agent], tmp_path: Path, word: str) -> None:
    """Odd counts of 4-bit elements are packed for onnxruntime and unpacked again, equal to a direct session's bits."""
    client, other = pair
    kind = {"int4": TensorProto.INT4, "uint4": TensorProto.UINT4}[word]
    low, high = (-8, 7) if word == "int4" else (0, 15)
    values = np.arange(low, high, dtype=np.float32)
    path = save(
        tmp_path,
        [helper.make_node("Cast", ["x"], ["y"], to=kind), helper.make_node("DequantizeLinear", ["q", "s"], ["z"])],
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("q", kind, ["m"]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("y", kind, ["n"]), helper.make_tensor_value_info("z", TensorProto.FLOAT, ["m"])],
    )
    client.add_model(path, name=f"four-{word}")
    q = values.astype(getattr(ml_dtypes, word))

    result = client.infer(f"four-{word}", {"x": values, "q": q, "s": np.float32(0.5)}, node=other.id, timeout=30)

    assert np.dtype(getattr(ml_dtypes, word)) == result["y"].dtype
    assert values.tolist() == result["y"].astype(np.float32).tolist()
    assert (values / 2).tolist() == result["z"].tolist()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    packed = np.array([(int(v) & 15) for v in values], np.uint8)
    nibbles = np.append(packed, 0) if len(packed) % 2 else packed
    raw = (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8)
    direct = session.run_with_ort_values(
        ["y"],
        {
            "x": ort.OrtValue.ortvalue_from_numpy(values),
            "q": ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, kind),
            "s": ort.OrtValue.ortvalue_from_numpy(np.array(0.5, np.float32)),
        },
    )[0]
    assert raw.tobytes() == ctypes.string_at(direct.data_ptr(), len(raw))


def test_several_inputs_and_outputs(pair: tuple[meshnode.Client, Agent], tmp_path: Path) -> None:
    """Inputs by name in any order, outputs all or some, equal to a direct session."""
    client, other = pair
    path = save(
        tmp_path,
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Mul", ["a", "b"], ["product"]),
            helper.make_node("Shape", ["a"], ["shape"]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"]) for name in "ab"],
        [
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", "m"]),
            helper.make_tensor_value_info("product", TensorProto.FLOAT, ["n", "m"]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
        ],
    )
    client.add_model(path, name="several")
    rng = np.random.default_rng(3)
    feed = {"b": rng.random((5, 7), np.float32), "a": rng.random((5, 7), np.float32)}
    direct = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)

    everything = client.infer("several", feed, node=other.id, timeout=30)
    some = client.infer("several", feed, outputs=["shape"], timeout=30)

    assert ["sum", "product", "shape"] == list(everything)
    for expected, got in zip(direct, everything.values(), strict=True):
        assert bits(expected) == bits(got)
    assert ["shape"] == list(some)
    with pytest.raises(meshnode.InvalidInput, match="nothing"):
        client.infer("several", feed, outputs=["nothing"], timeout=30)


def test_sequences_are_refused_by_name(pair: tuple[meshnode.Client, Agent], tmp_path: Path) -> None:
    """A sequence output cannot be carried: InvalidInput names it, and the tensor outputs can be had without it."""
    client, _ = pair
    path = save(
        tmp_path,
        [helper.make_node("SequenceConstruct", ["x"], ["list"]), helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"]),
        ],
    )
    client.add_model(path, name="sequence")
    x = np.ones(3, np.float32)

    with pytest.raises(meshnode.InvalidInput, match="list"):
        client.infer("sequence", {"x": x}, timeout=30)

    assert x.tolist() == client.infer("sequence", {"x": x}, outputs=["y"], timeout=30)["y"].tolist()


def test_large_tensors_and_external_data(pair: tuple[meshnode.Client, Agent], tmp_path: Path) -> None:
    """Weights in a file of their own travel with the model; tensors larger than the arena go their own way."""
    client, other = pair
    weight = np.random.default_rng(5).random((1000, 700), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 700])],
        initializer=[onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "big.onnx"
    onnx.save(model, path, save_as_external_data=True, location="big.weights", size_threshold=0)
    x = np.random.default_rng(6).random((3, 1000), np.float32)
    (direct,) = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})

    client.add_model(path, name="big")

    assert bits(direct) == bits(client.infer("big", {"x": x}, node=other.id, timeout=60)["y"])
    client.add_model(identity(tmp_path, TensorProto.UINT8, 1), name="bytes")
    much = np.random.default_rng(7).integers(0, 256, 300_000_000, dtype=np.uint8)
    assert np.array_equal(much, client.infer("bytes", {"x": much}, timeout=120)["y"])
