"""Campaigns: many seeds with all faults, checkers that catch planted bugs, and runs that can be had again."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from meshnode.membership.ledger import Ledger
from meshnode.membership.oneself import Oneself
from meshnode.membership.roster import Roster
from meshnode.membership.updates import Alive
from meshnode.sim import campaign
from meshnode.sim.faults import KINDS
from meshnode.sim.node import Node
from tests.sim.test_membership import mesh_of, run_until

SEEDS = 40
TRIED = (*KINDS, "suspect", "dead", "left", "lost", "duplicated", "overtaken", "syncs", "isolations")


def test_no_seed_breaks_an_invariant() -> None:
    """Crashes, splits, sleep, loss, restored backups, clocks that jump: everything holds, and all agree at the end."""
    counts = Counter[str]()
    for seed in range(SEEDS):
        outcome = campaign.run(seed)
        counts.update(outcome.counts)
        assert () == outcome.violations, str(campaign.smaller(outcome))
    assert [] == [what for what in TRIED if not counts[what]], "it was tried"


def _resurrect(patch: pytest.MonkeyPatch) -> None:
    wins = Roster._wins
    patch.setattr(
        Roster,
        "_wins",
        lambda self, row, update: (
            (row is not None and isinstance(update, Alive) and row.state == "dead") or wins(self, row, update)
        ),
    )


def _never_refute(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Oneself, "heard", lambda self, update: "nothing")


def _raise_others(patch: pytest.MonkeyPatch) -> None:
    def accuse(self: Ledger, now: float, row: object, effects: list[object]) -> None:
        raised = replace(row, inc=row.inc + 1)  # type: ignore[attr-defined, type-var]
        self.roster.put(raised)
        effects.append(ledger_changed(raised))

    from meshnode.membership.events import Changed

    def ledger_changed(row: object) -> Changed:
        return Changed(row, "alive")  # type: ignore[arg-type]

    patch.setattr(Ledger, "accuse", accuse)


@pytest.mark.parametrize("plant", [_resurrect, _never_refute, _raise_others])
def test_a_planted_bug_is_caught(plant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkers check: each of these would go unseen otherwise. The failure is made smaller, too."""
    plant(monkeypatch)  # type: ignore[operator]
    caught = next((o for o in map(campaign.run, range(200)) if o.violations), None)
    assert caught is not None
    assert len(campaign.smaller(caught).faults) <= len(caught.faults)


def test_a_seed_is_one_run_whatever_the_hash_seed() -> None:
    """The same datagrams at the same times, in another process, with sets and dicts hashed otherwise."""
    code = "from meshnode.sim import campaign; print(campaign.run(5, nodes=10, seconds=40, traced=True).trace)"
    traces = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, check=True, text=True
        ).stdout
        for hash_seed in ("0", "1", "77")
    }
    assert 1 == len(traces)
    assert 33 == len(traces.pop())


@pytest.mark.parametrize("seed", range(4))
def test_a_copied_home_is_found_out(seed: int) -> None:
    """Two nodes with one key: within ten seconds both know, one of them yields, and nobody else is harmed."""
    mesh = mesh_of(10, seed)
    mesh.world.run(5.0)
    first = mesh.nodes[3]
    second = Node(mesh, 10, key=first._key)
    second.disk.write(first.disk.gen)
    mesh.add(second)
    second.wake()
    second.sync(mesh.nodes[0])
    run_until(mesh, lambda: second.core.oneself.yielded, 10.0)
    assert second.core.oneself.born == first.core.oneself.twin
    assert not first.core.oneself.yielded
    mesh.world.run(mesh.world.now + 20.0)
    before = first.core.oneself.version
    mesh.world.run(mesh.world.now + 20.0)
    assert before == first.core.oneself.version, "they do not go on outdoing each other"
    assert {"alive"} == {row.state for node in mesh.nodes[:10] for row in node.core.roster}
