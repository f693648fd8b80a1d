"""Runs of many seeds with all faults: every invariant at every step, agreement at the end, and small failures.

A run is a function of its seed. Faults come in its first half; in the second there are none, and all nodes must come
to hold the same table, in which exactly the running ones are alive.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshnode.config import LAN
from meshnode.membership.rules import OURS, Rules
from meshnode.sim.checks import Checks
from meshnode.sim.faults import Doing, Fault, draw
from meshnode.sim.mesh import Mesh
from meshnode.sim.world import Faults, World

NODES, SECONDS, FAULTS = 20, 120.0, 12


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one seed. `trace` is a hash of all that was sent, when it was asked for."""

    seed: int
    faults: tuple[Fault, ...]
    violations: tuple[str, ...]
    counts: Counter[str] = field(default_factory=Counter)
    trace: str = ""

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.violations)} violations", *self.violations, "faults:"]
        return "\n  ".join([*lines, *map(str, self.faults)])


def run(
    seed: int,
    *,
    nodes: int = NODES,
    seconds: float = SECONDS,
    faults: Sequence[Fault] | None = None,
    rules: Rules = OURS,
    traced: bool = False,
) -> Outcome:
    """One seed; with `faults` these and no others."""
    world = World(seed, faults=Faults(), trace=hashlib.blake2b(digest_size=16) if traced else None)
    mesh = Mesh(world, LAN.membership, rules=rules, keep_changes=False)
    checks = Checks(mesh)
    mesh.checks = checks
    mesh.grow(nodes)
    chosen = list(faults) if faults is not None else draw(seed, nodes, seconds / 2, FAULTS)
    Doing(mesh, checks, chosen)
    world.run(seconds)
    if not mesh.agreed():
        checks.violations.append(f"{seconds:.0f} s: no agreement. {mesh.disagreement()}")
    counts = checks.counts
    counts.update(
        sent=world.sent, lost=world.lost, duplicated=world.duplicated, overtaken=world.overtaken, syncs=mesh.syncs
    )
    counts["isolations"] = mesh.isolations
    trace = world.trace.hexdigest() if world.trace is not None else ""
    return Outcome(seed, tuple(chosen), tuple(checks.violations), counts, trace)


def smaller(failed: Outcome, *, nodes: int = NODES, seconds: float = SECONDS, rules: Rules = OURS) -> Outcome:
    """The same failure with as few faults as will do: each is left out in turn while it still fails."""
    kept = failed
    for fault in failed.faults:
        fewer = [other for other in kept.faults if other is not fault]
        tried = run(failed.seed, nodes=nodes, seconds=seconds, faults=fewer, rules=rules)
        if tried.violations:
            kept = tried
    return kept
