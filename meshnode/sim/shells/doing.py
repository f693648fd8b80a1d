"""Does the faults of a list to the shells of a run; each can be left out, so that a failure can be made smaller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meshnode.sim.faults import Fault, Weather
from meshnode.sim.shells.checks import Checks
from meshnode.sim.shells.life import Life
from meshnode.sim.shells.mesh import Mesh, Node

KINDS = (
    "kill",
    "power",
    "leave",
    "hasty",
    "pause",
    "sleep",
    "split",
    "isolate",
    "one-way",
    "loss",
    "disorder",
    "clock",
)
APART = "apart"
"""Two that reach each other only through a third."""
HASTE_S = 0.05


@dataclass(slots=True)
class Doing:
    """To one mesh."""

    mesh: Mesh
    checks: Checks
    weather: Weather

    async def join(self, node: Node, at: float) -> None:
        """A machine comes in late."""
        await asyncio.sleep(at)
        self.checks.disturb(self.mesh.nodes)
        await self.mesh.join(node)
        self.checks.findings.counts["late joins"] += 1
        self.checks.disturb([node])

    async def do(self, fault: Fault) -> None:
        """From its begin to its end."""
        await asyncio.sleep(fault.at)
        self.checks.findings.counts[fault.kind] += 1
        node = self.mesh.nodes[fault.nodes[0]]
        everyone = [self.mesh.nodes[i] for i in fault.nodes]
        if fault.kind in ("split", "loss", "disorder"):
            everyone = self.mesh.nodes
        self.checks.disturb(everyone)
        end = await self._begin(node, fault)
        self._note(f"fault {fault.kind} of {fault.nodes}", everyone)
        await asyncio.sleep(fault.lasts_s)
        end()
        self._note(f"end of {fault.kind}", everyone)
        self.checks.disturb(everyone)

    async def _begin(self, node: Node, fault: Fault) -> Callable[[], object]:
        match fault.kind:
            case "split" | "isolate" | "one-way" | "apart":
                return self.weather.wall(fault)
            case "loss" | "disorder":
                return self.weather.storm(fault)
            case "clock":
                node.wall_offset_s += (fault.amount - 0.5) * 2 * 365 * 86400
                if node.life is not None:
                    node.life.wall_offset_s = node.wall_offset_s
            case _ if node.running is not None:
                return await self._to(node, node.running, fault)
        return lambda: None

    async def _to(self, node: Node, life: Life, fault: Fault) -> Callable[[], object]:
        """To one node that runs; returns how it ends."""
        mesh, process = self.mesh, life.process
        match fault.kind:
            case "kill" | "power":
                mesh.end(node, power=fault.kind == "power")
                return lambda: mesh.begin(node)
            case "leave":
                await mesh.leave(node)
                return lambda: mesh.begin(node)
            case "hasty":
                await mesh.leave(node)
                mesh.begin(node)
                await asyncio.sleep(fault.amount * HASTE_S)
                if node.running is not None:
                    await mesh.leave(node)
                    mesh.begin(node)
            case "pause":
                mesh.loop.hold(process)
                return lambda: mesh.loop.release(process)
            case "sleep":
                began, node.station.asleep = mesh.loop.now, True
                mesh.loop.hold(process)

                def wake() -> None:
                    node.station.asleep = False
                    mesh.loop.release(process, slept_s=mesh.loop.now - began)

                return wake
        return lambda: None

    def _note(self, what: str, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self.checks.note(what, node.index, node.index)
