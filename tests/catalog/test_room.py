"""A quota, and who leaves when it is full."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from meshnode.catalog.room import Kept, leaving
from meshnode.catalog.store import Store
from meshnode.errors import HomeError
from meshnode.wire.messages import Digest
from tests.catalog.making import SETTINGS, manifest_of, plain

ONE, TWO, THREE = (Digest(letter * 64) for letter in "abc")
KEPT = [Kept(ONE, 10, 3.0), Kept(TWO, 10, 1.0), Kept(THREE, 10, 2.0)]


def test_the_longest_unused_goes_first_and_no_more_than_needed() -> None:
    """Two of three make room for eleven."""
    assert [TWO, THREE] == leaving(11, KEPT, {ONE, TWO, THREE})
    assert [TWO] == leaving(10, KEPT, {ONE, TWO, THREE})
    assert [] == leaving(0, KEPT, {ONE, TWO, THREE})


def test_what_may_not_go_stays_and_nothing_goes_in_vain() -> None:
    """When what may go is not enough, all stay."""
    assert [ONE] == leaving(5, KEPT, {ONE})
    assert [] == leaving(11, KEPT, {ONE})


class Full:
    """A store with room for two of the test's models, and what may go from it."""

    def __init__(self, folder: Path) -> None:
        self.may_go: set[Digest] = set()
        self.folder = folder
        self.open(67_000)

    def open(self, quota: int) -> None:
        self.store = Store(self.folder / "models", replace(SETTINGS, quota_bytes=quota), lambda: self.may_go)
        self.store.open()

    async def add(self, seed: int) -> Digest:
        return (await self.store.add(plain(self.folder / f"{seed}.onnx", seed=seed))).digest


async def test_the_least_recently_used_makes_room_for_a_new_one(tmp_path: Path) -> None:
    """Use is what counts, not when it came; the new one is there and whole."""
    full = Full(tmp_path)
    first, second = await full.add(1), await full.add(2)
    for digest, at in ((first, 2000.0), (second, 1000.0)):
        os.utime(full.store.folder / digest, (at, at))
    full.may_go = {first, second}
    third = await full.add(3)
    assert sorted([first, third]) == full.store.digests()
    assert not (full.store.folder / second).exists()


async def test_use_is_remembered_through_a_restart(tmp_path: Path) -> None:
    """A model that was used before the agent was stopped is not the first to go afterwards."""
    full = Full(tmp_path)
    first, second = await full.add(1), await full.add(2)
    for digest in (first, second):
        os.utime(full.store.folder / digest, (1000.0, 1000.0))
    full.store.used(first)
    full.open(67_000)
    full.may_go = {first, second}
    third = await full.add(3)
    assert sorted([first, third]) == full.store.digests()


async def test_when_nothing_may_go_a_new_one_is_refused_with_the_fix(tmp_path: Path) -> None:
    """Those that are in use, wanted here or the last copy stay, and the message says what to do."""
    full = Full(tmp_path)
    first, second = await full.add(1), await full.add(2)
    with pytest.raises(HomeError, match="of the 67000 for models are taken") as caught:
        await full.add(3)
    assert "catalog.quota_bytes" in caught.value.hint
    assert sorted([first, second]) == full.store.digests()
    assert [] == [path.name for path in full.store.folder.iterdir() if path.name.startswith(".adding")]


async def test_a_model_that_is_fetched_takes_of_the_quota_before_its_first_byte(tmp_path: Path) -> None:
    """Two that would fit alone and not together: the second is refused."""
    full = Full(tmp_path)
    await full.add(1)
    other = Store(tmp_path / "other", SETTINGS)
    other.open()
    manifests = [manifest_of(await other.add(plain(tmp_path / f"{seed}.onnx", seed=seed))) for seed in (2, 3)]
    full.store.begin(manifests[0])
    with pytest.raises(HomeError, match="being fetched"):
        full.store.begin(manifests[1])
