"""Runs of the real asyncio shells on a virtual clock: faults from a seed, clients that change their minds, checks.

What the cores' simulator cannot show is looked for here: tasks that wait for ever, locks that a cancellation leaves
taken, callbacks in an unlucky order, connections that only one side believes in. A run is a function of its seed:
some machines join late and faults come in its first half, then all must agree, answer, and stop leaving nothing.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meshnode.sim.faults import Fault, Weather, draw
from meshnode.sim.shells.checks import Checks
from meshnode.sim.shells.clients import LATE_S, TASK_S, Clients
from meshnode.sim.shells.doing import APART, KINDS, Doing
from meshnode.sim.shells.findings import Findings
from meshnode.sim.shells.hearing import bury, listening
from meshnode.sim.shells.loop import Deadlock, SimLoop
from meshnode.sim.shells.mesh import Mesh
from meshnode.sim.shells.stations import Network
from meshnode.sim.shells.trace import Row, Trace
from meshnode.sim.world import Faults

NODES, SECONDS, FAULTS = 8, 120.0, 10
MEMORY = Path("/dev/shm")  # noqa: S108 - homes that live for a second need no disk
LATE = 4
"""One in so many joins late."""
START_S = 0.2
AGREE_S, FOUND_S = 20.0, 75.0
"""Background loss may make a suspicion at any moment: so long is waited for one at which there is none; and so long
after the last trouble for one whom discovery, which pauses for up to a minute, has to find again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one seed."""

    seed: int
    nodes: int
    seconds: float
    faults: tuple[Fault, ...]
    violations: tuple[str, ...]
    counts: Counter[str]
    digest: str
    """Of its whole trace: the same seed gives the same."""
    trace: tuple[Row, ...]
    views: tuple[str, ...]
    node_seconds: float
    cpu_s: float
    messages: int

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.violations)} violations", *self.violations, "faults:"]
        return "\n  ".join([*lines, *map(str, self.faults), "at the end:", *self.views])


async def _all_of_it(mesh: Mesh, checks: Checks, doing: Doing, faults: Sequence[Fault], seconds: float) -> list[str]:
    """The run itself; returns what each node saw before all of them stop."""
    nodes, dice = len(mesh.nodes), random.Random(f"joins {mesh.seed}")
    early = [node for node in mesh.nodes if node.joined]
    work = [doing.join(node, dice.uniform(1.0, seconds / 4)) for node in mesh.nodes[len(early) :]]
    for node in early:
        mesh.begin(node)
        await asyncio.sleep(START_S)
    underway = [asyncio.ensure_future(it) for it in (*work, *map(doing.do, faults))]
    await asyncio.sleep(max(0.0, seconds - mesh.loop.now))
    await asyncio.gather(*underway)
    until, why = max(mesh.loop.now + AGREE_S, checks.calm_since() + FOUND_S), checks.disagreement()
    while why and mesh.loop.now < until:
        await asyncio.sleep(0.1)
        why = checks.disagreement()
    if why:
        checks.findings.violated(f"no agreement of {nodes}: {why}")
    views = [str(node) for node in mesh.nodes]
    checks.closing = True
    await asyncio.sleep(TASK_S + 2 * LATE_S)
    await checks.after_quiet()
    await asyncio.gather(*(mesh.leave(node) for node in mesh.nodes if node.life is not None))
    return views


def run(
    seed: int,
    *,
    nodes: int = NODES,
    seconds: float = SECONDS,
    loss: float = 0.0,
    faults: Sequence[Fault] | None = None,
    zones: Sequence[str] = (),
    traced: bool = False,
) -> Outcome:
    """One seed; with `faults` these and no others; `traced` keeps all rows of the trace.

    With `zones` the nodes lie in these, in turn, and most tasks are bound to one; pairs are walled off, too.
    """
    chosen = list(faults) if faults is not None else draw(seed, nodes, seconds / 2, FAULTS, KINDS)
    if zones and faults is None:
        chosen += _walls(seed, nodes, seconds)
    began, views = time.process_time(), list[str]()
    network = Network(seed, Faults(loss=loss), Trace(whole=traced))
    loop = SimLoop(network)
    findings = Findings(lambda: loop.now)
    checks = Checks(findings, network.note)
    clients = Clients(seed, checks)
    gc.freeze()  # what was there before is none of ours, and need not be looked through again and again
    with _homes() as folder, listening() as heard:
        mesh = checks.mesh = Mesh(seed, Path(folder), loop, network, findings, checks, clients.of, zones)
        mesh.found(nodes, nodes // LATE)
        doing = Doing(mesh, checks, Weather(network.world.faults))
        try:
            views = loop.run_until_complete(_all_of_it(mesh, checks, doing, chosen, seconds))
        except Deadlock as error:
            findings.violated(str(error))
        mesh.left()
        gc.collect()
        for complaint in (*loop.complaints, *heard):
            findings.violated(complaint)
    outcome = Outcome(
        seed,
        nodes,
        seconds,
        tuple(chosen),
        tuple(findings.violations),
        findings.counts,
        network.trace.digest(),
        network.trace.rows(),
        tuple(views),
        nodes * loop.now,
        time.process_time() - began,
        network.messages,
    )
    bury(mesh)
    loop.close()
    gc.unfreeze()
    return outcome


def _homes() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=f"meshnode-sim-{os.getpid()}-", dir=MEMORY if MEMORY.is_dir() else None)


def _walls(seed: int, nodes: int, seconds: float) -> list[Fault]:
    """Pairs that reach each other only through others, for long enough that others are asked."""
    dice = random.Random(f"walls {seed}")
    pairs = [tuple(sorted(dice.sample(range(nodes), 2))) for _ in range(nodes)]
    return [Fault(APART, dice.uniform(1.0, seconds / 2), seconds / 4, pair, 0.0) for pair in pairs]


def smaller(failed: Outcome, *, loss: float = 0.0, zones: Sequence[str] = ()) -> Outcome:
    """The same failure with as few faults as will do: each is left out in turn while it still fails."""
    kept = failed
    for fault in failed.faults:
        fewer = [other for other in kept.faults if other is not fault]
        tried = run(failed.seed, nodes=failed.nodes, seconds=failed.seconds, loss=loss, faults=fewer, zones=zones)
        if tried.violations:
            kept = tried
    return kept
