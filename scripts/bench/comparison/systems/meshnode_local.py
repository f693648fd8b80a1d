"""This project: the Python client and the agent of its machine."""

from __future__ import annotations

import meshnode
from scripts.bench.comparison.contract import Array, Place
from scripts.bench.comparison.systems import agents


def prepare(place: Place) -> None:
    """A mesh of one."""
    agents.prepare(place, ["n0"], place.workers)


def commands(place: Place) -> list[list[str]]:
    """The agent; it starts its worker itself."""
    return [agents.command(place, "n0", place.ports[0])]


class Client:
    """`meshnode.AsyncClient`."""

    name = "n0"

    def __init__(self, place: Place) -> None:
        self.mesh = meshnode.AsyncClient(agents.home(place, self.name))

    async def start(self) -> None:
        """Connect."""
        await self.mesh.connect()

    async def infer(self, model: str, x: Array) -> Array:
        """Wherever the mesh decides."""
        y: Array = (await self.mesh.infer(model, {"x": x}))["y"]
        return y

    async def close(self) -> None:
        """Disconnect."""
        await self.mesh.close()
