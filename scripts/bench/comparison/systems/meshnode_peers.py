"""This project: one agent that only submits and two peers that work; kill -9 takes a whole peer."""

from __future__ import annotations

from scripts.bench.comparison import counting
from scripts.bench.comparison.contract import Place
from scripts.bench.comparison.systems import agents, meshnode_local

NAMES = ["w0", "w1", "desk"]


def prepare(place: Place) -> None:
    """Each worker runs one task at a time."""
    agents.prepare(place, NAMES[:2], 1, submitter=NAMES[2])


def commands(place: Place) -> list[list[str]]:
    """All three."""
    return [agents.command(place, name, port) for name, port in zip(NAMES, place.ports, strict=False)]


def victims(busiest: int) -> list[int]:
    """The agent too, and first: a machine that dies takes both."""
    return [int(counting.fields(busiest)[1]), busiest]


class Client(meshnode_local.Client):
    """The submitting agent's."""

    name = NAMES[2]
