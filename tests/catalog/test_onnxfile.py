"""The look at ONNX files: what is found, what is refused, and that nothing else ever happens."""

from __future__ import annotations

import time
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from meshnode.catalog.onnxfile import DEPTH_MAX, FIELDS_MAX, KEY, WINDOW, Outline, _mentions, outline
from meshnode.errors import ModelRefused
from tests.catalog.making import model_of, outside, plain, weights

ROOT = Path(__file__).parents[2]


def field(number: int, kind: int, payload: bytes = b"") -> bytes:
    return varint(number << 3 | kind) + (varint(len(payload)) if kind == 2 else b"") + payload


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def entry(key: bytes, value: bytes) -> bytes:
    return field(13, 2, field(1, 2, key) + field(2, 2, value))


def model_with(graph: bytes) -> bytes:
    return field(1, 0) + varint(8) + field(7, 2, graph)


def external_tensor(location: str) -> TensorProto:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def judged(data: bytes) -> Outline | None:
    """The outline, or None when it is refused; any other exception is a failure."""
    try:
        return outline(data)
    except ModelRefused:
        return None


def test_a_model_in_one_file_names_no_other(tmp_path: Path) -> None:
    """Weights inside need nothing outside."""
    assert Outline(8, True, {}) == outline(plain(tmp_path / "m.onnx").read_bytes())


def test_the_bundled_models_are_models() -> None:
    """What ships with the project passes its own check."""
    found = [outline(path.read_bytes()) for path in sorted((ROOT / "models").glob("*/model.onnx"))]
    assert found
    assert all(it.has_graph and not it.external for it in found)


def test_external_data_is_found_with_the_bytes_that_are_read() -> None:
    """The furthest byte of all tensors in a file counts; without length the whole file does."""
    model = model_of(numpy_helper.from_array(weights(4), "w"), 4)
    for name, entries in {
        "a": {"location": "x.bin", "offset": "4096", "length": "100"},
        "b": {"location": "x.bin", "offset": "0", "length": "10"},
        "c": {"location": "y.bin"},
        "d": {"location": "z.bin", "offset": "64"},
    }.items():
        tensor = model.graph.initializer.add(name=name, data_location=TensorProto.EXTERNAL)
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    assert {"x.bin": 4196, "y.bin": None, "z.bin": 64} == outline(model.SerializeToString()).external


def test_external_data_is_found_wherever_a_tensor_may_hide() -> None:
    """Constants, subgraphs, functions, training information and sparse tensors are all looked into."""
    inner = helper.make_graph([], "inner", [], [], [external_tensor("subgraph")])
    deeper = helper.make_graph([helper.make_node("If", ["c"], ["o"], then_branch=inner)], "deeper", [], [])
    nodes = [
        helper.make_node("Constant", [], ["k"], value=external_tensor("constant")),
        helper.make_node("Loop", [], ["l"], body=deeper),
        helper.make_node("Many", [], ["n"], tensors=[external_tensor("list")]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], []), ir_version=8)
    model.graph.sparse_initializer.add().values.CopyFrom(external_tensor("sparse"))
    function = model.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["k"], value=external_tensor("function")))
    function.attribute_proto.append(helper.make_attribute("default", external_tensor("default")))
    model.training_info.add().algorithm.initializer.append(external_tensor("training"))
    expected = {"subgraph", "constant", "list", "sparse", "function", "default", "training"}
    assert expected == set(outline(model.SerializeToString()).external)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"\x00\x00\x00\x00ORTM" + bytes(100), r"\.ort"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer"),
        (b"PK\x03\x04" + bytes(100), "not a"),
        (b"hello, world\n", "not a"),
        (bytes(1000), "number 0"),
        (field(1, 0) + varint(8), "no graph"),
        (field(7, 2, b""), "no graph"),
        (field(1, 0) + b"\xff" * 12, "too long"),
        (field(1, 3), "wire type"),
        (model_with(field(5, 2, entry(b"location", b"\xff\xfe"))), "no text"),
        (model_with(field(5, 2, entry(b"location", b"x") + entry(b"offset", b"1e9"))), "bad number"),
        (model_with(field(5, 2, entry(b"location", b"x") + entry(b"offset", b"-1"))), "negative"),
        (model_with(field(5, 2, entry(b"location", b"x") + entry(b"length", b"-9"))), "negative"),
        (model_with(field(5, 2, entry(b"location", b"x") + entry(b"length", b"9" * 5000))), "bad number"),
    ],
)
def test_what_is_no_model_is_refused_with_its_reason(data: bytes, says: str) -> None:
    """Empty, foreign, cut or contradictory files never get further."""
    with pytest.raises(ModelRefused, match=says):
        outline(data)


