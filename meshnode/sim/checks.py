"""What must hold in every run, after everything that any node did. A violation says who, when and what."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from meshnode.membership.events import Changed
from meshnode.sim.mesh import Mesh
from meshnode.sim.node import Node
from meshnode.wire.messages import NodeId

DATAGRAM_BYTES_MAX = 1200
CALM_S = 30.0
"""A node that nothing was done to for so long, seen by another such node, must not be declared dead."""


@dataclass(slots=True)
class Checks:
    """The invariants of a run, and counts that show that something was tried at all."""

    mesh: Mesh
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    disturbed_at: dict[int, float] = field(default_factory=dict)
    """When something was last done to a node; who is not in it was left alone."""
    _versions: dict[tuple[int, int, NodeId], tuple[int, int]] = field(default_factory=dict)
    _born: dict[tuple[int, int, NodeId], int] = field(default_factory=dict)
    _issued: dict[NodeId, tuple[int, int]] = field(default_factory=dict)

    def changed(self, observer: Node, change: Changed) -> None:
        """A node believes something else."""
        row, before = change.row, change.before
        if row.state != before:
            self.counts[row.state] += 1
        if row.id == observer.core.me:
            if row.state in ("suspect", "dead"):
                self._violated(observer, f"holds itself {row.state}")
            return
        key = (observer.index, observer.life, row.id)
        held = self._versions.get(key)
        if held is not None and row.version < held:
            self._violated(observer, f"went back from {held} to {row.version} of {self._name(row.id)}")
        if (
            held is not None
            and before in ("dead", "left")
            and row.state == "alive"
            and row.version <= held
            and row.born <= self._born.get(key, 0)
        ):
            self._violated(observer, f"raised {self._name(row.id)} from the dead without a newer word")
        self._versions[key] = row.version
        self._born[key] = row.born
        issued = max(self._issued.get(row.id, (0, 0)), *(node.core.oneself.version for node in self.mesh.at(row.id)))
        if row.version > issued:
            self._violated(observer, f"holds {row.version} of {self._name(row.id)}, which only ever said {issued}")
        if row.state == "dead":
            self._judge(observer, row.id)

    def acted(self, node: Node) -> None:
        """A node has handled something."""
        ledger, me = node.core.ledger, node.core.me
        self._issued[me] = max(node.core.oneself.version, self._issued.get(me, (0, 0)))
        if len(ledger.news) > len(ledger.roster):
            self._violated(node, "has more news than rows")
        if node.core.oneself.yielded:
            self.counts["yielded"] += 1

    def sent(self, node: Node, nbytes: int) -> None:
        """A datagram left, of so many bytes with its seal."""
        if nbytes > DATAGRAM_BYTES_MAX:
            self._violated(node, f"sent a datagram of {nbytes} bytes")

    def disturbed(self, *nodes: int) -> None:
        """Something was done to these nodes."""
        for node in nodes:
            self.disturbed_at[node] = self.mesh.world.now

    def _judge(self, observer: Node, subject: NodeId) -> None:
        node = self.mesh.at(subject)[0]
        now = self.mesh.world.now
        calm = all(now - self.disturbed_at.get(i, -CALM_S) >= CALM_S for i in (observer.index, node.index))
        if node.up and calm and len(self.mesh.at(subject)) == 1:
            self._violated(observer, f"declared {self._name(subject)} dead, which was there all the time")

    def _name(self, node: NodeId) -> str:
        return f"node {self.mesh.index_of(node)}"

    def _violated(self, node: Node, what: str) -> None:
        if len(self.violations) < 20:
            self.violations.append(f"{self.mesh.world.now:.3f} s: node {node.index} {what}")
