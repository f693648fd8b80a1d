"""The catalog: the same models under the same names on every node."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pytest

from meshnode.catalog.index import Catalog
from meshnode.catalog.manifest import File, Manifest
from meshnode.errors import ModelNotFound
from tests.catalog.making import A, B


@dataclass(frozen=True)
class Said:
    """A `model` statement as the catalog sees it."""

    id: bytes
    body: dict[str, Any]


def manifest(name: str, version: int = 1, fill: int = 1, piece_bytes: int = 4096) -> Manifest:
    return Manifest(name, version, (File("model.onnx", 10, bytes([fill]) * 32, bytes(32)),), (), (), piece_bytes)


def catalog(*manifests: Manifest) -> Catalog:
    made = Catalog()
    made.refresh((Said(bytes([i]), it.to_map()), A) for i, it in enumerate(manifests))
    return made


def test_models_are_found_by_name_version_and_digest() -> None:
    """And know who published them and by which statement."""
    old, new = manifest("m", 2, 1), manifest("m", 10, 2)
    made = catalog(old, new)
    assert [2, 10] == [it.version for it in made.manifests()]
    assert 10 == made.resolve("m").version
    assert 2 == made.resolve("m:2").version
    assert 2 == made.resolve("M:2").version, "names are kept in lower case, and found in any"
    assert made.resolve(old.digest).version == 2
    assert A == made.resolve("m").publisher
    assert b"\1" == made.statement_of(made.resolve("m"))
    found = made.find("m", 2)
    assert found is not None
    assert old.digest == found.digest
    assert made.find("m", 3) is None


def test_the_next_version_is_one_more_unless_the_files_are_the_same() -> None:
    """Adding a model twice does not make two versions."""
    made = catalog(manifest("m", 2, 1), manifest("m", 10, 2))
    assert 11 == made.next_version("m", manifest("m", 1, 3).digest)
    assert 2 == made.next_version("m", manifest("m", 1, 1).digest)
    assert 1 == made.next_version("other", manifest("m").digest)


def test_of_two_with_one_name_the_older_has_it() -> None:
    """Two nodes that publish at once: the same one wins everywhere, and the other still runs by its digest."""
    made = catalog(manifest("m", 1, 1), manifest("m", 1, 2))
    assert manifest("m", 1, 1).digest == made.resolve("m").digest
    assert manifest("m", 1, 2).digest == made.resolve(manifest("m", 1, 2).digest).digest
    assert made.knows(manifest("m", 1, 2).digest)


def test_one_model_under_two_names_travels_in_one_way() -> None:
    """Holder and receiver cut the files alike, by the oldest statement of the digest."""
    made = catalog(manifest("a", 1, 1, 4096), manifest("b", 1, 1, 8192))
    assert 4096 == made.of_digest(manifest("a").digest).piece_bytes


def test_a_removed_model_is_not_found_any_more() -> None:
    """Each refresh starts anew."""
    made = catalog(manifest("m"))
    made.refresh([])
    assert not made.knows(manifest("m").digest)
    for act in (lambda: made.resolve("m"), lambda: made.of_digest(manifest("m").digest)):
        with pytest.raises(ModelNotFound):
            act()


def test_a_bad_manifest_is_left_out_alone(caplog: pytest.LogCaptureFixture) -> None:
    """One publisher's mistake takes no other model away."""
    made = Catalog()
    with caplog.at_level(logging.WARNING):
        made.refresh([(Said(b"1", {"name": "../x"}), B), (Said(b"2", manifest("m").to_map()), A)])
    assert ["m"] == [it.name for it in made.manifests()]
    assert B[:8] in caplog.text


def test_a_name_means_what_was_steered_and_a_share_tries_the_next() -> None:
    """Exactly the share; a version or a digest is what it says; unsteered, a name means its newest version again."""
    made = catalog(manifest("digits", 1, 1), manifest("digits", 2, 2))
    made.steer("digits", 1, 2, 250)
    assert 25 == sum(made.route("digits").version == 2 for _ in range(100))
    assert 1 == made.resolve("Digits").version
    assert 2 == made.route("digits:2").version
    assert 2 == made.newest("digits").version
    made.steer("digits", 1)
    assert {1} == {made.route("digits").version for _ in range(10)}
    made.unsteer(["digits"])
    assert 2 == made.route("digits").version
