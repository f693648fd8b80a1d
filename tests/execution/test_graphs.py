"""Optimised models on disk: used when they fit, dropped when they are damaged, never more than allowed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from meshnode.execution import graphs as module
from meshnode.execution.graphs import Graphs
from meshnode.execution.job import ModelFile
from meshnode.execution.session import CPU, Session
from tests.execution.making import save, value_info

SIDE, LAYERS = 16, 600
X = {"x": np.ones((1, SIDE), np.float32)}


def deep(folder: Path, layers: int = LAYERS) -> ModelFile:
    """A model of many nodes, which take long to optimise; in a folder of its own."""
    own = folder / "deep"
    own.mkdir()
    node = helper.make_node
    nodes = [
        each
        for i in range(layers)
        for each in (
            node("MatMul", [f"h{i}", "w"], [f"m{i}"]),
            node("Add", [f"m{i}", "b"], [f"a{i}"]),
            node("Relu", [f"a{i}"], [f"r{i}"]),
            node("Add", [f"r{i}", f"m{i}"], [f"h{i + 1}"]),
        )
    ]
    nodes.insert(0, node("Identity", ["x"], ["h0"]))
    nodes.append(node("Identity", [f"h{layers}"], ["y"]))
    weights = np.full((SIDE, SIDE), 1 / 64, np.float32)
    infos = [value_info(name, TensorProto.FLOAT, ["b", SIDE]) for name in ("x", "y")]
    held = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(weights[0], "b")]
    return save(own, nodes, infos[:1], infos[1:], held)


def load(model: ModelFile, kept: Graphs) -> Session:
    return Session(model.path, CPU, 1, graphs=kept, digest=model.digest)


def answer(session: Session) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return session.run(X, (), ort.RunOptions())["y"]


def test_a_second_load_is_of_the_kept_one(tmp_path: Path) -> None:
    """The same results, names and types; one file, and no draft left."""
    model, kept = deep(tmp_path), Graphs(tmp_path / "graphs")
    first = load(model, kept)
    (entry,) = kept.folder.iterdir()
    assert kept.find(kept.key(model.digest, CPU)) == entry.read_bytes()
    second = load(model, kept)
    np.testing.assert_array_equal(answer(first), answer(second))
    assert (first.inputs, first.outputs, first.precision) == (second.inputs, second.outputs, second.precision)
    assert [entry] == list(kept.folder.iterdir())


def test_what_loads_quickly_is_not_kept(tmp_path: Path) -> None:
    """One layer: reading and hashing an entry would take longer."""
    kept = Graphs(tmp_path / "graphs")
    load(deep(tmp_path, layers=1), kept)
    assert [] == list(kept.folder.iterdir())


def test_an_entry_is_for_one_model_version_provider_and_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever differs, it is another key."""
    kept = Graphs(Path("nowhere"))
    keys = {kept.key("a", CPU), kept.key("b", CPU), kept.key("a", "Other")}
    monkeypatch.setattr(module.ort, "__version__", "0.0.1")
    keys.add(kept.key("a", CPU))
    monkeypatch.setattr(module, "processor", lambda: "another one")
    keys.add(kept.key("a", CPU))
    assert 5 == len(keys)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_entry_is_dropped(tmp_path: Path, damage: str) -> None:
    """It is never given to ONNX Runtime; the model is optimised anew, and kept again."""
    model, kept = deep(tmp_path), Graphs(tmp_path / "graphs")
    expected = answer(load(model, kept))
    (entry,) = kept.folder.iterdir()
    content = entry.read_bytes()
    entry.write_bytes({"cut": content[:-1], "changed": content[:-1] + b"!", "empty": b""}[damage])
    assert None is kept.find(kept.key(model.digest, CPU))
    assert [] == list(kept.folder.iterdir())
    np.testing.assert_array_equal(expected, answer(load(model, kept)))
    assert [entry.name] == os.listdir(kept.folder)


def test_an_entry_that_does_not_load_is_dropped(tmp_path: Path) -> None:
    """Its hash is right and it is no model: the file itself is used."""
    model, kept = deep(tmp_path), Graphs(tmp_path / "graphs")
    draft = kept.draft()
    assert draft is not None
    draft.write_bytes(b"not a model")
    kept.keep(kept.key(model.digest, CPU), draft)
    assert (1, SIDE) == answer(load(model, kept)).shape
    assert b"not a model" not in [path.read_bytes() for path in kept.folder.iterdir()]


def test_the_longest_unused_make_room(tmp_path: Path) -> None:
    """Three of 40 bytes do not fit into 100; what was read last stays; one that is too large is not kept."""
    kept = Graphs(tmp_path / "graphs", bytes_max=100)
    for number, key in enumerate(("a" * 32, "b" * 32, "c" * 32)):
        draft = kept.draft()
        assert draft is not None
        draft.write_bytes(bytes([number]) * 40)
        kept.keep(key, draft)
        for age, path in enumerate(sorted(kept.folder.iterdir(), key=lambda it: it.name, reverse=True)):
            os.utime(path, (1000 - age, 1000 - age))
        kept.find("a" * 32)
    assert {"a", "c"} == {path.name[0] for path in kept.folder.iterdir()}
    draft = kept.draft()
    assert draft is not None
    draft.write_bytes(bytes(101))
    kept.keep("d" * 32, draft)
    assert {"a", "c"} == {path.name[0] for path in kept.folder.iterdir()}


def test_a_draft_that_was_left_behind_goes(tmp_path: Path) -> None:
    """A worker was killed while it wrote: the next one that writes clears it away, and leaves a young one."""
    kept = Graphs(tmp_path / "graphs")
    old, young = kept.draft(), kept.draft()
    assert old is not None
    os.utime(old, (1000, 1000))
    new = kept.draft()
    assert {young, new} == set(kept.folder.iterdir())


def test_without_a_place_to_write_models_load_as_ever(tmp_path: Path) -> None:
    """A folder that cannot be made costs the time and nothing else."""
    (tmp_path / "file").write_text("")
    assert (1, SIDE) == answer(load(deep(tmp_path), Graphs(tmp_path / "file" / "graphs"))).shape
