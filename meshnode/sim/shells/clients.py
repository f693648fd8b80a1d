"""What users do with the agents of a run: tasks, and look-ups of peers; some change their minds."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass

from msgspec import structs

from meshnode.errors import MeshError, NoNodeInZone
from meshnode.sim.shells.checks import CALM_S, Checks
from meshnode.sim.shells.life import Life
from meshnode.sim.shells.mesh import BOUND, Node, manifest
from meshnode.sim.shells.process import Process
from meshnode.wire.messages import NodeId, StreamPing, Submit, Submitted, TaskId, TensorSpec

TASK_S, LATE_S = 5.0, 0.5
"""How long a task may take, and how late its answer may come."""
A_SECOND = 1.0
"""Things that the users of each agent do."""
SAYS, ASKS = 0.03, 0.6
"""Statements; with tasks; the rest are look-ups."""


@dataclass(slots=True)
class Clients:
    """Of all agents."""

    seed: int
    checks: Checks

    async def of(self, node: Node, life: Life, process: Process) -> None:
        """As long as the agent lives."""
        dice = random.Random(f"clients {self.seed} {node.index} {node.starts}")
        count = 0
        while True:
            await asyncio.sleep(dice.expovariate(A_SECOND))
            if self.checks.closing:
                return
            count += 1
            drawn = dice.random()
            if drawn < SAYS:
                self._say(life, f"m{node.index}.{node.starts}.{count}")
                continue
            work = self._ask if drawn < ASKS else self._look_up
            life.start_task(work(life, process, random.Random(f"{process.name} {self.seed} {count}")))

    async def _ask(self, life: Life, process: Process, dice: random.Random) -> None:
        """A task; some clients leave before its end."""
        checks, loop = self.checks, life.loop
        node, began = checks.mesh.ids[life.keeper.id], loop.now
        body = dice.randbytes(dice.choice((10, 1000, 100_000)))
        spec = TensorSpec("x", "uint8", (len(body),), len(body))
        request = Submit(task=dice.randbytes(16).hex(), model="m", inputs=(spec,), deadline_s=TASK_S)
        if checks.mesh.zones:
            request = self._bound(request, dice)
        asking = asyncio.ensure_future(life.dispatcher.submit(request, memoryview(body)))
        gone, outcome, by = dice.random() < 0.3, "", node.index
        try:
            if gone:
                await asyncio.wait([asking], timeout=dice.uniform(0.0, 0.1))
                asking.cancel()
            reply = await asking
        except asyncio.CancelledError:
            outcome = "given up"
            if not gone:
                asking.cancel()
                raise
        except MeshError as error:
            outcome = "failed"
            calm = began - checks.calm_since() > CALM_S and not checks.closing
            if isinstance(error, NoNodeInZone):
                checks.findings.counts["no node in zone"] += 1
            elif calm:
                checks.findings.violated(f"task {request.task[:8]} of a calm node {node.index} failed: {error}")
        else:
            outcome = "answered"
            assert isinstance(reply.message, Submitted)
            by = checks.mesh.ids[NodeId(reply.message.node)].index
            if b"".join(map(bytes, reply.body)) != body:
                checks.findings.violated(f"task {request.task[:8]} was answered with something else")
        finally:
            took_s = loop.now - began
            checks.findings.counts[f"tasks {outcome}"] += 1
            checks.note(f"task {request.task[:8]} {outcome} after {took_s:.4f} s", by, node.index)
        if took_s > TASK_S + LATE_S and node.disturbed_at < began:
            checks.findings.violated(f"task {request.task[:8]} of node {node.index} took {took_s:.3f} s, not {TASK_S}")

    def _bound(self, request: Submit, dice: random.Random) -> Submit:
        """For some zone, or with the model that is bound to one; now and then with neither."""
        zones = self.checks.mesh.zones
        places = [zone for zone in (*zones, *(zone.partition("/")[0] for zone in zones)) if zone]
        zone = dice.choice([None, *places, "mars"] if dice.random() < 0.7 else places)
        model = dice.choice(("m", BOUND))
        bounds = (() if zone is None else (zone,)) + ((zones[0],) if model == BOUND else ())
        self.checks.bound[TaskId(request.task)] = bounds
        self.checks.findings.counts["tasks bound"] += bool(bounds)
        return structs.replace(request, model=model, zone=zone)

    def _say(self, life: Life, model: str) -> None:
        """A model is added at this node: a statement that all must come to know."""
        self.checks.findings.counts["statements"] += 1
        with suppress(MeshError):
            life.publish(manifest(model))

    async def _look_up(self, life: Life, process: Process, dice: random.Random) -> None:
        """Somebody wants to reach a peer, and not for long."""
        peer = dice.choice([id for id in self.checks.mesh.ids if id != life.keeper.id])
        try:
            async with asyncio.timeout(dice.choice((0.0, 0.001, 0.003, 0.1, 2.0)) * dice.random()):
                link = await life.pool.link(peer, life.membership.addresses(peer))
                await link.call(StreamPing())
        except (TimeoutError, MeshError):
            self.checks.findings.counts["look-ups failed"] += 1
