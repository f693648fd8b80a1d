"""The Open Inference Protocol's words and the mesh's: what is taken, what is refused, and that nothing else happens."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.edge.openinference import document, parameters, tensors
from meshnode.edge.openinference.parameters import Wishes
from meshnode.edge.openinference.statistics import MODELS_MAX, Statistics
from meshnode.edge.openinference.tensors import BINARY_ONLY, WORDS, of_texts
from meshnode.errors import InvalidInput, MeshError
from meshnode.wire.messages import TensorSpec
from meshnode.wire.tensors import DTYPES, STRING
from meshnode.wire.tensors import decode as mesh_decode
from tests.edge.clients import EVERY, same, sample

SHAPES = st.lists(st.integers(0, 4), max_size=4)


def body(inputs: list[Any], behind: bytes = b"", **more: Any) -> tuple[bytes, int | None]:
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + behind, len(head) if behind else None


def one(data: Any, shape: list[int], datatype: str = "FP32", **more: Any) -> list[Any]:
    return [{"name": "x", "datatype": datatype, "shape": shape, "data": data, **more}]


def raw(datatype: str, array: Any) -> bytes:
    """As tritonclient writes an array."""
    if datatype == "BYTES":
        return bytes(of_texts("x", array.shape, array.reshape(-1).tolist())[1])
    return bytes(array.tobytes())


def binary(datatype: str, shape: list[int], data: bytes) -> tuple[bytes, int | None]:
    row = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [row], "parameters": {"binary_data_output": True}}).encode()
    return head + data, len(head)


# --- what comes is what goes on ---


@pytest.mark.parametrize("datatype", EVERY)
def test_a_tensor_in_binary_form_passes_as_it_came(datatype: str) -> None:
    """The bytes that came are the body of the task, and those of the answer are what the model brought."""
    array = sample(datatype)
    data = raw(datatype, array)
    request = document.read(*binary(datatype, [2, 3], data))
    specs = [spec for spec, _ in request.inputs]
    whole = tensors.joined(request.inputs)
    assert data == bytes(whole)
    (decoded,) = mesh_decode(specs, bytes(whole)).values()
    assert array.tolist() == decoded.tolist()
    parts, length = document.write(request, "m", 3, tensors.split(specs, whole))
    answer = json.loads(bytes(parts[0]))
    assert len(parts[0]) == length
    assert [{"name": "x", "datatype": datatype, "shape": [2, 3], "parameters": {"binary_data_size": len(data)}}] == (
        answer["outputs"]
    )
    assert data == bytes(parts[1])


@pytest.mark.parametrize("datatype", sorted(set(EVERY) - BINARY_ONLY))
@pytest.mark.parametrize("nested", [False, True])
def test_a_tensor_in_json_is_the_same(datatype: str, nested: bool) -> None:
    """Flat or nested, both ways."""
    array = sample(datatype)
    data = array.tolist() if nested else array.reshape(-1).tolist()
    request = document.read(*body(one(data, [2, 3], datatype), id="it"))
    (spec, taken), *_ = request.inputs
    assert raw(datatype, array) == bytes(taken)
    parts, length = document.write(request, "m", 3, [(spec, taken)], {"a": 1})
    assert length is None
    answer = json.loads(bytes(parts[0]))
    assert ("m", "3", "it", {"a": 1}) == tuple(answer[k] for k in ("model_name", "model_version", "id", "parameters"))
    assert array.reshape(-1).tolist() == answer["outputs"][0]["data"]


@pytest.mark.parametrize("datatype", sorted(set(EVERY) - BINARY_ONLY - {"BYTES"}))
def test_many_numbers_are_the_same_as_few(datatype: str) -> None:
    """They go another way."""
    array = np.resize(sample(datatype), 3000)
    request = document.read(*body(one(array.tolist(), [3000], datatype)))
    spec, taken = request.inputs[0]
    assert raw(datatype, array) == bytes(taken)
    assert array.tolist() == tensors.to_values(spec, taken)


@given(st.data(), st.sampled_from(sorted(EVERY)), SHAPES)
def test_any_tensor_survives_both_forms(data: st.DataObject, datatype: str, shape: list[int]) -> None:
    """Whatever its shape and its bits."""
    count = math.prod(shape)
    if datatype == "BYTES":
        texts = data.draw(st.lists(st.text(st.characters(codec="utf-8")), min_size=count, max_size=count))
        sent = bytes(of_texts("x", shape, texts)[1])
    elif datatype == "BOOL":
        sent = bytes(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    else:
        size = count * DTYPES[WORDS[datatype]].itemsize
        sent = data.draw(st.binary(min_size=size, max_size=size))
    request = document.read(*binary(datatype, shape, sent))
    spec, taken = request.inputs[0]
    assert sent == bytes(taken)
    try:
        values = tensors.to_values(spec, taken)
    except InvalidInput:
        with np.errstate(invalid="ignore"):  # of a signalling NaN
            numbers = spec.dtype != STRING and np.isfinite(tensors.array_of(spec, taken)).all()
        assert datatype in BINARY_ONLY or not numbers
        return
    again = document.read(*body(one(values, shape, datatype)))
    assert sent == bytes(again.inputs[0][1])


def test_several_tensors_lie_where_the_mesh_looks_for_them() -> None:
    """Each begins at its place in the body of the task."""
    arrays = {datatype: sample(datatype) for datatype in EVERY}
    pieces = [tensors.from_bytes(k, k, (2, 3), raw(k, v)) for k, v in arrays.items()]
    whole = tensors.joined(pieces)
    specs = [spec for spec, _ in pieces]
    for name, array in mesh_decode(specs, whole).items():
        assert arrays[name].tolist() == array.tolist()
    assert [raw(k, v) for k, v in arrays.items()] == [bytes(data) for _, data in tensors.split(specs, whole)]


def test_each_output_comes_in_the_form_that_was_asked_for() -> None:
    """One by name, the rest as said for all."""
    rows = [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}]
    request = document.read(*body(one([1], [1]), parameters={"binary_data_output": True}, outputs=rows))
    assert ("a", "b") == request.outputs
    piece = tensors.from_bytes("a", "FP32", [1], b"\0\0\x80?")[0]
    outputs = [(piece, b"\0\0\x80?"), (TensorSpec("b", "float", (1,), 4), b"\0\0\x80?")]
    parts, _ = document.write(request, "m", 1, outputs)
    first, second = json.loads(bytes(parts[0]))["outputs"]
    assert ([1.0], {"binary_data_size": 4}) == (first["data"], second["parameters"])


# --- what is refused ---

DEEP = b'{"inputs":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
DEEP_DATA = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}]}"
DEEP_PARAMETERS = b'{"inputs":[],"parameters":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}"
LISTS_33 = json.dumps({"inputs": one(0, [1] * 32)}).replace('"data": 0', f'"data": {"[" * 33}0{"]" * 33}').encode()


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "not a request"),
        (b"null", "not a request"),
        (b"[]", "not a request"),
        (b"{}", "missing required field `inputs`"),
        (b'{"inputs": 1}', "Expected `array`"),
        (b"\xff\xfe", "not a request"),
        (b'{"inputs": []} x', "trailing"),
        (DEEP, "not a request|nested too deep"),
        (DEEP_DATA, "nested"),
        (DEEP_PARAMETERS, "nested too deep"),
        (LISTS_33, "nested 33 deep"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}', "invalid character"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[Infinity]}]}', "invalid character"),
        (b'{"inputs":[{"name":"x","datatype":"FP64","shape":[1],"data":[1e999]}]}', "out of range"),
        (b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":["\xff"]}]}', "(?i)utf-8|utf8"),
        (b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":["\\ud800"]}]}', "not a request|BYTES"),
        (json.dumps({"inputs": [], "id": "x" * 1025}).encode(), "an id has at most"),
        (json.dumps({"inputs": [], "id": 5}).encode(), "Expected `str`"),
        (json.dumps({"inputs": [], "outputs": [{"name": "y"}, {"name": "y"}]}).encode(), "asked for twice"),
        (json.dumps({"inputs": [], "parameters": {"binary_data_output": 1}}).encode(), "neither true nor false"),
        (json.dumps({"inputs": [], "parameters": {"timeout": -1}}).encode(), "microseconds"),
        (json.dumps({"inputs": [], "parameters": {"timeout": True}}).encode(), "microseconds"),
        (json.dumps({"inputs": [], "parameters": {"timeout": "1s"}}).encode(), "microseconds"),
        (json.dumps({"inputs": [], "parameters": {"priority": "now"}}).encode(), "priority"),
        (json.dumps({"inputs": [], "parameters": {"priority": -1}}).encode(), "priority"),
        (json.dumps({"inputs": [], "parameters": {"priority": [1]}}).encode(), "priority"),
        (json.dumps({"inputs": [], "parameters": {"node": {"a": 1}}}).encode(), "node"),
        (json.dumps({"inputs": [], "parameters": {"zone": "z" * 129}}).encode(), "zone"),
        (json.dumps({"inputs": [], "parameters": {"sequence_id": 7}}).encode(), "keep nothing"),
    ],
)
def test_what_is_no_request_is_refused(sent: bytes, why: str) -> None:
    """With its reason, as an error of the caller."""
    with pytest.raises(InvalidInput, match=why):
        document.read(sent, None)


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (one([1, 2], [1]), "1 elements"),
        (one([], [1]), "1 elements"),
        (one([[1, 2]], [2, 1]), r"\[1, 2\]"),
        (one([[1], [2, 3]], [3, 1]), "inhomogeneous"),
        (one([[[1]]], [1, 1]), "nested 3 deep"),
        (one(5, [1]), "nested 0 deep"),
        (one({"a": 1}, [1]), "nested 0 deep"),
        (one([1], [-1]), "no size"),
        (one([1], [2**63]), "no size"),
        (one([1], [2**53, 2**53]), "elements"),
        (one([1], [1] * 33), "33 dimensions"),
        (one([1], [1.5]), "Expected `int`"),
        (one([1], "1"), "Expected `array`"),
        (one([1], [1], "FP8"), "unknown datatype 'FP8'"),
        (one([1], [1], "fp32"), "unknown datatype"),
        (one([1], [1], "FP16"), "no form in JSON"),
        (one([1], [1], "BF16"), "no form in JSON"),
        (one([1e300], [1], "FP32"), "does not fit FP32"),
        (one([1e300] * 2000, [2000], "FP32"), "does not fit FP32"),
        (one([256] * 2000, [2000], "UINT8"), "does not fit UINT8"),
        (one([2**64] * 2000, [2000], "UINT64"), "does not fit UINT64"),
        (one([256], [1], "UINT8"), "does not fit UINT8"),
        (one([-1], [1], "UINT64"), "does not fit UINT64"),
        (one([2**64], [1], "UINT64"), "does not fit UINT64"),
        (one([10**400], [1], "INT64"), "does not fit INT64|range"),
        (one([1.0], [1], "INT32"), "Expected `int`"),
        (one([True], [1], "INT32"), "Expected `int`"),
        (one([1], [1], "BOOL"), "Expected `bool`"),
        (one(["1"], [1], "FP32"), "Expected `float`"),
        (one([None], [1], "FP32"), "Expected `float`"),
        (one([1], [1], "BYTES"), "Expected `str`"),
        (one([1], [1]) * 2, "one name"),
        (one([1], [1], name=""), "name"),
        (one([1], [1], name="n" * 513), "name"),
        ([{"name": "x", "datatype": "FP32", "shape": [1]}], "neither data nor"),
        (one(None, [1]), "neither data nor"),
        (one([1], [1], parameters={"binary_data_size": 4}), "both data and"),
        (one([1], [1], parameters={"shared_memory_region": "r"}), "shares no memory"),
        (one(None, [1], parameters={"binary_data_size": 4}), "0 bytes are left"),
        (one(None, [1], parameters={"binary_data_size": -4}), "binary_data_size is -4"),
        (one(None, [1], parameters={"binary_data_size": True}), "binary_data_size is True"),
        (one(None, [1], parameters={"binary_data_size": "4"}), "binary_data_size is '4'"),
        (one(None, [1], parameters={"binary_data_size": 10**30}), "binary_data_size is 1000"),
    ],
)
def test_inputs_that_contradict_themselves_are_refused(inputs: list[Any], why: str) -> None:
    """Before anything is sent anywhere."""
    with pytest.raises(InvalidInput, match=why):
        tensors.joined(document.read(*body(inputs)).inputs)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "why"),
    [
        ("FP32", [1], b"123", "is 4 bytes, and 3 came"),
        ("FP32", [1], b"12345", "is 4 bytes, and 5 came"),
        ("FP32", [2**53] * 32, b"", r"some 2\^\d+ bytes"),
        ("BOOL", [2], b"\x01\x02", "0 or 1"),
        ("BYTES", [1], b"\x05\0\0\0abc", "says 5 bytes"),
        ("BYTES", [1], b"\0\0\0", "do not fit"),
        ("BYTES", [1], b"\x01\0\0\0ab", "left over"),
        ("BYTES", [2], b"\x05\0\0\0abcde", "cut off"),
        ("BYTES", [2**53, 2**53], b"\0\0\0\0", "do not fit"),
        ("BYTES", [0], b"\0\0\0\0", "left over"),
        ("BYTES", [1], b"\xff\xff\xff\xffabc", "says 4294967295 bytes"),
    ],
)
def test_bytes_that_are_not_what_the_shape_says_are_refused(
    datatype: str, shape: list[int], data: bytes, why: str
) -> None:
    """None is guessed, and none is left over."""
    with pytest.raises(InvalidInput, match=why):
        tensors.from_bytes("x", datatype, shape, data)


def test_bytes_behind_the_tensors_are_refused() -> None:
    """They belong to nothing."""
    sent, length = binary("FP32", [1], b"1234")
    with pytest.raises(InvalidInput, match="1 bytes are left over"):
        document.read(sent + b"5", length)


@pytest.mark.parametrize("text", ["", "-1", "+5", "1e3", "11", "0x5", "5 ", "٣", "9" * 5000, "1_0"])
def test_a_length_that_is_none_is_refused(text: str) -> None:
    """Of ten bytes."""
    with pytest.raises(InvalidInput):
        document.header_length(text, 10)


def test_a_length_within_the_body_is_taken() -> None:
    """All of it, and nothing, too."""
    assert (None, 0, 10) == tuple(document.header_length(it, 10) for it in (None, "0", "10"))


def test_json_has_a_limit_of_its_own() -> None:
    """While it is read the agent does nothing else; binary tensors may be larger."""
    with pytest.raises(InvalidInput, match="send large tensors in binary form"):
        document.read(b'{"inputs": []}' + b" " * document.JSON_BYTES_MAX, None)
    count = document.JSON_VALUES_MAX + 1
    request = document.read(*body(one([1], [1])))
    with pytest.raises(InvalidInput, match="in binary form"):
        document.write(request, "m", 1, [tensors.from_bytes("y", "UINT8", [count], bytes(count))])


def test_json_says_no_nan_and_no_half() -> None:
    """An output that JSON cannot say is an error, never another number."""
    for datatype, data in (("FP32", b"\0\0\xc0\x7f"), ("FP64", b"\0\0\0\0\0\0\xf0\x7f"), ("FP16", b"\0\0")):
        with pytest.raises(InvalidInput, match="binary"):
            tensors.to_values(*tensors.from_bytes("y", datatype, [1], data))
    with pytest.raises(InvalidInput, match="no UTF-8"):
        tensors.to_values(*tensors.from_bytes("y", "BYTES", [1], b"\x01\0\0\0\xff"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(sorted(EVERY)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "timeout"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200) | JSON.map(lambda it: json.dumps(it).encode()), st.none() | st.integers(0, 200))
def test_whatever_comes_makes_a_request_or_a_refusal(sent: bytes, length: int | None) -> None:
    """And nothing else."""
    try:
        request = document.read(sent, length if length is None else min(length, len(sent)))
        tensors.joined(request.inputs)
    except MeshError:
        return
    assert all(spec.nbytes == len(data) for spec, data in request.inputs)


@given(st.lists(JSON, max_size=2), JSON, st.lists(st.fixed_dictionaries({"name": JSON}), max_size=2))
def test_whatever_a_request_is_made_of(inputs: list[Any], more: Any, outputs: list[Any]) -> None:
    """The same, from nearer by."""
    rows = [{"name": "x", "datatype": "FP32", "shape": [1], "data": it} for it in inputs]
    try:
        document.read(json.dumps({"inputs": rows, "outputs": outputs, "parameters": more}).encode(), None)
    except MeshError:
        return


# --- parameters and statistics ---


@pytest.mark.parametrize(
    ("given_", "wishes"),
    [
        ({}, Wishes()),
        ({"priority": 0, "timeout": 0}, Wishes()),
        ({"priority": 1}, Wishes(priority="high")),
        ({"priority": 2}, Wishes(priority="normal")),
        ({"priority": 7}, Wishes(priority="low")),
        ({"priority": "low"}, Wishes(priority="low")),
        ({"timeout": 1_500_000}, Wishes(timeout_s=1.5)),
        ({"zone": "eu/de", "node": "bob"}, Wishes(zone="eu/de", node="bob")),
        ({"content_type": "np", "whatever": [1]}, Wishes()),
    ],
)
def test_parameters_say_how_urgent_how_long_and_where(given_: dict[str, Any], wishes: Wishes) -> None:
    """Triton's numbers and the mesh's words; what is not known is let pass."""
    assert wishes == parameters.read(given_)


def test_statistics_add_up_and_are_bounded() -> None:
    """Tasks that ran as one count as one execution; the model that was not asked for longest is forgotten."""
    it = Statistics()
    for _ in range(4):
        it.answered(("m", 1), 5, 0.5, 0.1, 0.2, 4)
    it.failed(("m", 1), 2.0)
    row = it.document(("m", 1))
    assert (4, 1, 5) == (row["inference_count"], row["execution_count"], row["last_inference"])
    assert {"count": 4, "ns": 2_000_000_000} == row["inference_stats"]["success"]
    assert {"count": 1, "ns": 2_000_000_000} == row["inference_stats"]["fail"]
    for version in range(2, MODELS_MAX + 2):
        it.failed(("m", version), 1.0)
    assert 0 == it.document(("m", 1))["inference_count"]


def test_texts_compare_as_they_were_sent() -> None:
    """What the other tests compare with is itself right."""
    assert same(np.array([["a"]], object), np.array([[b"a"]], object))
    assert not same(np.array([["a"]], object), np.array([[b"b"]], object))
