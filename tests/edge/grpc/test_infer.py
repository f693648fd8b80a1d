"""`ModelInfer` as bytes: tensors are cut out without a copy, and whatever comes is a request or a refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from meshnode.edge.grpc import infer
from meshnode.edge.openinference import tensors
from meshnode.errors import InvalidInput, MeshError


def request(**fields: Any) -> Any:
    it = service_pb2.ModelInferRequest(model_name="m", id="7", **fields)
    it.parameters["timeout"].int64_param = 1_500_000
    it.parameters["zone"].string_param = "eu"
    return it


def test_raw_tensors_are_views_of_what_came() -> None:
    """Not copies, whatever stands around them."""
    it = request(raw_input_contents=[bytes(8), b"\x01\0\0\0a"])
    it.inputs.add(name="x", datatype="FP32", shape=[2])
    it.inputs.add(name="t", datatype="BYTES", shape=[1])
    data = it.SerializeToString()
    asked = infer.read(data)
    assert all(isinstance(view, memoryview) and view.obj is data for _, view in asked.inputs)
    assert ("m", "", "7", True) == (asked.model, asked.version, asked.id, asked.raw)
    assert (1.5, "eu") == (asked.wishes.timeout_s, asked.wishes.zone)


def test_an_answer_is_what_protobuf_would_write() -> None:
    """Raw tensors behind the rest, in their order."""
    it = request(raw_input_contents=[bytes(8)])
    it.inputs.add(name="x", datatype="FP32", shape=[2])
    asked = infer.read(it.SerializeToString())
    outputs = [tensors.from_bytes(f"y{n}", "UINT8", [n], bytes(range(n))) for n in (0, 1, 127, 128)]
    outputs.append(tensors.from_bytes("big", "UINT8", [20_000], bytes(20_000)))
    answer = service_pb2.ModelInferResponse.FromString(infer.write(asked, "m", 3, outputs, {"a": 1, "b": "two"}))
    assert ("m", "3", "7") == (answer.model_name, answer.model_version, answer.id)
    assert [bytes(data) for _, data in outputs] == list(answer.raw_output_contents)
    assert ["UINT8"] * 5 == [row.datatype for row in answer.outputs]
    assert (1, "two") == (answer.parameters["a"].int64_param, answer.parameters["b"].string_param)


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [0.5, float("inf")]),
        ("FP64", "fp64_contents", [0.1, float("nan")]),
        ("BYTES", "bytes_contents", [b"", b"\xff\0"]),
    ],
)
def test_tensors_in_their_own_fields(datatype: str, field: str, values: list[Any]) -> None:
    """Of each kind, both ways."""
    it = request()
    row = it.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(row.contents, field).extend(values)
    asked = infer.read(it.SerializeToString())
    assert not asked.raw
    answer = service_pb2.ModelInferResponse.FromString(infer.write(asked, "m", 1, asked.inputs, {}))
    assert str(values) == str(list(getattr(answer.outputs[0].contents, field)))


@pytest.mark.parametrize(
    ("datatype", "shape", "contents", "why"),
    [
        ("FP32", [2], {"fp32_contents": [1]}, "has 1 elements"),
        ("FP32", [1], {"fp64_contents": [1]}, "fp64_contents instead of fp32_contents"),
        ("FP32", [1], {"fp32_contents": [1], "bool_contents": [True]}, "bool_contents instead"),
        ("INT8", [1], {"int_contents": [128]}, "does not fit INT8"),
        ("FP16", [1], {"fp32_contents": [1]}, "no contents"),
        ("NONE", [1], {"fp32_contents": [1]}, "unknown datatype"),
        ("FP32", [-1], {"fp32_contents": [1]}, "no size"),
        ("FP32", [2**40, 2**40], {"fp32_contents": [1]}, "has 1 elements"),
        ("FP32", [1], {}, "has 0 elements"),
    ],
)
def test_contents_that_contradict_themselves_are_refused(
    datatype: str, shape: list[int], contents: dict[str, Any], why: str
) -> None:
    """With the input's name."""
    it = request()
    row = it.inputs.add(name="x", datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(row.contents, field).extend(values)
    with pytest.raises(InvalidInput, match=why):
        infer.read(it.SerializeToString())


def test_both_forms_at_once_are_refused() -> None:
    """Nobody knows which would count."""
    it = request(raw_input_contents=[bytes(4)])
    it.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(1)
    with pytest.raises(InvalidInput, match="raw_input_contents is there too"):
        infer.read(it.SerializeToString())


@given(st.binary(max_size=300))
def test_whatever_comes_makes_a_request_or_a_refusal(data: bytes) -> None:
    """And nothing else."""
    try:
        infer.read(data)
    except MeshError:
        return


@given(st.data())
def test_damage_makes_a_request_or_a_refusal(data: st.DataObject) -> None:
    """A request of which some bytes are others: what is cut out is what protobuf would have read."""
    it = request(raw_input_contents=[np.arange(5, dtype=np.float32).tobytes(), b"\x01\0\0\0a"])
    it.inputs.add(name="x", datatype="FP32", shape=[5])
    it.inputs.add(name="t", datatype="BYTES", shape=[1])
    sent = bytearray(it.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        whole = service_pb2.ModelInferRequest.FromString(bytes(sent))
    except Exception:
        whole = None
    _, raw = infer.cut(bytes(sent))
    if whole is not None and raw:
        assert list(whole.raw_input_contents) == [bytes(view) for view in raw]
    try:
        infer.read(bytes(sent))
    except MeshError:
        return
