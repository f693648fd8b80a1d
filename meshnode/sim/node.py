"""One node of the simulated world: the product's failure detector, wired to the world instead of to sockets.

Signatures are keyed hashes, which no other node of the world can make for another: the cores get them through the same
callables as in an agent, and Ed25519 would only cost time here.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from meshnode.membership import entropy, updates
from meshnode.membership.entropy import Told
from meshnode.membership.events import (
    Changed,
    Effect,
    Event,
    Isolated,
    Leaving,
    Merged,
    PingStream,
    Reborn,
    Received,
    Send,
    StreamAnswered,
    Sync,
    Woke,
)
from meshnode.membership.oneself import Oneself
from meshnode.membership.swim import Swim
from meshnode.membership.updates import SPKI_PREFIX
from meshnode.trust.sealing import OVERHEAD_BYTES
from meshnode.wire.messages import NodeId

if TYPE_CHECKING:
    from meshnode.sim.mesh import Mesh

UDP_IP_BYTES = 28
STREAM_OVERHEAD_BYTES = 100
"""TCP/IP, TLS record and frame headers of a small message."""
WALL_S = 1_800_000_000
LOOK_S = 2.0
"""A node that is alone looks for the others about so often."""
LINKED_MAX = 32
"""Up to so many nodes hold links with each other; in larger meshes a stream is dialled first."""


@lru_cache(maxsize=65536)
def id_text(raw: bytes) -> NodeId:
    """The node id of 32 bytes."""
    return NodeId(base64.b32encode(raw).decode().lower().rstrip("="))


def sign_with(key: bytes) -> Callable[[bytes], bytes]:
    """A stand-in for the private half of `key`."""
    return lambda message: hashlib.blake2b(message, key=key).digest()


def verify(spki: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a stand-in signature is right."""
    return hashlib.blake2b(message, key=spki[len(SPKI_PREFIX) :]).digest() == signature


class Disk:
    """What a node keeps: its start counter. A write that is not yet synced is lost in a crash, and one to a full disk
    at once."""

    def __init__(self) -> None:
        self.gen = 0
        self.full = False
        self._synced = 0

    def write(self, gen: int, *, synced: bool = True) -> None:
        """Keep the counter."""
        if self.full:
            return
        self.gen = gen
        if synced:
            self._synced = gen

    def crash(self) -> None:
        """What was not synced is gone."""
        self.gen = self._synced


