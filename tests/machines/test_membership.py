"""The failure detector among five nodes that crash, return, leave, lie and are cut off, against what was really done.

The nodes are the simulator's, with the product's core in each; `meshnode.sim.checks` looks on at every step.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshnode.config import LAN
from meshnode.membership import updates
from meshnode.membership.entropy import Told
from meshnode.membership.events import Merged, Received
from meshnode.sim.checks import Checks
from meshnode.sim.mesh import Mesh
from meshnode.sim.node import Node, sign_with
from meshnode.sim.world import Faults, World

NODES = 5
SETTLED_S = 60.0
numbers = st.integers(0, NODES - 1)
pauses = st.sampled_from([0.0, 0.3, 2.0, 10.0, 40.0])
KINDS = ("suspect", "dead", "alive", "left")
versions = st.tuples(st.sampled_from([0, 1, 2, 2**32 - 1]), st.sampled_from([0, 1, 2**32 - 1]))


class Members(RuleBasedStateMachine):
    """The model: who runs, who said goodbye, between whom nothing passes, and who lies."""

    @initialize(seed=st.integers(0, 1000), loss=st.sampled_from([0.0, 0.1]))
    def begin(self, seed: int, loss: float) -> None:
        self.walls: set[frozenset[int]] = set()
        world = World(seed, faults=Faults(loss=loss, cut=lambda a, b: frozenset((a, b)) in self.walls))
        self.mesh = Mesh(world, LAN.membership)
        self.mesh.grow(NODES)
        self.checks = self.mesh.checks = Checks(self.mesh)
        self.gone: set[int] = set()

    @property
    def up(self) -> list[Node]:
        return [node for node in self.mesh.nodes if node.up]

    def disturb(self, *nodes: int) -> None:
        if not self.walls:
            self.checks.disturbed(*nodes)

    @precondition(lambda self: len(self.up) > 2)
    @rule(number=numbers, then_s=pauses)
    def crash(self, number: int, then_s: float) -> None:
        if self.mesh.nodes[number].up:
            self.disturb(number)
            self.mesh.nodes[number].crash()
            self.time(then_s)

    @precondition(lambda self: len(self.up) > 2)
    @rule(number=numbers, then_s=pauses)
    def leave(self, number: int, then_s: float) -> None:
        if self.mesh.nodes[number].up:
            self.disturb(number)
            self.mesh.nodes[number].leave()
            self.gone.add(number)
            self.time(then_s)

    @rule(number=numbers, then_s=pauses)
    def restart(self, number: int, then_s: float) -> None:
        if not self.mesh.nodes[number].up:
            self.disturb(*range(NODES))  # it may not reach anybody at once
            self.mesh.nodes[number].restart(self.up)
            self.gone.discard(number)
            self.time(then_s)

    @rule(one=numbers, other=numbers, then_s=pauses)
    def wall(self, one: int, other: int, then_s: float) -> None:
        if one == other:
            return
        self.walls ^= {frozenset((one, other))}
        self.disturb(*range(NODES))
        if self.walls:  # as long as one stands nobody is left alone
            self.checks.disturbed_at = dict.fromkeys(range(NODES), float("inf"))
        self.time(then_s)

    @rule(
        to=numbers,
        about=numbers,
        by=numbers,
        version=versions,
        kind=st.sampled_from(["suspect", "dead", "alive", "left"]),
    )
    def lie(self, to: int, about: int, by: int, version: tuple[int, int], kind: str) -> None:
        """A member tells another something about a third: signed by itself, of any version."""
        nodes = self.mesh.nodes
        if len({to, about, by}) < 3 or not nodes[to].up:
            return
        subject, liar = nodes[about].core.oneself, nodes[by].core.oneself
        sign = sign_with(liar.key)
        if kind == "alive":
            said: updates.AnyUpdate = updates.alive(sign, subject.key, *version, 1)
        elif kind == "left":
            said = updates.left(sign, subject.key, *version, "x")
        else:
            make = updates.suspect if kind == "suspect" else updates.dead
            said = make(sign, subject.raw, *version, liar.raw)
        nodes[to].receive(Received(nodes[by].core.me, updates.Gossip((said,))))
        nodes[to].receive(Merged((Told(0.0, said),)))

    @rule(seconds=pauses)
    def time(self, seconds: float) -> None:
        self.mesh.world.run(self.mesh.world.now + seconds)

    @invariant()
    def nothing_is_believed_that_nobody_said(self) -> None:
        if not hasattr(self, "mesh"):
            return
        assert [] == self.checks.violations
        for node in self.up:
            for row in node.core.roster:
                other = self.mesh.index_of(row.id)
                assert row.version <= self.mesh.nodes[other].core.oneself.version
                assert row.state != "left" or not self.mesh.nodes[other].up or row.version < self._version(other)
            own = node.core.roster.get(node.core.me)
            assert own is not None
            assert own.state == "alive"

    def _version(self, number: int) -> tuple[int, int]:
        version: tuple[int, int] = self.mesh.nodes[number].core.oneself.version
        return version

    def teardown(self) -> None:
        """When all walls are down, all that run agree: exactly they are alive, and the rest is dead or left."""
        if not hasattr(self, "mesh"):
            return
        self.walls.clear()
        self.disturb(*range(NODES))
        self.mesh.world.faults.loss = 0.0
        self.mesh.world.run(self.mesh.world.now + SETTLED_S, self.mesh.agreed)
        assert "" == self.mesh.disagreement()
        for node in self.up:
            for number in self.gone:
                row = node.core.roster.get(self.mesh.nodes[number].core.me)
                assert row is None or row.state in ("left", "dead")
        self.nothing_is_believed_that_nobody_said()


Members.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestMembers = Members.TestCase