def test_a_file_cut_anywhere_in_its_graph_is_refused(tmp_path: Path) -> None:
    """A download that broke off is seen without loading it."""
    data = plain(tmp_path / "m.onnx", count=100).read_bytes()
    tail = len(onnx.load_from_string(data).opset_import[0].SerializeToString()) + 2
    assert {None} == {judged(data[:size]) for size in range(len(data) - tail)}


def test_graphs_within_graphs_have_a_limit() -> None:
    """A file cannot make the walk descend for ever."""
    nested = field(5, 2, entry(b"location", b"x"))
    for _ in range(DEPTH_MAX):
        nested = field(1, 2, field(5, 2, field(6, 2, nested)))
    with pytest.raises(ModelRefused, match="deep"):
        outline(model_with(nested))


def test_a_bomb_of_fields_ends_at_the_budget() -> None:
    """Millions of tiny fields cost a bounded time."""
    bomb = model_with(field(5, 2, entry(b"location", b"x")) + field(2, 2) * (FIELDS_MAX + 1))
    began = time.process_time()
    with pytest.raises(ModelRefused, match="fields"):
        outline(bomb)
    assert time.process_time() - began < 20


@pytest.mark.parametrize("at", [0, WINDOW - len(KEY), WINDOW - len(KEY) + 1, WINDOW - 1, WINDOW, 2 * WINDOW + 5])
def test_a_word_is_found_once_wherever_the_search_pauses(at: int) -> None:
    """A large file is searched piece by piece, so that the agent's loop goes on: nothing is missed at the seams."""
    data = bytearray(2 * WINDOW + 100)
    data[at : at + len(KEY)] = KEY
    assert [at] == list(_mentions(memoryview(data)))


def test_a_large_graph_without_external_data_is_not_walked() -> None:
    """200,000 nodes cost a search, not a walk; ten times the time of one copy at most, with slack."""
    node = field(1, 2, field(1, 2, b"x") + field(2, 2, b"y") + field(4, 2, b"Identity"))
    data = model_with(node * 200_000)
    began = time.process_time()
    assert outline(data).has_graph
    assert time.process_time() - began < 0.5


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_answered_or_refused(data: bytes) -> None:
    """Whatever is read, only ModelRefused comes out."""
    judged(data)
    judged(model_with(data))
    judged(model_with(field(5, 2, entry(b"location", b"x") + data)))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutants_of_a_real_model_are_answered_or_refused(data: st.DataObject) -> None:
    """Flipped, cut, doubled and moved bytes of a model with external data raise nothing else."""
    mutant = bytearray(outside("weights.bin", 4, offset="0", length="16"))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, max(0, len(mutant) - 1)))
        to = data.draw(st.integers(at, min(len(mutant), at + 40)))
        match data.draw(st.integers(0, 3)):
            case 0:
                mutant[at:to] = data.draw(st.binary(max_size=8))
            case 1:
                del mutant[to:]
            case 2:
                mutant[at:at] = mutant[at:to]
            case _:
                mutant[at:to] = bytes(mutant[at:to][::-1])
    judged(bytes(mutant))
