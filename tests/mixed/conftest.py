"""Rigs of which every other agent is of the previous release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import meshnode
from tests.mesh.rig import Agent, Rig, rig
from tests.mixed import previous

ORDERS = ("old founder", "new founder")


class Halves(Mapping[str, list[str]]):
    """The program of an agent by its name: each that is started first gets the other one than the agent before."""

    def __init__(self, order: str) -> None:
        self._old: dict[str, bool] = {}
        self._first_is_old = order == "old founder"

    def __getitem__(self, name: str) -> list[str]:
        if name not in self._old:
            self._old[name] = self._first_is_old == (len(self._old) % 2 == 0)
        if self._old[name]:
            return previous.command()
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, old in self._old.items() if old])

    def __len__(self) -> int:
        return sum(self._old.values())


def halved(it: Rig, order: str) -> Rig:
    """The same rig, of two versions."""
    it.programs = Halves(order)
    return it


@pytest.fixture(params=ORDERS)
def mesh_rig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """As in tests/mesh; agents are of the previous release and of this one in turn."""
    with rig(tmp_path) as it:
        yield halved(it, request.param)


@pytest.fixture(scope="module", params=ORDERS)
def pair(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[meshnode.Client, Agent]]:
    """A client of one agent, and the other agent, which is of the other version."""
    with rig(tmp_path_factory.mktemp("types")) as it:
        a, b = halved(it, request.param).mesh(2)
        with meshnode.Client(a.home) as client:
            yield client, b