class Node:
    """A running agent's detector, or one that crashed, is paused, sleeps, or cannot use its network."""

    def __init__(self, mesh: Mesh, index: int, *, key: bytes | None = None) -> None:
        self.mesh = mesh
        self.index = index
        self.up = True
        self.paused = False
        self.blocked = False
        self.isolated = False
        self.disk = Disk()
        self._key = key or hashlib.sha256(b"node %d" % index).digest()
        self._armed = math.inf
        self.life = 0
        self.wall_offset_s = 0.0
        self.said_bytes = 0
        self._inbox: list[Event] = []
        self._outbox: list[Callable[[], None]] = []
        self.core = self._born()

    def _born(self) -> Swim:
        world = self.mesh.world
        self.disk.write(self.disk.gen + 1)
        wall_ms = int((WALL_S + world.now + self.wall_offset_s) * 1000)
        born = wall_ms << 16 | self.index + 1
        return Swim(
            Oneself(self._key, self.disk.gen, born, sign_with(self._key)),
            settings=self.mesh.settings,
            rules=self.mesh.rules,
            rng=world.rng,
            verify=verify,
            id_text=id_text,
            now=world.now,
        )

    # --- life and faults ---

    def wake(self) -> None:
        """Begin to run."""
        self._arm()

    def crash(self) -> None:
        """Stop without a word."""
        self.up = False
        self.disk.crash()
        self._inbox.clear()
        self._outbox.clear()

    def leave(self) -> None:
        """Say goodbye and stop."""
        self.feed(Leaving("stop"))
        self.up = False

    def restart(self, seeds: list[Node] | None = None) -> None:
        """Come back with a higher start counter, and look for the others: first for these, or for any.

        With an empty list the home remembers nobody and nothing is heard of others: they must find it. Where the disk
        is full no agent starts.
        """
        assert not self.up, "only what stopped is restarted"
        if self.disk.full:
            return
        self.core = self._born()
        self.up, self.paused, self.blocked, self.isolated = True, False, False, False
        self._armed = math.inf
        self.life += 1
        self._arm()
        if seeds != []:
            self._look(seeds or self.mesh.some(3), self.life)

    def _look(self, at: list[Node], life: int) -> None:
        """Even out views with these; again and again while nobody is found, as discovery does."""
        if life != self.life or not self.up:
            return
        if not self.paused and not self.blocked:
            for other in at:
                if other is not self:
                    self.sync(other)

        def again() -> None:
            if self.core.roster.living < 2:
                self._look(self.mesh.some(3), life)

        self.mesh.world.at(self.mesh.world.now + LOOK_S * self.mesh.world.rng.uniform(0.5, 1.5), again)

    def pause(self) -> None:
        """The process stands still: nothing is read, no timer rings."""
        self.paused = True

    def resume(self, *, timers_first: bool = False) -> None:
        """It goes on. `timers_first`: its event loop looks at its timers before it reads what has come."""
        self.paused = False
        if timers_first and self.core.next_deadline() is not None:
            self.feed(None)
        waiting, self._inbox = self._inbox, []
        for event in waiting:
            self.feed(event)
        self._armed = math.inf
        self._arm()

    def sleep(self) -> None:
        """The machine sleeps: as paused, and what is sent to it is lost."""
        self.paused = True
        self.blocked = True

    def rise(self) -> None:
        """The machine wakes, and its agent is told."""
        self.paused = self.blocked = False
        self._inbox.clear()
        self._armed = math.inf
        self.feed(Woke())

    def block(self) -> None:
        """Its network stands still while its timers run; nothing is lost."""
        self.blocked = True

    def unblock(self) -> None:
        """What waited goes out and comes in."""
        self.blocked = False
        out, self._outbox = self._outbox, []
        for send in out:
            send()
        waiting, self._inbox = self._inbox, []
        for event in waiting:
            self.feed(event)

    # --- events ---

    def feed(self, event: Event | None) -> None:
        """One event into the core; run what it wants done."""
        if not self.up:
            return
        mesh = self.mesh
        effects = self.core.handle(mesh.world.now, event)
        for effect in effects:
            self._do(effect)
        if effects and mesh.checks is not None:
            mesh.checks.acted(self)
        self._arm()

    def receive(self, event: Event) -> None:
        """Something arrives; a paused or blocked node finds it when it goes on, a sleeping one never."""
        if not self.up or (self.paused and self.blocked):
            return
        if self.paused or self.blocked:
            self._inbox.append(event)
        else:
            self.feed(event)

    def _do(self, effect: Effect) -> None:
        mesh = self.mesh
        match effect:
            case Send(peer, packet):
                nbytes = len(updates.encode(packet)) + OVERHEAD_BYTES
                if mesh.checks is not None:
                    mesh.checks.sent(self, nbytes)
                self._out(lambda: self._send(peer, packet, nbytes + UDP_IP_BYTES))
            case PingStream(peer, accusation):
                self._out(lambda: self._ping(peer, accusation))
            case Sync(peer):
                self._out(lambda: self._sync_with(peer))
            case Changed():
                mesh.changed(self, effect)
            case Reborn(gen):
                self.disk.write(gen)
            case Isolated(now):
                self.isolated = now
                mesh.isolations += now

    def _out(self, send: Callable[[], None]) -> None:
        if self.blocked:
            self._outbox.append(send)
        else:
            send()

    def _send(self, peer: NodeId, packet: updates.AnyPacket, nbytes: int) -> None:
        event = Received(self.core.me, packet)
        for to in self.mesh.at(peer):
            self.mesh.world.send(self.index, to.index, to.receive, event, nbytes)

    def say(self, peer: NodeId, packet: updates.AnyPacket) -> None:
        """Send a packet that its core knows nothing of."""
        nbytes = len(updates.encode(packet)) + OVERHEAD_BYTES + UDP_IP_BYTES
        self.said_bytes += nbytes
        self._send(peer, packet, nbytes)

    # --- streams ---

    def _stream(self, to: Node, deliver: Callable[[], None], *, nbytes: int = 0, dial: bool = False) -> None:
        def arrive() -> None:
            if to.up and not to.paused and not to.blocked:
                deliver()
            elif to.up and not (to.paused and to.blocked):
                self.mesh.world.at(self.mesh.world.now + 0.2, arrive)  # the kernel keeps it until it is read

        dial = dial and self.mesh.living > LINKED_MAX
        self.mesh.world.stream(self.index, to.index, arrive, nbytes=nbytes + STREAM_OVERHEAD_BYTES, dial=dial)

    def _ping(self, peer: NodeId, accusation: updates.AnyUpdate | None) -> None:
        if not self.mesh.streams:
            return
        for to in self.mesh.at(peer):

            def asked(to: Node = to) -> None:
                if accusation is not None:
                    to.feed(Merged((Told(0.0, accusation),)))
                word = Told(0.0, to.core.oneself.word)
                to._stream(self, lambda: self._pinged(peer, word))

            self._stream(to, asked, dial=True)

    def _pinged(self, peer: NodeId, word: Told) -> None:
        if not self.core.oneself.yielded:
            self.feed(Merged((word,)))
            self.feed(StreamAnswered(peer))

    def _sync_with(self, peer: NodeId) -> None:
        for to in self.mesh.at(peer):
            self.sync(to)

    def sync(self, to: Node) -> None:
        """Anti-entropy over a stream, in the steps and with the messages of the product."""
        if not self.mesh.streams:
            return
        mesh, mine = self.mesh, self.core.roster
        root = mine.root
        mesh.syncs += 1

        def asked() -> None:
            if to.core.roster.root == root:
                to._stream(self, lambda: self.feed(Merged(())))
                return
            digest = entropy.digest(to.core.roster)
            to._stream(self, lambda: compared(digest), nbytes=len(digest))

        def compared(digest: bytes) -> None:
            rows = entropy.rows(self.core.roster, digest)
            self._stream(to, lambda: answered(rows), nbytes=len(entropy.encode(rows)))

        def answered(rows: entropy.Rows) -> None:
            news = entropy.answer(to.core.roster, rows, to.age)
            to._stream(self, lambda: learnt(news), nbytes=len(entropy.encode(news)))

        def learnt(news: entropy.News) -> None:
            version = self.core.oneself.version
            self.feed(Merged(news.told))
            given = entropy.wanted(self.core.roster, news.wanted, self.age)
            if self.core.oneself.version != version:
                given = entropy.News((*given.told, Told(0.0, self.core.oneself.word)))
            if given.told:
                self._stream(to, lambda: to.feed(Merged(given.told)), nbytes=len(entropy.encode(given)))

        self._stream(to, asked, dial=True)

    def age(self, node: NodeId) -> float:
        """How long a node has been dead or gone here."""
        return self.core.ledger.age_s(node, self.mesh.world.now)

    # --- the timer ---

    def _arm(self) -> None:
        due = self.core.next_deadline()
        if due is None or not self.up or due >= self._armed:
            return
        self._armed = due
        life = self.life
        self.mesh.world.at(due, lambda: self._ring(due, life))

    def _ring(self, due: float, life: int) -> None:
        if life != self.life or due != self._armed or not self.up:
            return
        self._armed = math.inf
        if self.paused:
            return
        wanted = self.core.next_deadline()
        if wanted is not None and wanted <= self.mesh.world.now:
            self.feed(None)
        else:
            self._arm()
