"""This project: the agent of the client's machine only submits, so that every task crosses to one peer."""

from __future__ import annotations

from scripts.bench.comparison.contract import Place
from scripts.bench.comparison.systems import agents, meshnode_local


def prepare(place: Place) -> None:
    """Who works, and who submits."""
    agents.prepare(place, ["w0"], place.workers, submitter="desk")


def commands(place: Place) -> list[list[str]]:
    """Both."""
    return [agents.command(place, name, port) for name, port in zip(["w0", "desk"], place.ports, strict=False)]


class Client(meshnode_local.Client):
    """The submitting agent's."""

    name = "desk"
