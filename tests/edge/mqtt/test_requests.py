"""What a message is: every byte of it is a stranger's."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.edge.mqtt import requests
from meshnode.edge.mqtt.requests import Asked, Incoming
from meshnode.edge.mqtt.topics import SHORT, TOPIC_BYTES_MAX, Topics, segment
from meshnode.edge.openinference.tensors import BINARY_ONLY, WORDS
from meshnode.errors import InvalidInput, MeshError
from meshnode.wire.messages import NodeId, Submitted
from meshnode.wire.tensors import DTYPES

TOPICS = Topics("meshnode", "lab", "0123456789abcdef" * 4, "homeassistant")
NODE = NodeId("a" * 52)
TYPES = ["?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", ">f4", ">i2"]
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
ASKED = Asked("0" * 32, "m", "out", b"", 1.0, b"", "json", requests.JSON_TYPE)


def saved(array: Any, **more: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **more)
    return file.getvalue()


@given(st.sampled_from(TYPES), SHAPES, st.booleans(), st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_an_array_is_read_as_numpy_reads_it(dtype: str, shape: tuple[int, ...], turned: bool, version: Any) -> None:
    """Of every type and shape, in both orders, of all versions of the format."""
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    given = array.copy(order="F") if turned else array
    read = requests.read_npy(saved(given, version=version))
    assert (array.dtype, array.shape, array.tolist()) == (read.dtype, read.shape, read.tolist())


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_be_refused(data: bytes) -> None:
    """Whatever follows the magic, and whatever stands alone."""
    for payload in (data, requests.NPY + data, requests.NPY + b"\x01\x00" + data, b"{" + data):
        for read in (requests.read_npy, requests.read_json):
            try:
                read(payload)
            except InvalidInput:
                continue


@pytest.mark.parametrize(
    "head",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999, 9), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os'),), }",
        "{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<M8', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 40 + "), }",
    ],
)
def test_heads_that_say_more_than_a_plain_array_are_refused(head: str) -> None:
    """Objects, records, sizes that are not those of the bytes, code."""
    payload = requests.NPY + b"\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + b"\0" * 4
    with pytest.raises(InvalidInput):
        requests.read_npy(payload)


@pytest.mark.parametrize("word", sorted(set(WORDS) - BINARY_ONLY))
def test_json_gives_every_type_of_the_protocol(word: str) -> None:
    """And the answer gives it back."""
    data: list[Any] = {"BOOL": [True, False], "BYTES": ["ä", ""]}.get(word, [1, 0])
    request = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": word, "data": data}]}
    (array,) = requests.read_json(json.dumps(request).encode()).values()
    assert ((2, 1), data) == (array.shape, array.reshape(-1).tolist())
    answer = requests.answer(
        ASKED, Submitted(outputs=(), model="0" * 64, node=NODE, name="n", seconds=1), {"x": array}, "m:1"
    )
    (output,) = json.loads(answer.payload)["outputs"]
    assert (word, [2, 1], data) == (output["datatype"], output["shape"], output["data"])


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("INT8", [1], [128]),
        ("UINT8", [1], [-1]),
        ("INT32", [1], [1.5]),
        ("FP32", [1], ["1"]),
        ("FP32", [1], [True]),
        ("BOOL", [1], [1]),
        ("BYTES", [1], [1]),
        ("FP32", [2], [1]),
        ("FP32", [1], [[1]]),
        ("BF16", [1], [1]),
        ("FP32", [2**40], [1]),
        ("INT64", [1], [2**63]),
    ],
)
def test_json_that_does_not_fit_is_refused(datatype: str, shape: list[int], data: list[Any]) -> None:
    """A value that its type cannot hold is never changed into one that it can."""
    request = {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}]}
    with pytest.raises(InvalidInput):
        requests.read_json(json.dumps(request).encode())


@pytest.mark.parametrize("word", sorted(DTYPES))
def test_every_type_has_an_answer(word: str) -> None:
    """As .npy, .npz and JSON; of complex numbers JSON says what to accept instead."""
    array = np.zeros((1, 2), DTYPES[word])
    said = Submitted(outputs=(), model="0" * 64, node=NODE, name="n", seconds=1)
    for accept in requests.ANSWERS:
        asked = replace(ASKED, accept=accept)
        if word.startswith("complex") and accept == requests.JSON_TYPE:
            with pytest.raises(InvalidInput):
                requests.answer(asked, said, {"y": array}, "m:1")
            continue
        answer = requests.answer(asked, said, {"y": array}, "m:1")
        if accept == requests.NPY_TYPE:
            assert (1, 2) == np.load(io.BytesIO(answer.payload), allow_pickle=False).shape
        if accept == requests.NPZ_TYPE:
            with np.load(io.BytesIO(answer.payload), allow_pickle=False) as arrays:
                assert ["y"] == arrays.files


def test_an_error_has_its_code_and_no_tensor() -> None:
    """So that nobody takes an outage for a result."""
    error = MeshError("it broke", hint="mend it", retry_after_s=2.0)
    answer = requests.failure("0" * 32, error)
    expected = {"code": "mesh_error", "message": "it broke", "hint": "mend it", "retry_after_s": 2.0}
    assert {"error": expected} == json.loads(answer.payload)
    assert "mesh_error" == dict(answer.properties)["code"]


MESSAGE = Incoming("meshnode/lab/infer/m", b"x", response="out", correlation=b"c")


@given(st.binary(max_size=8), st.binary(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_a_task_is_what_its_message_says(payload: bytes, correlation: bytes, response: str, topic: str) -> None:
    """The same words make the same task, however often they come; any other word makes another."""
    it = Incoming(topic, payload, response=response, correlation=correlation)
    again = replace(it, again=True, mid=7, qos=0, expiry_s=3)
    assert requests.task_id(it) == requests.task_id(again)
    for other in (
        replace(it, payload=payload + b"x"),
        replace(it, correlation=correlation + b"x"),
        replace(it, response=response + "x"),
        replace(it, topic=topic + "x"),
        replace(it, payload=correlation + b"y", correlation=payload),
    ):
        assert requests.task_id(it) != requests.task_id(other)


def test_user_properties_are_options_and_the_context_of_a_trace() -> None:
    """Those that are known; a context that is none is left out."""
    context = f"00-{'a' * 32}-{'b' * 16}-01"
    message = Incoming("meshnode/lab/infer/digits", b"{}", response="out")
    properties = (("priority", "high"), ("once", "yes"), ("traceparent", context))
    asked = requests.parse(TOPICS, replace(message, properties=properties), "0" * 32, default_s=1.0, bytes_max=9)
    assert ({"priority": "high"}, context) == (asked.options, asked.trace)
    broken = replace(message, properties=(("traceparent", "00-1"),))
    assert "" == requests.parse(TOPICS, broken, "0" * 32, default_s=1.0, bytes_max=9).trace


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "a/+/b",
        "a/#",
        "$SYS/x",
        "a\0b",
        "x" * (TOPIC_BYTES_MAX + 1),
        "meshnode/lab/infer/m",
        "meshnode/lab/answer",
        "meshnode/lab/node/x/availability",
        "meshnode/0123",
        "homeassistant/device/x/config",
        "homeassistant",
    ],
)
def test_answers_do_not_go_where_this_node_speaks_for_others(topic: str) -> None:
    """A stranger must not make this node write what the broker lets only this node write."""
    with pytest.raises(InvalidInput):
        TOPICS.check_answer(topic)


@pytest.mark.parametrize("topic", ["out", "clients/1/answers", "meshnode/lab/answer/1", "/", "meshnodes/x", "ä/ö"])
def test_answers_go_anywhere_else(topic: str) -> None:
    """Which topics a client may read is the broker's to say."""
    TOPICS.check_answer(topic)


@given(st.text(max_size=80))
def test_every_name_of_a_mesh_makes_a_level(name: str) -> None:
    """Without anything that MQTT gives a meaning, and the same when it is made twice."""
    level = segment(name)
    assert level
    assert not set(level) & set("/+#$\0 ")
    assert level == segment(level)


@given(st.text(max_size=200))
def test_a_topic_names_a_model_or_none(topic: str) -> None:
    """No topic of a stranger is more than it says."""
    model = TOPICS.model_of(topic)
    assert model is None or topic.endswith(f"/infer/{model}")
    found = TOPICS.model_of(f"meshnode/lab/infer/{topic}")
    assert (found == topic) == (0 < len(topic) <= 128 and "/" not in topic)
    assert "b" * SHORT == TOPICS.bridge_of(TOPICS.availability(NodeId("b" * 52)))
    assert TOPICS.bridge_of(topic) is None
