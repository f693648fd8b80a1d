"""The scanner against the zoo: what is refused and why, what is taken, how long it takes; and nothing else comes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from meshnode.catalog import verdict as verdicts
from meshnode.catalog.expansion import CALLS_DEPTH_MAX
from meshnode.catalog.manifest import FILE_NAME
from meshnode.catalog.scan import DEPTH_MAX, EXPANDED_NODES_MAX, FIELDS_MAX, FUNCTIONS_MAX, NODES_MAX, scan
from meshnode.catalog.tensors import BITS, RANK_MAX, STRING
from meshnode.catalog.verdict import ANY, SUPPORTED, Verdict
from meshnode.errors import ModelRefused
from tests.catalog import zoo
from tests.catalog.making import model_of, outside, plain, weights
from tests.catalog.wire import field, graph, model, node, text

ROOT = Path(__file__).parents[2]
SMALL = (*zoo.REFUSED, *zoo.REFUSED_TENSORS, *zoo.TAKEN)
MUTANTS = 4000
"""In each run of the tests; `scripts/fuzz-scan` makes as many as it is told."""


def judged(data: bytes) -> Verdict | None:
    """The verdict, or None when it is refused; any other exception is a failure."""
    try:
        return scan(data)
    except ModelRefused:
        return None


def seconds(data: bytes) -> float:
    """Of processor time, the least of three."""
    took = []
    for _ in range(3):
        began = time.process_time()
        judged(data)
        took.append(time.process_time() - began)
    return min(took)


def external_tensor(location: str) -> TensorProto:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("beast", [it for it in SMALL if it.says is not None], ids=lambda it: it.name)
def test_a_hostile_file_is_refused_with_its_reason(beast: zoo.Beast) -> None:
    """What, where, which limit and how much: before anything larger sees the file."""
    assert beast.says is not None
    with pytest.raises(ModelRefused, match=beast.says):
        scan(beast.make())


@pytest.mark.parametrize("beast", zoo.TAKEN, ids=lambda it: it.name)
def test_what_exporters_write_is_taken(beast: zoo.Beast) -> None:
    """A scanner that refuses real models would be switched off."""
    assert scan(beast.make()).nodes > 0


def test_files_outside_are_refused_by_their_names() -> None:
    """Where the scan itself has nothing against a place, its name is not one that a model's file can have."""
    places = [location for it in zoo.REFUSED if it.says is None for location in scan(it.make()).external]
    assert len(places) == sum(it.says is None for it in zoo.REFUSED) > 5
    assert [] == [it for it in places if FILE_NAME.fullmatch(it)]
    for it in places:
        with pytest.raises(ModelRefused, match="not among its files"):
            Verdict(1, 8, {}, (), 1, 1, 0, 1, 0, 0, {it: 4}).check_files({"weights.bin": 4})


def test_every_small_file_of_the_zoo_is_decided_at_once() -> None:
    """5 ms of processor time each, most far less."""
    assert [] == [it.name for it in SMALL if seconds(it.make()) > 0.005]


@pytest.mark.parametrize("beast", zoo.LARGE, ids=lambda it: it.name)
def test_megabytes_of_structure_are_decided_within_bounds(beast: zoo.Beast) -> None:
    """200,000 nodes in half a second; a bomb ends at its budget, and millions of numbers are skipped in one step."""
    data = beast.make()
    verdict = judged(data)
    assert (verdict is not None) == (beast.says is None)
    if beast.says is not None:
        with pytest.raises(ModelRefused, match=beast.says):
            scan(data)
    assert seconds(data) < (0.5 if beast.name == "200,000 nodes" else 5.0)


def test_weights_are_skipped_whatever_their_size() -> None:
    """100 MB of them cost no more than none: their bytes are never looked at."""
    data = bytes(plain_bytes(25_000_000))
    found = scan(data)
    assert 100_000_000 == found.initializer_bytes
    assert seconds(data) < 0.005


