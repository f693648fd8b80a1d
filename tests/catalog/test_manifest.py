"""Manifests: golden bytes, what is refused, and how a model is called."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.catalog.manifest import (
    FILES_MAX,
    File,
    Manifest,
    Tensor,
    digest_of,
    from_map,
    model_name,
    piece_count,
    resolve,
)
from meshnode.errors import InvalidInput, MeshError, ModelNotFound, ModelRefused, ProtocolError
from tests.catalog.making import A

VECTORS = json.loads((Path(__file__).parents[2] / "protocols" / "vectors" / "manifest.json").read_text())


def file(name: str = "model.onnx", size: int = 5000, fill: int = 1) -> File:
    return File(name, size, bytes([fill]) * 32, bytes([fill + 1]) * 32)


def named(name: str, version: int = 1, fill: int = 1, **more: Any) -> Manifest:
    inputs = (Tensor("x", "tensor(float)", ("batch", 64, None)),)
    return Manifest(name, version, (file(fill=fill),), inputs, (), 1 << 20, publisher=A, **more)


def hexed(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {key: hexed(item) for key, item in value.items()}
        case list() | tuple():
            return [hexed(item) for item in value]
        case _:
            return value


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: str(v["name"]))
def test_the_golden_bytes_mean_what_they_say(vector: dict[str, Any]) -> None:
    """Each vector decodes to its meaning and encodes to the same bytes, or is refused with its code."""
    body = msgspec.msgpack.decode(bytes.fromhex(vector["hex"]))
    if code := vector.get("must_reject"):
        with pytest.raises(MeshError) as caught:
            from_map(body, A)
        assert code == caught.value.code
        return
    manifest = from_map(body, A)
    assert vector["means"]["digest"] == manifest.digest
    assert vector["means"]["size"] == manifest.size
    assert vector["means"]["manifest"] == hexed(manifest.to_map())
    assert vector["hex"] == msgspec.msgpack.encode(manifest.to_map()).hex()


def test_a_manifest_survives_its_map() -> None:
    """What is published is what is read, and the publisher is never taken from the map."""
    manifest = named("digits", 3, metadata={"meshnode.image": "grey"}, run_us=120, created=1)
    assert manifest == from_map({**manifest.to_map(), "publisher": "someone else"}, A)


def test_fields_of_a_newer_version_are_ignored() -> None:
    """Two neighbouring versions can read each other's manifests."""
    manifest = named("digits")
    assert manifest == from_map({**manifest.to_map(), "licence": "CC-BY-4.0"}, A)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Digits"},
        {"name": "../x"},
        {"name": "a" * 65},
        {"name": "0" * 64},
        {"version": 0},
        {"version": True},
        {"files": []},
        {"files": [{"path": "../model.onnx", "size": 1, "sha256": bytes(32), "pieces": bytes(32)}]},
        {"files": [{"path": ".files", "size": 1, "sha256": bytes(32), "pieces": bytes(32)}]},
        {"files": [{"path": "a/b", "size": 1, "sha256": bytes(32), "pieces": bytes(32)}]},
        {"files": [{"path": "model.onnx\n", "size": 1, "sha256": bytes(32), "pieces": bytes(32)}]},
        {"files": [{"path": "model.onnx", "size": -1, "sha256": bytes(32), "pieces": bytes(32)}]},
        {"files": [{"path": "model.onnx", "size": 1, "sha256": bytes(31), "pieces": bytes(32)}]},
        {"files": [{"path": "model.onnx", "size": 2**46, "sha256": bytes(32), "pieces": bytes(32)}]},
        {"files": [{"path": n, "size": 1, "sha256": bytes(32), "pieces": bytes(32)} for n in ("W.bin", "w.bin")]},
        {"files": [{"path": "m", "size": 1, "sha256": bytes(32), "pieces": bytes(32)}] * (FILES_MAX + 1)},
        {"piece_bytes": 1},
        {"inputs": [{"name": "x", "dtype": "tensor(float)", "shape": [1.5]}]},
        {"metadata": {"k": "v" * 257}},
        {"memory_bytes": -1},
        {"created": -1},
    ],
    ids=str,
)
def test_a_manifest_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    """A publisher is trusted with names, not with paths, sizes or memory."""
    with pytest.raises(ProtocolError):
        from_map({**named("digits").to_map(), **change}, A)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    ),
    st.sampled_from(["name", "version", "files", "inputs", "outputs", "piece_bytes", "metadata", "run_us", "created"]),
)
def test_any_map_is_read_or_refused(value: Any, key: str) -> None:
    """Whatever stands in a signed map, only ProtocolError comes out."""
    with contextlib.suppress(ProtocolError):
        from_map({**named("digits").to_map(), key: value}, A)


def test_a_manifest_that_the_mesh_would_not_take_is_not_made() -> None:
    """The person who adds a model hears it, instead of every other node."""
    long = tuple(Tensor(f"{i:0500}", "tensor(float)", ()) for i in range(80))
    with pytest.raises(ModelRefused, match="30720"):
        Manifest("m", 1, (file(),), long, (), 1 << 20, publisher=A).to_map()
    with pytest.raises(ModelRefused, match="same name"):
        Manifest("m", 1, (file("a"), file("A")), (), (), 1 << 20, publisher=A).to_map()


def test_the_digest_depends_on_every_file_and_on_nothing_else() -> None:
    """Name, version and metadata do not change what a model is; any byte of its files does."""
    assert named("a").digest == named("b", 7, metadata={"k": "v"}).digest
    alike = {digest_of([file()]), digest_of([file(size=1)]), digest_of([file("x")]), digest_of([file(fill=9)])}
    assert 4 == len(alike)
    assert digest_of([file(), file("b")]) != digest_of([file("b"), file()])


def test_pieces_are_counted_up() -> None:
    """The last piece may be short, and an empty file has none."""
    assert [0, 1, 1, 2] == [piece_count(file(size=size), 4096) for size in (0, 1, 4096, 4097)]


def test_a_name_means_the_newest_version() -> None:
    """`name`, `name:version` and a digest all lead to a model."""
    old, new, other = named("digits", 1, 1), named("digits", 10, 3), named("echo", 1, 5)
    models = [new, other, old]
    assert new == resolve(models, "digits")
    assert old == resolve(models, "digits:1")
    assert other == resolve(models, other.digest)


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [("digit", "did you mean digits"), ("digits:9", "digits:1"), ("zzz", "this mesh has digits"), ("f" * 64, "digits")],
)
def test_an_unknown_model_is_answered_with_what_is_close(wanted: str, hint: str) -> None:
    """The error says what there is instead."""
    with pytest.raises(ModelNotFound) as caught:
        resolve([named("digits")], wanted)
    assert hint in caught.value.hint


def test_an_empty_mesh_says_how_to_add_a_model() -> None:
    """The first thing a new user needs to hear."""
    with pytest.raises(ModelNotFound) as caught:
        resolve([], "digits")
    assert "model add" in caught.value.hint


def test_a_file_name_becomes_a_model_name() -> None:
    """Spaces and capitals are mended; what cannot be a name is refused."""
    assert "my-model-v2" == model_name("My Model (v2)")
    for bad in ("", "***", "a" * 65, "0" * 64):
        with pytest.raises(InvalidInput):
            model_name(bad)
