"""Members who lie: some of a mesh accuse everybody else, to everybody, without a pause, and know every version at once.

Nothing of it is forged: the liars are members, their signatures are right, and otherwise they do all that a member
does. What counts is what the honest believe of the honest. Seconds are simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meshnode.membership import updates
from meshnode.membership.roster import raw_id
from meshnode.membership.rules import OURS, Rules
from meshnode.membership.updates import AnyUpdate, Gossip
from meshnode.sim.experiments import calm
from meshnode.sim.mesh import Change, Mesh
from meshnode.sim.node import Node, sign_with

LIE_EVERY_S = 0.2
A_DATAGRAM = 6
"""So many lies fit into one of 1,200 bytes."""
LOOK_EVERY_S = 0.5


@dataclass(slots=True)
class Believed:
    """What honest members held of honest members who ran all the time.

    `alive`: the share of pairs that were alive, over all looks; `refutations`: of the node with the most, a second;
    `health`: the worst score of any at any look.
    """

    deaths: int = 0
    suspicions: int = 0
    alive: float = 0.0
    refutations: float = 0.0
    health: int = 0
    bytes_per_s: float = 0.0
    lies: int = 0


@dataclass(slots=True)
class Flood:
    """`liars` begin to lie; the others are watched."""

    mesh: Mesh
    liars: Sequence[Node]
    found: Believed = field(default_factory=Believed)
    honest: list[Node] = field(init=False)
    _alive: int = 0
    _looked: int = 0

    def __post_init__(self) -> None:
        self.honest = [node for node in self.mesh.nodes if node not in self.liars]
        self.mesh.on_change = self._changed
        self._lie()
        self._look()

    def end(self, seconds: float) -> Believed:
        """What came of so many seconds."""
        self.found.alive = self._alive / self._looked
        self.found.refutations = max(node.core.oneself.inc for node in self.honest) / seconds
        return self.found

    def _changed(self, change: Change) -> None:
        liars = [node.index for node in self.liars]
        if change.observer not in liars and change.subject not in liars:
            self.found.deaths += change.state == "dead"
            self.found.suspicions += change.state == "suspect"

    def _lie(self) -> None:
        for liar in self.liars:
            lies: list[AnyUpdate] = []
            for node in self.honest:
                lies += _accusations(liar, node)
            for to in self.honest:
                for start in range(0, len(lies), A_DATAGRAM):
                    liar.say(to.core.me, Gossip(tuple(lies[start : start + A_DATAGRAM])))
            self.found.lies += len(lies) * len(self.honest)
        self.mesh.world.at(self.mesh.world.now + LIE_EVERY_S, self._lie)

    def _look(self) -> None:
        for node in self.honest:
            self.found.health = max(self.found.health, node.core.health.score)
            for other in self.honest:
                row = node.core.roster.get(other.core.me)
                if other is not node:
                    self._looked += 1
                    self._alive += row is not None and row.state == "alive"
        self.mesh.world.at(self.mesh.world.now + LOOK_EVERY_S, self._look)


def _accusations(liar: Node, of: Node) -> list[AnyUpdate]:
    """That it is suspect, and dead, at its very newest version."""
    sign, by = sign_with(liar.core.oneself.key), raw_id(liar.core.oneself.key)
    accused = raw_id(of.core.oneself.key)
    return [make(sign, accused, *of.core.oneself.version, by) for make in (updates.suspect, updates.dead)]


def flood(n: int, liars: int, seed: int, *, seconds: float = 60.0, rules: Rules = OURS) -> Believed:
    """So many of n members lie for so long; bytes are those of all nodes, less the lies themselves."""
    mesh = calm(n, seed, rules=rules)
    world = mesh.world
    world.run(3.0)
    lying = Flood(mesh, world.rng.sample(mesh.nodes, liars))
    before = world.sent_bytes + world.stream_bytes
    world.run(world.now + seconds)
    found = lying.end(seconds)
    lies_bytes = sum(node.said_bytes for node in lying.liars)
    found.bytes_per_s = (world.sent_bytes + world.stream_bytes - before - lies_bytes) / n / seconds
    return found


def crash_in_a_flood(n: int, liars: int, seed: int, *, rules: Rules = OURS) -> float:
    """Seconds from a real crash, in the midst of lies, until every honest member holds the crashed one dead."""
    mesh = calm(n, seed, rules=rules)
    world = mesh.world
    world.run(3.0)
    lying = Flood(mesh, world.rng.sample(mesh.nodes, liars))
    world.run(world.now + 20.0)
    victim = lying.honest[0]
    victim.crash()
    began = world.now
    left = {node.index for node in lying.honest} - {victim.index}

    def changed(change: Change) -> None:
        if change.subject == victim.index and change.state == "dead":
            left.discard(change.observer)

    mesh.on_change = changed
    world.run(began + 120.0, lambda: not left)
    return world.now - began if not left else float("inf")