def plain_bytes(count: int) -> bytes:
    return bytes(model_of(numpy_helper.from_array(np.zeros(count, np.float32), "w"), count).SerializeToString())


def test_the_bundled_models_are_models() -> None:
    """What ships with the project passes its own check."""
    found = [scan(path.read_bytes()) for path in sorted((ROOT / "models").glob("*/model.onnx"))]
    assert found
    assert all(it.nodes and not it.external for it in found)


def test_a_verdict_has_the_figures_of_the_model(tmp_path: Path) -> None:
    """Counts, versions, domains and bytes are those of the file."""
    found = scan(plain(tmp_path / "m.onnx", count=1000).read_bytes())
    assert (8, {"": 17}, ("",)) == (found.ir_version, found.opsets, found.domains)
    assert (1, 1, 0, 1) == (found.nodes, found.expanded, found.functions, found.depth)
    assert (4000, 8000) == (found.initializer_bytes, found.activation_bytes)
    assert int(1.3 * 12_000) == found.memory_bytes


def test_functions_are_counted_as_if_they_were_put_in() -> None:
    """Each call counts, and what it stands for; a graph within a function lies within the one that calls."""
    branch = node("If", "", text(1, "then_branch") + field(6, 2, graph(node("g", "l"))))
    functions = [zoo.function("f", branch, node("g", "l")), zoo.function("g", node(), node("Relu"))]
    found = scan(model(graph(node("f", "l"), node("f", "l"), node()), *functions))
    assert 3 + 4 + 1 == found.nodes
    assert 3 + 2 * (3 + 2 * 2) == found.expanded
    assert 2 == found.depth
    assert 2 == found.functions


def test_external_data_is_found_with_the_bytes_that_are_read() -> None:
    """The furthest byte of all tensors in a file counts; without a length the shape says it."""
    proto = model_of(numpy_helper.from_array(weights(4), "w"), 4)
    for name, entries in {
        "a": {"location": "x.bin", "offset": "4096", "length": "100"},
        "b": {"location": "x.bin", "offset": "0", "length": "100"},
        "c": {"location": "y.bin"},
        "d": {"location": "z.bin", "offset": "64"},
    }.items():
        tensor = proto.graph.initializer.add(name=name, data_location=TensorProto.EXTERNAL, data_type=1, dims=[25])
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    assert {"x.bin": 4196, "y.bin": 100, "z.bin": 164} == scan(proto.SerializeToString()).external


def test_external_data_is_found_wherever_a_tensor_may_hide() -> None:
    """Constants, subgraphs, functions, training information and sparse tensors are all looked into."""
    inner = helper.make_graph([], "inner", [], [], [external_tensor("subgraph")])
    deeper = helper.make_graph([helper.make_node("If", ["c"], ["o"], then_branch=inner)], "deeper", [], [])
    nodes = [
        helper.make_node("Constant", [], ["k"], value=external_tensor("constant")),
        helper.make_node("Loop", [], ["l"], body=deeper),
        helper.make_node("Many", [], ["n"], tensors=[external_tensor("list")]),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", [], []), ir_version=8)
    proto.opset_import[0].version = 17
    proto.graph.sparse_initializer.add().values.CopyFrom(external_tensor("sparse"))
    function = proto.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["k"], value=external_tensor("function")))
    function.attribute_proto.append(helper.make_attribute("default", external_tensor("default")))
    proto.training_info.add().algorithm.initializer.append(external_tensor("training"))
    expected = {"subgraph", "constant", "list", "sparse", "function", "default", "training"}
    assert expected == set(scan(proto.SerializeToString()).external)


