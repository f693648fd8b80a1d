"""The failure detector in a simulated network: the product's own core, seeded; a failure prints its seed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshnode.config import LAN
from meshnode.sim.mesh import Mesh
from meshnode.sim.world import Faults, World

SEEDS = range(5)


def mesh_of(n: int, seed: int, faults: Faults | None = None, *, streams: bool = True) -> Mesh:
    print(f"seed {seed}")
    world = World(seed, faults=faults or Faults())
    mesh = Mesh(world, LAN.membership, streams=streams)
    mesh.grow(n)
    return mesh


def run_until(mesh: Mesh, condition: Callable[[], bool], within_s: float) -> float:
    """Simulated seconds until the condition holds."""
    began = mesh.world.now
    mesh.world.run(began + within_s, condition)
    assert condition(), f"not within {within_s} simulated seconds (seed {mesh.world.seed})"
    return mesh.world.now - began


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_happens_in_a_calm(seed: int) -> None:
    """Fifty nodes, a minute, no faults: nobody is suspected."""
    mesh = mesh_of(50, seed)
    mesh.world.run(60.0)
    assert [] == [change for change in mesh.changes if change.state != "alive"]
    assert mesh.world.sent > 50 * 60, "they did probe each other"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crash_is_known_by_all(seed: int) -> None:
    """A crashed node is dead for every other of 30 within 20 s, suspected before, and nobody else is."""
    mesh = mesh_of(30, seed)
    mesh.world.run(5.0)
    mesh.nodes[7].crash()
    run_until(mesh, lambda: set(mesh.states(7)) == {"dead"}, 20.0)
    assert {7} == {
        subject
        for _, _, subject, state in [(c.at, c.observer, c.subject, c.state) for c in mesh.changes]
        if state in ("suspect", "dead")
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restart_wins_over_its_death(seed: int) -> None:
    """A node that was declared dead is alive for all soon after its return, by its higher start counter."""
    mesh = mesh_of(20, seed)
    mesh.nodes[3].crash()
    run_until(mesh, lambda: set(mesh.states(3)) == {"dead"}, 30.0)
    mesh.nodes[3].restart([mesh.nodes[0]])
    run_until(mesh, lambda: set(mesh.states(3)) == {"alive"}, 40.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_heavy_loss_kills_nobody(seed: int) -> None:
    """30 % of all datagrams lost, links still there: no node is declared dead in two minutes."""
    mesh = mesh_of(30, seed, Faults(loss=0.3, duplicate=0.05))
    mesh.world.run(120.0)
    assert mesh.world.lost > 1000
    assert [] == [change for change in mesh.changes if change.state == "dead"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_split_heals(seed: int) -> None:
    """Two halves that took each other for dead agree again within a minute of one exchange of views between them."""
    faults = Faults(cut=lambda a, b: (a < 10) != (b < 10))
    mesh = mesh_of(20, seed, faults)
    mesh.world.run(60.0)
    assert {"dead"} <= set(mesh.states(0)), "the far half holds it dead"
    faults.cut = None
    mesh.nodes[0].sync(mesh.nodes[15])
    run_until(mesh, lambda: all(set(mesh.states(i)) == {"alive"} for i in range(20)), 60.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_paused_node_does_not_take_others_for_dead(seed: int) -> None:
    """A process that was stopped for 8 s and goes on declares nobody dead, and is alive for all again."""
    mesh = mesh_of(20, seed)
    mesh.world.run(3.0)
    mesh.nodes[4].pause()
    mesh.world.run(11.0)
    mesh.nodes[4].resume()
    run_until(mesh, lambda: set(mesh.states(4)) == {"alive"}, 20.0)
    mesh.world.run(mesh.world.now + 20.0)
    assert [] == [c for c in mesh.changes if c.observer == 4 and c.state == "dead"]


def test_the_same_seed_is_the_same_run() -> None:
    """A seed names one run: the same changes at the same times."""
    runs = []
    for _ in range(2):
        mesh = mesh_of(15, 42, Faults(loss=0.2))
        mesh.nodes[2].crash()
        mesh.world.run(30.0)
        runs.append((mesh.changes, mesh.world.sent))
    assert runs[0] == runs[1]
