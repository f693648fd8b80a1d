"""All nodes of a simulated run, and what is noted about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from meshnode.config import Membership as Settings
from meshnode.membership.events import Changed
from meshnode.membership.roster import State
from meshnode.membership.rules import OURS, Rules
from meshnode.sim.node import Node
from meshnode.sim.world import World
from meshnode.wire.messages import NodeId


@dataclass(frozen=True, slots=True)
class Change:
    """What one node came to believe about another: indexes, and the simulated second."""

    at: float
    observer: int
    subject: int
    state: State


class Watcher(Protocol):
    """Is told of everything (see `meshnode.sim.checks`)."""

    def changed(self, observer: Node, change: Changed) -> None:
        """A node believes something else."""
        ...

    def acted(self, node: Node) -> None:
        """A node has handled something."""
        ...

    def sent(self, node: Node, nbytes: int) -> None:
        """A datagram left."""
        ...


@dataclass(slots=True)
class Mesh:
    """All nodes of a run. `streams`: whether links work; without them only datagrams do."""

    world: World
    settings: Settings
    rules: Rules = OURS
    streams: bool = True
    nodes: list[Node] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    checks: Watcher | None = None
    keep_changes: bool = True
    isolations: int = 0
    syncs: int = 0
    living: int = 0
    on_change: Callable[[Change], None] | None = None
    _of: dict[NodeId, list[Node]] = field(default_factory=dict)

    def grow(self, n: int, *, knowing: bool = True) -> list[Node]:
        """Add nodes; `knowing`: all know all, as after a long calm."""
        fresh = [Node(self, len(self.nodes) + i) for i in range(n)]
        for node in fresh:
            self.add(node)
        if knowing:
            whole = self.nodes[0].core.roster
            for node in self.nodes[1:]:
                own = node.core.roster.get(node.core.me)
                assert own is not None, "a node always holds itself"
                whole.put(own)
            for node in self.nodes[1:]:
                node.core.roster.copy_from(whole)
        for node in fresh:
            node.core.ledger.news.drop(node.core.me)
            node.wake()
        return fresh

    def add(self, node: Node) -> None:
        """Make a node part of the run."""
        self.nodes.append(node)
        self._of.setdefault(node.core.me, []).append(node)
        self.living = sum(node.up for node in self.nodes) if len(self.nodes) < 1000 else len(self.nodes)

    def some(self, k: int) -> list[Node]:
        """Nodes at random."""
        return self.world.rng.sample(self.nodes, min(k, len(self.nodes)))

    def at(self, peer: NodeId) -> list[Node]:
        """The nodes with an id: one, but for a copied home."""
        return self._of[peer]

    def index_of(self, peer: NodeId) -> int:
        """The first node with an id."""
        return self._of[peer][0].index

    def changed(self, observer: Node, effect: Changed) -> None:
        """A node believes something else than before."""
        if self.checks is not None:
            self.checks.changed(observer, effect)
        row = effect.row
        if row.state == effect.before:
            return
        change = Change(self.world.now, observer.index, self.index_of(row.id), row.state)
        if self.keep_changes:
            self.changes.append(change)
        if self.on_change is not None:
            self.on_change(change)

    def states(self, subject: int) -> list[State]:
        """What the running nodes hold of one."""
        wanted = self.nodes[subject].core.me
        rows = [node.core.roster.get(wanted) for node in self.nodes if node.up and node.index != subject]
        return [row.state for row in rows if row is not None]

    def agreed(self) -> bool:
        """Whether all running nodes hold one table, in which exactly the running ones are alive."""
        return not self.disagreement()

    def disagreement(self) -> str:
        """Who holds whom for what it is not; empty when all agree."""
        up = [node for node in self.nodes if node.up]
        there = {node.core.me for node in up}
        wrong = [
            f"node {node.index} holds node {self.index_of(row.id)} {row.state}"
            for node in up
            for row in node.core.roster
            if (row.id in there) != (row.state == "alive") or row.state == "suspect"
        ]
        wrong += [
            f"node {node.index} knows {len(node.core.roster)}" for node in up if len(node.core.roster) < len(there)
        ]
        if not wrong and len({node.core.roster.root for node in up}) > 1:
            wrong.append("their tables differ")
        return "; ".join(wrong[:6])
