"""One node of the simulated world: the product's failure detector, wired to the world instead of to sockets.

Signatures are keyed hashes, which no other node of the world can make for another: the cores get them through the same
callables as in an agent, and Ed25519 would only cost time here.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from meshnode.config import Membership as Settings
from meshnode.membership.events import Changed, Effect, Event, Merged, PingStream, Received, Send, StreamAnswered
from meshnode.membership.roster import State
from meshnode.membership.swim import Swim
from meshnode.membership.updates import SPKI_PREFIX
from meshnode.sim.world import World
from meshnode.wire.messages import NodeId

STREAM_S = 0.004


def id_text(raw: bytes) -> NodeId:
    """The node id of 32 bytes."""
    return NodeId(base64.b32encode(raw).decode().lower().rstrip("="))


def sign_with(key: bytes) -> Callable[[bytes], bytes]:
    """A stand-in for the private half of `key`."""
    return lambda message: hashlib.blake2b(message, key=key).digest()


def verify(spki: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a stand-in signature is right."""
    return hashlib.blake2b(message, key=spki[len(SPKI_PREFIX) :]).digest() == signature


@dataclass(slots=True)
class Mesh:
    """All nodes of a run.

    `changes` records what each node came to believe: (time, observer, subject, state).
    """

    world: World
    settings: Settings
    streams: bool = True
    """Whether links work; without them only datagrams do."""
    nodes: list[Node] = field(default_factory=list)
    by_id: dict[NodeId, Node] = field(default_factory=dict)
    changes: list[tuple[float, int, int, State]] = field(default_factory=list)

    def grow(self, n: int) -> None:
        """Add nodes that know all others, as after a long calm."""
        fresh = [Node(self, len(self.nodes) + i) for i in range(n)]
        self.nodes += fresh
        for node in self.nodes:
            node.know(self.nodes)
        for node in fresh:
            node.wake()

    def states(self, subject: int) -> list[State]:
        """What the running nodes hold of one."""
        wanted = self.nodes[subject].core.me
        rows = [node.core.roster.get(wanted) for node in self.nodes if node.up and node.index != subject]
        return [row.state for row in rows if row is not None]


class Node:
    """A running agent's detector, or one that crashed or is paused."""

    def __init__(self, mesh: Mesh, index: int, gen: int = 1) -> None:
        self.mesh = mesh
        self.index = index
        self.up = True
        self.paused = False
        self._key = hashlib.sha256(b"node %d" % index).digest()
        self._timer = 0
        self.core = self._born(gen)
        mesh.by_id[self.core.me] = self

    def _born(self, gen: int) -> Swim:
        world = self.mesh.world
        return Swim(
            self._key,
            gen,
            settings=self.mesh.settings,
            rng=world.rng,
            sign=sign_with(self._key),
            verify=verify,
            id_text=id_text,
            now=world.now,
        )

    def know(self, others: list[Node]) -> None:
        """Hold the others' own words, without making news of them."""
        for other in others:
            if other is not self:
                row = other.core.roster.get(other.core.me)
                assert row is not None, "a node always holds itself"
                self.core.roster.put(row)

    def wake(self) -> None:
        """Begin to run."""
        self._arm()
        self._even_out_later()

    def crash(self) -> None:
        """Stop without a word."""
        self.up = False

    def restart(self, seeds: list[Node]) -> None:
        """Come back with a higher start counter, and even out views with a node that runs."""
        assert not self.up, "only what crashed is restarted"
        gen = self.core.version[0] + 1
        self.core = self._born(gen)
        self.up = True
        for seed in seeds:
            self.even_out(seed)
        self._arm()

    def even_out(self, other: Node) -> None:
        """Anti-entropy over a link, both ways."""
        other.feed(Merged(tuple(self.core.roster.news())))
        version = self.core.version
        self.feed(Merged(tuple(other.core.roster.news())))
        if self.core.version != version:
            other.feed(Merged((self.core.word,)))

    def _even_out_later(self) -> None:
        """Anti-entropy with one random node that is held alive, each interval, as the agent does it."""
        world, interval_s = self.mesh.world, self.mesh.settings.sync_interval_s

        def act() -> None:
            alive = [row.id for row in self.core.roster if row.state == "alive" and row.id != self.core.me]
            if alive and self.up and not self.paused and self.mesh.streams:
                other = self.mesh.by_id[world.rng.choice(alive)]
                cut = world.faults.cut(self.index, other.index) or world.faults.cut(other.index, self.index)
                if other.up and not other.paused and not cut:
                    self.even_out(other)
            self._even_out_later()

        world.at(world.now + interval_s * world.rng.uniform(0.7, 1.3), act)

    def feed(self, event: Event | None) -> None:
        """One event into the core; run what it wants done."""
        if not self.up:
            return
        for effect in self.core.handle(self.mesh.world.now, event):
            self._do(effect)
        self._arm()

    def _do(self, effect: Effect) -> None:
        mesh = self.mesh
        match effect:
            case Send(peer, packet):
                to = mesh.by_id[peer]
                event = Received(self.core.me, packet)
                mesh.world.send(self.index, to.index, to.receive, event)
            case PingStream(peer):
                to = mesh.by_id[peer]
                cut = mesh.world.faults.cut
                reached = to.up and not to.paused and not cut(self.index, to.index) and not cut(to.index, self.index)
                if mesh.streams and reached:
                    mesh.world.at(mesh.world.now + STREAM_S, lambda: self.feed(StreamAnswered(peer)))
            case Changed(row, before):
                if row.state != before:
                    mesh.changes.append((mesh.world.now, self.index, mesh.by_id[row.id].index, row.state))

    def receive(self, event: Event) -> None:
        """A packet arrives; a paused node finds it when it goes on."""
        if self.paused:
            self.mesh.world.at(self.mesh.world.now + 0.05, lambda: self.receive(event))
        else:
            self.feed(event)

    def _arm(self) -> None:
        due = self.core.next_deadline()
        if due is None or not self.up:
            return
        self._timer += 1
        token = self._timer
        self.mesh.world.at(due, lambda: self._ring(token))

    def _ring(self, token: int) -> None:
        if token != self._timer or not self.up:
            return
        if self.paused:
            self.mesh.world.at(self.mesh.world.now + 0.05, lambda: self._ring(token))
        else:
            self.feed(None)
