"""What must hold in a run of the shells: nobody who is there is held dead, and in the end all see the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from meshnode.catalog.manifest import Manifest
from meshnode.sim.shells.findings import Findings
from meshnode.sim.shells.life import Life
from meshnode.sim.shells.mesh import Mesh, Node
from meshnode.wire.messages import NodeId, TaskId

CALM_S = 30.0
"""A node that nothing was done to for so long must not be held dead by another such, and its tasks succeed."""
LOOKS, LOOK_EVERY_S = 20, 0.1
LASTING = {"Membership._watch", "accept", "Clients.of", "Reach.seek_direct", "Relay._run"}
"""What an agent always has going, or as long as a link is relayed, and its users."""


@dataclass(slots=True)
class Checks:
    """Looks at each view as it changes. `closing` says that the run is over and all may end."""

    findings: Findings
    note: Callable[[str, int, int], None]
    mesh: Mesh = field(init=False)
    closing: bool = False
    bound: dict[TaskId, tuple[str, ...]] = field(default_factory=dict)
    """Tasks, with the zones that they and their models are bound to."""
    _last: dict[tuple[int, int], dict[NodeId, str]] = field(default_factory=dict)

    def disturb(self, nodes: Sequence[Node]) -> None:
        """Something was done to these, or ended."""
        for node in nodes:
            node.disturbed_at = self.mesh.loop.now

    def calm_since(self) -> float:
        """When something was last done to anybody."""
        return max(node.disturbed_at for node in self.mesh.nodes)

    def linked(self, life: Life, peer: NodeId, why: str) -> None:
        """A link of an agent."""
        self.note(why, self.mesh.ids[life.keeper.id].index, self.mesh.ids[peer].index)

    def ran(self, life: Life, task: TaskId) -> None:
        """A task: inside its zones?"""
        if bounds := self.bound.get(task):
            self.findings.counts["bound tasks run"] += 1
            self._inside(life.keeper.id, bounds, f"task {task[:8]} runs on")

    def sent_through(self, life: Life, task: TaskId, relay: NodeId) -> None:
        """A task that came through a member: inside its zones?"""
        self.findings.counts["tasks relayed"] += 1
        if bounds := self.bound.get(task):
            self.findings.counts["bound tasks relayed"] += 1
            self._inside(relay, bounds, f"task {task[:8]} went through")

    def fetched(self, life: Life, model: Manifest) -> None:
        """A model: inside its zone?"""
        if model.zone:
            self._inside(life.keeper.id, (model.zone,), f"model {model.name} is on")

    def _inside(self, who: NodeId, bounds: tuple[str, ...], what: str) -> None:
        node = self.mesh.ids[who]
        for zone in bounds:
            if f"{node.zone}/"[: len(zone) + 1] != f"{zone}/":  # written anew, not asked of what is tested
                self.findings.violated(f"{what} node {node.index} in {node.zone!r}, and is bound to {zone!r}")

    def looked(self, life: Life) -> None:
        """A view changed: nobody who was there all the time is dead in it."""
        me, now = self.mesh.ids[life.keeper.id], self.mesh.loop.now
        last = self._last.setdefault((me.index, me.starts), {})
        for member in life.membership.view():
            other = self.mesh.ids[member.id]
            if last.get(member.id) != member.state:
                last[member.id] = member.state
                self.note(f"holds {member.state}{f': {member.reason}' * bool(member.reason)}", me.index, other.index)
            if member.state == "dead" and other.running is not None:
                self.findings.counts["seen dead"] += 1
                if min(now - me.disturbed_at, now - other.disturbed_at) > CALM_S and not self.closing:
                    self.findings.violated(
                        f"node {me.index} holds node {other.index} dead, which was there all the time"
                    )

    def disagreement(self) -> str:
        """Who sees what is not so; empty when all see the same."""
        nodes, ids = self.mesh.nodes, self.mesh.ids
        up = {id: life for id, node in ids.items() if (life := node.running) is not None}
        wrong = [f"node {node.index} does not run" for node in nodes if node.running is None]
        for id, life in up.items():
            view = life.membership.view()
            wrong += [
                f"node {ids[id].index} holds node {ids[m.id].index} {m.state}{'' if m.usable else ', not usable'}"
                f"{f' ({m.reason})' if m.reason else ''}"
                for m in view
                if (m.id in up) != (m.state == "alive" and m.usable)
            ]
            if len(view) < len(up):
                wrong.append(f"node {ids[id].index} knows {len(view)}")
        if not wrong and len({life.membership._core.roster.root for life in up.values()}) > 1:
            wrong.append("their tables differ")
        if not wrong and len({life.keeper.statements.root_hash for life in up.values()}) > 1:
            wrong.append("their trust sets differ")
        return "; ".join(wrong[:8])

    async def after_quiet(self) -> None:
        """Nothing was asked for a while: nothing may be under way at any agent, or wait for what will not come."""
        least: dict[tuple[int, str], int] = {}
        before = {task for node in self.mesh.nodes for task in _open(node)}
        for _ in range(LOOKS):
            for key, count in self._kept():
                least[key] = min(count, least.get(key, count))
            await asyncio.sleep(LOOK_EVERY_S)
        for (index, what), count in least.items():
            if count:
                self.findings.violated(f"node {index} has nothing to do, and keeps {count} {what}")
        for node in self.mesh.nodes:
            for chain in [waits(task) for task in _open(node) if task in before]:
                tries_again = chain[-1:] == ["sleep"] and self.mesh.network.world.faults.loss > 0
                if not tries_again and not LASTING.intersection(chain):
                    self.findings.violated(f"node {node.index} has nothing to do, and waits in {' > '.join(chain)}")

    def _kept(self) -> Iterator[tuple[tuple[int, str], int]]:
        for node in self.mesh.nodes:
            if (life := node.running) is not None:
                yield (node.index, "tasks of its clients"), life.dispatcher.open
                yield (node.index, "tasks of other nodes"), len(life.serving.runs.tasks)
                yield (node.index, "jobs"), life.execution.busy
                for link in life.pool.links():
                    yield (node.index, f"requests on the link with {link.peer.name}"), link.in_flight


def _open(node: Node) -> list[asyncio.Task[Any]]:
    return node.process.open_tasks() if node.process is not None else []


def waits(task: asyncio.Task[Any]) -> list[str]:
    """What a task is in, from the outside in."""
    chain, inner = list[str](), cast(Any, task.get_coro())
    while inner is not None and hasattr(inner, "__qualname__"):
        chain.append(inner.__qualname__)
        inner = getattr(inner, "cr_await", None)
    return chain
