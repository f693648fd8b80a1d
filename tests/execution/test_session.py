"""One model in ONNX Runtime: what it takes, what it gives, and what it says when something does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from meshnode.errors import ExecutionFailed, InvalidInput, ModelRefused
from meshnode.execution.rules import CPU
from meshnode.execution.session import Session, _packed, _unpacked, describe, first_runs
from meshnode.wire.tensors import DTYPES

value_info = helper.make_tensor_value_info
FLOAT = TensorProto.FLOAT


def load(folder: Path, nodes: Any, inputs: Any, outputs: Any, initializer: Any = (), **metadata: str) -> Session:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializer))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, metadata)
    onnx.save(model, folder / "m.onnx")
    return Session(folder / "m.onnx", CPU, 1)


def add(folder: Path, **metadata: str) -> Session:
    """y = x + w, where `w` has a default that may be overridden."""
    default = numpy_helper.from_array(np.float32([1, 2]), "w")
    inputs = [value_info("x", FLOAT, ["batch", 2]), value_info("w", FLOAT, [2])]
    return load(
        folder,
        [helper.make_node("Add", ["x", "w"], ["y"]), helper.make_node("Neg", ["y"], ["z"])],
        inputs,
        [value_info("y", FLOAT, ["batch", 2]), value_info("z", FLOAT, ["batch", 2])],
        [default],
        **metadata,
    )


def run(session: Session, inputs: dict[str, Any], *outputs: str) -> dict[str, Any]:
    return session.run(inputs, outputs, ort.RunOptions())


X = np.float32([[1, 1], [2, 2]])


def test_a_model_is_described_as_it_declares_itself(tmp_path: Path) -> None:
    """Names, types, symbolic dims and metadata; a default is no input that must be given."""
    session = add(tmp_path, author="me")
    assert ["float [batch, 2]"] == [describe(info) for info in session.inputs]
    assert ["y", "z"] == [info.name for info in session.outputs] == session.tensor_outputs()
    assert {"author": "me"} == session.metadata


def test_all_outputs_or_those_that_are_wanted(tmp_path: Path) -> None:
    """In the order in which they were named."""
    session = add(tmp_path)
    assert ["y", "z"] == list(run(session, {"x": X}))
    assert ["z", "y"] == list(run(session, {"x": X}, "z", "y"))
    assert [[-2, -3], [-3, -4]] == run(session, {"x": X}, "z")["z"].tolist()


def test_a_default_can_be_overridden(tmp_path: Path) -> None:
    """By a tensor that fits it."""
    session = add(tmp_path)
    assert [[11, 11], [12, 12]] == run(session, {"x": X, "w": np.float32([10, 10])})["y"].tolist()
    with pytest.raises(InvalidInput, match=r"'w' has shape \[3\], and the model wants float \[2\]"):
        run(session, {"x": X, "w": np.float32([1, 2, 3])})


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ({}, (), "input 'x' is missing"),
        ({"x": X, "q": X}, (), "no input 'q'"),
        ({"x": X.astype(np.float64)}, (), r"'x' is double, and the model wants float \[batch, 2\]"),
        ({"x": X.astype("datetime64[s]")}, (), "'x' is datetime64"),
        ({"x": X[0]}, (), r"shape \[2\]"),
        ({"x": X[:, :1]}, (), r"shape \[2, 1\]"),
        ({"x": X[None]}, (), r"shape \[1, 2, 2\]"),
        ({"x": X}, ("q",), "no output 'q'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, inputs: Any, outputs: Any, reason: str) -> None:
    """The tensor, what came, and what the model wants; the session goes on."""
    session = add(tmp_path)
    with pytest.raises(InvalidInput, match=reason):
        run(session, inputs, *outputs)
    assert (2, 2) == run(session, {"x": X})["y"].shape


def test_an_empty_batch_and_an_odd_layout_are_as_good_as_any(tmp_path: Path) -> None:
    """No row at all; columns first; every second row; read-only."""
    session = add(tmp_path)
    assert (0, 2) == run(session, {"x": np.zeros((0, 2), np.float32)})["y"].shape
    big = np.arange(16, dtype=np.float32).reshape(4, 4)
    frozen = X.copy()
    frozen.flags.writeable = False
    for x in (np.asfortranarray(X), big[::2, ::2], frozen):
        assert np.array_equal(x + np.float32([1, 2]), run(session, {"x": x})["y"])


def test_zeros_run_for_a_first_measurement(tmp_path: Path) -> None:
    """Symbolic dims are one."""
    session = add(tmp_path)
    assert [("x", (1, 2), np.float32)] == [(name, x.shape, x.dtype) for name, x in session.zeros().items()]
    assert first_runs(session, session.zeros(), ["y"], 20.0) > 0


def test_text_goes_in_and_out(tmp_path: Path) -> None:
    """Strings are objects, and zeros of them are empty ones."""
    text = [value_info("x", TensorProto.STRING, ["n"])]
    session = load(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], text, [value_info("y", 8, ["n"])])
    assert ["a", "ü"] == run(session, {"x": np.array(["a", "ü"], object)})["y"].tolist()
    assert [""] == session.zeros()["x"].tolist()


@pytest.mark.parametrize("word", ["bfloat16", "float16"])
def test_half_precision_survives(tmp_path: Path, word: str) -> None:
    """What goes in comes out, to the bit."""
    kind = {"bfloat16": 16, "float16": 10}[word]
    node = helper.make_node("Identity", ["x"], ["y"])
    session = load(tmp_path, [node], [value_info("x", kind, ["n"])], [value_info("y", kind, ["n"])])
    for count in (1, 2, 7):
        x = (np.arange(count) % 8).astype(DTYPES[word])
        y = run(session, {"x": x})["y"]
        assert (x.dtype, x.tobytes()) == (y.dtype, y.tobytes())
    assert DTYPES[word] == session.zeros()["x"].dtype


def test_an_output_that_is_no_tensor_is_refused_by_name(tmp_path: Path) -> None:
    """The others can still be had by naming them."""
    sequence = helper.make_tensor_sequence_value_info("s", FLOAT, None)
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["s"]), helper.make_node("Neg", ["x"], ["y"])]
    session = load(tmp_path, nodes, [value_info("x", FLOAT, [1])], [sequence, value_info("y", FLOAT, [1])])
    assert ["y"] == session.tensor_outputs()
    x = np.float32([3])
    with pytest.raises(InvalidInput, match="output 's' is") as caught:
        run(session, {"x": x})
    assert "outputs=" in caught.value.hint
    assert [-3] == run(session, {"x": x}, "y")["y"].tolist()


def test_a_model_that_fails_on_its_input_says_so_without_our_paths(tmp_path: Path) -> None:
    """An index out of range: the text of ONNX Runtime, short and without the places of its sources."""
    nodes = [helper.make_node("Gather", ["x", "i"], ["y"])]
    inputs = [value_info("x", FLOAT, [2]), value_info("i", TensorProto.INT64, [1])]
    session = load(tmp_path, nodes, inputs, [value_info("y", FLOAT, [1])])
    with pytest.raises((ExecutionFailed, InvalidInput), match="indices") as caught:
        run(session, {"x": X[0], "i": np.int64([9])})
    assert len(str(caught.value)) < 600
    assert "/onnxruntime_src" not in str(caught.value)
    assert [1] == run(session, {"x": X[0], "i": np.int64([0])})["y"].tolist()


def test_what_onnx_runtime_will_not_load_is_refused(tmp_path: Path) -> None:
    """Garbage, nothing and a missing file."""
    (tmp_path / "text").write_text("no model")
    (tmp_path / "empty").touch()
    for name in ("text", "empty", "absent"):
        with pytest.raises(ModelRefused, match="refuses the model"):
            Session(tmp_path / name, CPU, 1)


@given(st.sampled_from([2, 4]), st.lists(st.integers(0, 255), max_size=40))
def test_small_elements_are_packed_and_unpacked(per_byte: int, values: list[int]) -> None:
    """Whatever the count, what was packed comes out again, in as few bytes as it needs."""
    mask = (1 << 8 // per_byte) - 1
    raw = np.array(values, np.uint8)
    packed = _packed(raw, per_byte)
    assert -(-len(values) // per_byte) == len(packed)
    assert (raw & mask).tolist() == _unpacked(np.frombuffer(packed, np.uint8), len(values), per_byte).tolist()
