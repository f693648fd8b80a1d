"""P24 in the simulator of the shells: nothing that is bound to a zone runs, lies or passes outside of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from meshnode.edge import zoning
from meshnode.sim.shells.run import Outcome, run
from meshnode.tasks.knowing import Knowing
from meshnode.tasks.serving import Serving

PLACES = ("eu/berlin", "eu/paris", "us", "eu/berlin")
SEEDS, NODES, SECONDS = 3, 8, 120.0


def seed(number: int) -> Outcome:
    return run(number, nodes=NODES, seconds=SECONDS, zones=PLACES)


def test_nothing_leaves_its_zone() -> None:
    """Agents die, sleep, are cut off in pairs and talk through others: all bound tasks stay where they may be."""
    counts = Counter[str]()
    for number in range(SEEDS):
        outcome = seed(number)
        counts.update(outcome.counts)
        assert () == outcome.violations, str(outcome)
    wanted = ("tasks bound", "bound tasks run", "tasks relayed", "bound tasks relayed", "no node in zone")
    assert [] == [what for what in wanted if not counts[what]], "it was tried"


def _submitter_forgets(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("meshnode.tasks.knowing.inside", lambda zone, bounds: True)


def _executor_forgets(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Serving, "_check_zone", lambda self, what, bounds: None)


def _ways_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Knowing, "_left", lambda self, link, wanted: "")
    patch.setattr(zoning, "check_given", lambda *_: None)


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ((_submitter_forgets, _executor_forgets), "runs on"),
        ((_ways_are_forgotten,), "went through"),
    ],
)
def test_planted_leaks_are_found(monkeypatch: pytest.MonkeyPatch, planted: Any, found: str) -> None:
    """Without the checks of both sides, or without those of the way, some seed says which task got where."""
    for plant in planted:
        plant(monkeypatch)
    assert any(found in what for number in range(6) for what in seed(number).violations)


def test_either_side_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submitter that forgets zones is refused by the nodes; nothing runs outside."""
    _submitter_forgets(monkeypatch)
    assert [] == [what for what in seed(0).violations if "runs on" in what]


def test_a_relayed_link_that_comes_up_while_an_agent_stops_leaves_nothing() -> None:
    """It went on looking for a direct way after its agent had stopped."""
    assert () == seed(221).violations
