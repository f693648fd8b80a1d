"""Optimised models on disk: used when they fit, dropped when they are damaged, never more than allowed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from meshnode.execution import shelf
from meshnode.execution.arena import fill, memory_file
from meshnode.execution.graphs import Graphs
from meshnode.execution.job import ModelFile
from meshnode.execution.rules import CPU
from meshnode.execution.session import Session
from meshnode.execution.shelf import Shelf
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


def made(folder: Path) -> Shelf:
    """A shelf that can be used."""
    it = Shelf(folder)
    it.prepare()
    return it


def load(model: ModelFile, it: Shelf) -> Session:
    """As a worker does, with an agent that takes what is offered."""

    def tell(digest: str, fd: int | None) -> None:
        it.take(key(digest), None if fd is None else os.dup(fd))

    return Session(model.path, CPU, 1, graphs=seen(it, tell), digest=model.digest)


def seen(it: Shelf, tell: Any = None) -> Graphs:
    """The shelf as a worker sees it."""
    return Graphs(it.folder, CPU, tell)


def key(digest: str) -> str:
    return shelf.key(digest, ort.__version__, CPU)


def file_of(content: bytes) -> int:
    """A memory file as a worker hands it over."""
    fd = memory_file(len(content))
    fill(fd, [content])
    return fd


def answer(session: Session) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return session.run(X, (), ort.RunOptions())["y"]


def test_a_second_load_is_of_the_kept_one(tmp_path: Path) -> None:
    """The same results, names and types; one file, which counts as used again."""
    model, kept = deep(tmp_path), made(tmp_path / "graphs")
    first = load(model, kept)
    (entry,) = kept.folder.iterdir()
    assert seen(kept).find(model.digest) == entry.read_bytes()
    os.utime(entry, (1000, 1000))
    second = load(model, kept)
    np.testing.assert_array_equal(answer(first), answer(second))
    assert (first.inputs, first.outputs, first.precision) == (second.inputs, second.outputs, second.precision)
    assert [entry] == list(kept.folder.iterdir())
    assert entry.stat().st_mtime > 1000


def test_what_loads_quickly_is_not_kept(tmp_path: Path) -> None:
    """One layer: reading and hashing an entry would take longer."""
    kept = made(tmp_path / "graphs")
    load(deep(tmp_path, layers=1), kept)
    assert [] == list(kept.folder.iterdir())


def test_an_entry_is_for_one_model_version_provider_and_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever differs, it is another key."""
    keys = {shelf.key("a", "1", CPU), shelf.key("b", "1", CPU), shelf.key("a", "2", CPU), shelf.key("a", "1", "Other")}
    monkeypatch.setattr(shelf, "processor", lambda: "another one")
    keys.add(shelf.key("a", "1", CPU))
    assert 5 == len(keys)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_entry_is_not_used(tmp_path: Path, damage: str) -> None:
    """It is never given to ONNX Runtime; the model is optimised anew, and takes its place."""
    model, kept = deep(tmp_path), made(tmp_path / "graphs")
    expected = answer(load(model, kept))
    (entry,) = kept.folder.iterdir()
    content = entry.read_bytes()
    entry.write_bytes({"cut": content[:-1], "changed": content[:-1] + b"!", "empty": b""}[damage])
    assert None is seen(kept).find(model.digest)
    np.testing.assert_array_equal(expected, answer(load(model, kept)))
    assert [entry.name] == os.listdir(kept.folder)
    assert content == entry.read_bytes()


def test_an_entry_that_does_not_load_is_replaced(tmp_path: Path) -> None:
    """Its hash is right and it is no model: the file itself is used."""
    model, kept = deep(tmp_path), made(tmp_path / "graphs")
    kept.take(key(model.digest), file_of(b"not a model"))
    assert b"not a model" == seen(kept).find(model.digest)
    assert (1, SIDE) == answer(load(model, kept)).shape
    assert b"not a model" not in [path.read_bytes() for path in kept.folder.iterdir()]


def test_the_longest_unused_make_room(tmp_path: Path) -> None:
    """Three of 40 bytes do not fit into 100; what was used last stays; one that is too large is not kept."""
    kept = Shelf(tmp_path / "graphs", bytes_max=100)
    kept.prepare()
    for number, each in enumerate(("a" * 32, "b" * 32, "c" * 32)):
        kept.take(each, file_of(bytes([number]) * 40))
        for age, path in enumerate(sorted(kept.folder.iterdir(), key=lambda it: it.name, reverse=True)):
            os.utime(path, (1000 - age, 1000 - age))
        kept.take("a" * 32, None)
    assert {"a", "c"} == {path.name[0] for path in kept.folder.iterdir()}
    kept.take("d" * 32, file_of(bytes(101)))
    assert {"a", "c"} == {path.name[0] for path in kept.folder.iterdir()}


def test_what_a_worker_offers_is_looked_at(tmp_path: Path) -> None:
    """A pipe, which would never end, and a file of nothing: neither is kept, both are closed."""
    kept = made(tmp_path / "graphs")
    reader, writer = os.pipe()
    for fd in (reader, file_of(b"")):
        kept.take("a" * 32, fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    os.close(writer)
    assert [] == list(kept.folder.iterdir())


def test_a_draft_that_was_left_behind_goes(tmp_path: Path) -> None:
    """An agent was killed while it wrote: the next one clears it away, and leaves what is whole."""
    kept = made(tmp_path / "graphs")
    kept.take("a" * 32, file_of(b"whole"))
    (kept.folder / f"{shelf.DRAFT}x").write_text("half")
    kept.prepare()
    assert ["a"] == [path.name[0] for path in kept.folder.iterdir()]


def test_without_a_place_to_write_models_load_as_ever(tmp_path: Path) -> None:
    """A folder that cannot be made costs the time and nothing else."""
    (tmp_path / "file").write_text("")
    assert (1, SIDE) == answer(load(deep(tmp_path), made(tmp_path / "file" / "graphs"))).shape