@pytest.mark.parametrize("dtype", [*sorted(BITS), STRING])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_element_type_is_weighed_as_onnx_writes_it(dtype: int, count: int) -> None:
    """Raw or in typed fields: what the library writes is what the shape declares, for each type there is."""
    values = [b"ab"] * count if dtype == TensorProto.STRING else [1] * count
    typed = helper.make_tensor("w", dtype, [count], values)
    nbytes = 2 * count if dtype == STRING else -(-count * BITS[dtype] // 8)
    assert nbytes == scan(model_of(typed, 1).SerializeToString()).initializer_bytes
    if dtype != STRING:
        raw = helper.make_tensor("w", dtype, [count], bytes(nbytes), raw=True)
        assert nbytes == scan(model_of(raw, 1).SerializeToString()).initializer_bytes


@pytest.mark.parametrize(("dims", "expected"), [((1 << 36,), 1 << 36), ((1 << 18, 1 << 18), 1 << 36), ((-1, 8), 8)])
def test_memory_made_out_of_nothing_is_estimated(dims: tuple[int, ...], expected: int) -> None:
    """A node that makes a tensor of a constant shape needs that much, which the file's size does not show."""
    found = scan(zoo.constant_of_shape(*dims))
    assert 2 * expected == found.activation_bytes
    shape = helper.make_node("Constant", [], ["s"], value=helper.make_tensor("v", TensorProto.INT64, [1], [1 << 36]))
    nodes = [shape, helper.make_node("Expand", ["x", "s"], ["y"])]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", [], []), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    assert 2 << 36 == scan(proto.SerializeToString()).activation_bytes


def test_a_sparse_weight_counts_as_the_dense_one_that_is_made_of_it() -> None:
    """One value in a shape of a tebibyte takes a tebibyte."""
    assert (4 << 38) + 12 == scan(zoo._sparse(1 << 38)).initializer_bytes


def test_a_newer_runtime_judges_versions_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table belongs to one ONNX Runtime: with a later one, what is newer than the table is its business."""
    newer = model(graph(node()), more=zoo.opset("", 27))
    with pytest.raises(ModelRefused, match="opset 27"):
        scan(newer, SUPPORTED)
    assert 27 == scan(newer, ANY).opsets[""]
    for version, expected in {
        "1.31.9": SUPPORTED,
        "1.23.0": SUPPORTED,
        "1.32.0": ANY,
        "2.0": ANY,
        "odd": SUPPORTED,
    }.items():
        monkeypatch.setattr(verdicts.metadata, "version", lambda _, version=version: version)
        verdicts.known_here.cache_clear()
        assert expected == verdicts.known_here()
    verdicts.known_here.cache_clear()


def test_a_file_cut_anywhere_in_its_graph_is_refused(tmp_path: Path) -> None:
    """A download that broke off is seen without loading it."""
    data = plain(tmp_path / "m.onnx", count=100).read_bytes()
    tail = len(onnx.load_from_string(data).opset_import[0].SerializeToString()) + 2
    assert {None} == {judged(data[:size]) for size in range(len(data) - tail)}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_answered_or_refused(data: bytes) -> None:
    """Whatever is read, wherever it stands, only ModelRefused comes out."""
    judged(data)
    judged(model(data))
    judged(model(graph(field(5, 2, data)) if data else b""))
    judged(zoo.weights(data))
    judged(model(graph(node("If", "", data), data)))
    judged(model(graph(node("f", "l")), data))


def test_mutants_of_the_zoo_are_answered_or_refused() -> None:
    """Changed, cut, doubled and crossed beasts raise nothing else."""
    for mutant in zoo.mutants(seed=1, count=MUTANTS):
        judged(mutant)
    judged(bytes(outside("weights.bin", 4)))


def test_the_limits_are_those_that_are_documented() -> None:
    """protocols/transfer.md tells other implementations."""
    page = (ROOT / "protocols" / "transfer.md").read_text()
    limits = (
        f"{NODES_MAX:,} nodes",
        f"{EXPANDED_NODES_MAX:,} nodes",
        f"{FUNCTIONS_MAX:,} functions",
        f"{FIELDS_MAX:,} fields",
    )
    for limit in (*limits, f"{DEPTH_MAX} graphs", f"{CALLS_DEPTH_MAX} calls deep", f"more than {RANK_MAX} dimensions"):
        assert limit in page
