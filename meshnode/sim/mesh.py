"""All nodes of a simulated run, and what is noted about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from meshnode.config import Membership as Settings
from meshnode.membership.roster import Row, State
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


@dataclass(slots=True)
class Mesh:
    """All nodes of a run. `streams`: whether links work; without them only datagrams do."""

    world: World
    settings: Settings
    rules: Rules = OURS
    streams: bool = True
    nodes: list[Node] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    checked: Callable[[Node], None] | None = None
    """Called after everything that a node did."""
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

    def at(self, peer: NodeId) -> list[Node]:
        """The nodes with an id: one, but for a copied home."""
        return self._of[peer]

    def index_of(self, peer: NodeId) -> int:
        """The first node with an id."""
        return self._of[peer][0].index

    def changed(self, observer: Node, row: Row, before: State | None) -> None:
        """A node believes something else than before."""
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
        up = [node for node in self.nodes if node.up]
        roots = {node.core.roster.root for node in up}
        return len(roots) == 1 and all(self._is_whole(node, up) for node in up[:1])

    def _is_whole(self, node: Node, up: list[Node]) -> bool:
        alive = {row.id for row in node.core.roster if row.state == "alive"}
        return alive == {other.core.me for other in up}
