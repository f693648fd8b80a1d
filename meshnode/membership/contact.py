"""Keeping in touch with members over links: dial them, dial again what broke, ping, even out tables, hang up idle ones.

It reports what it finds to the failure detector and decides nothing about who is alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from meshnode.errors import MeshError, PeerLost, ProtocolError
from meshnode.links.address import Address
from meshnode.links.link import Link
from meshnode.links.pool import Pool
from meshnode.membership import entropy
from meshnode.membership.entropy import News, Told
from meshnode.membership.events import Broken, Event, Merged, StreamAnswered
from meshnode.membership.fingers import fingers
from meshnode.membership.swim import Swim
from meshnode.membership.updates import AnyUpdate
from meshnode.wire.messages import Done, NodeId, StreamPing, ViewAsk, ViewDigest, ViewNews, ViewRows
from meshnode.wire.rng import Rng

log = logging.getLogger(__name__)

REDIALS = 3
TELL_S, CALL_S, IDLE_S = 0.5, 5.0, 90.0
MEET_S, MEET_MAX_S = 0.5, 8.0
RIVAL_LOOKS, RIVAL_LOOK_S = 20, 0.1
IDLE = "idle"
"""What CLOSE says when a link ends because nobody needs it."""
LINKED_MAX = 32
"""Meshes up to this size keep a link between every two nodes; larger ones those of `fingers`, and dial the others when
there is something to say."""
FINGER_S = 10.0
"""A link that is to stay and cannot be had is dialled again after so long, or half of it."""


async def tell(link: Link, *updates: AnyUpdate) -> None:
    """Tell one peer something, over its link."""
    body = entropy.encode(News(tuple(Told(0.0, update) for update in updates)))
    await link.call(ViewNews(), (body,), timeout_s=TELL_S)


@dataclass(slots=True)
class Contact:
    """See the module's docstring.

    Args:
        addresses: where a node may be reached, what worked last first.
        barred: whether a node was revoked.
        now: the monotonic clock.
        feed: tells the failure detector.
        trouble: notes why a peer is not used.
    """

    me: NodeId
    core: Swim
    pool: Pool
    rng: Rng
    addresses: Callable[[NodeId], tuple[Address, ...]]
    barred: Callable[[NodeId], bool]
    now: Callable[[], float]
    feed: Callable[[Event], None]
    trouble: Callable[[NodeId, str], None]
    _dialling: set[NodeId] = field(default_factory=set)
    _syncing: set[NodeId] = field(default_factory=set)
    _due: dict[NodeId, float] = field(default_factory=dict)
    _was_large: bool = False

    async def connect(self, node: NodeId) -> None:
        """Have a link to a member, so that its end is noticed when it comes; the smaller id dials first."""
        if node in self._dialling or self.pool.get(node) is not None:
            return
        self._dialling.add(node)
        try:
            if self.me > node:
                await asyncio.sleep(0.2 + self.rng.random() * 0.2)
            if self.pool.get(node) is None and not self.barred(node):
                await self.pool.link(node, self.addresses(node))
        finally:
            self._dialling.discard(node)

    async def redial(self, node: NodeId) -> None:
        """Its link broke. A refused connection says that the agent is gone; one that comes up, that it is not."""
        await asyncio.sleep(0.05 + self.rng.random() * 0.1)
        for attempt in range(REDIALS):
            row = self.core.roster.get(node)
            if row is None or not row.living or self.pool.get(node) is not None:
                return
            try:
                await self.pool.link(node, self.addresses(node))
                return
            except MeshError as error:
                self.trouble(node, str(error))
                refused = isinstance(error, PeerLost) and error.refused
                self.feed(Broken(node, refused=refused and attempt == 0))
            await asyncio.sleep(0.5 * 2**attempt)

    async def ping(self, node: NodeId, accusation: AnyUpdate | None) -> None:
        """Ping over the link, beside the helpers' datagrams; tell it what is said against it, and hear its word.

        There is no hurry in giving up: an answer that comes after the suspicion began still ends it.
        """
        link = await self.pool.link(node, self.addresses(node))
        against = () if accusation is None else (Told(0.0, accusation),)
        received = await link.call(StreamPing(), (entropy.encode(News(against)),), timeout_s=CALL_S)
        if isinstance(received.message, ViewNews):
            self.feed(Merged(entropy.decode_news(received.body).told))
        self.feed(StreamAnswered(node))

    async def sync(self, node: NodeId) -> None:
        """Even out tables with a node, which is dialled if need be; also with one that is held dead."""
        if node in self._syncing or self.barred(node):
            return
        self._syncing.add(node)
        try:
            await self.even_out(await self.pool.link(node, self.addresses(node)))
        except PeerLost as error:
            self.trouble(node, str(error))
        finally:
            self._syncing.discard(node)

    async def meet(self, link: Link) -> None:
        """A link came up: even out tables over it, and try again when that failed and the link lives.

        The detector's rounds would see to a member; a peer that is not in the table yet has this one chance.
        """
        pause_s = MEET_S
        while True:
            try:
                return await self.even_out(link)
            except ProtocolError:
                raise
            except MeshError as error:
                log.info("tables were not evened out with %s: %s", link.peer.name, error)
            await asyncio.sleep(pause_s * self.rng.uniform(0.5, 1.0))
            if not link.usable:
                return None
            pause_s = min(2 * pause_s, MEET_MAX_S)

    async def even_out(self, link: Link) -> None:
        """Exchange with one peer what the tables do not both hold (see `meshnode.membership.entropy`)."""
        roster = self.core.roster
        received = await link.call(ViewAsk(roster.root), timeout_s=CALL_S)
        if isinstance(received.message, Done):
            self.feed(Merged(()))
            return
        if not isinstance(received.message, ViewDigest):
            raise ProtocolError(f"ViewAsk was answered with {type(received.message).__name__}")
        rows = entropy.rows(roster, received.body)
        received = await link.call(ViewRows(), (entropy.encode(rows),), timeout_s=CALL_S)
        if not isinstance(received.message, ViewNews):
            raise ProtocolError(f"ViewRows was answered with {type(received.message).__name__}")
        news = entropy.decode_news(received.body)
        version = self.core.oneself.version
        self.feed(Merged(news.told))
        given = entropy.wanted(roster, news.wanted, self.age_s)
        if self.core.oneself.version != version:
            # The peer held us for dead, and might not hear the refutation by gossip.
            given = News((*given.told, Told(0.0, self.core.oneself.word)))
        if given.told:
            await link.call(ViewNews(), (entropy.encode(given),), timeout_s=CALL_S)

    async def tell_rival(self, link: Link) -> None:
        """A later start of the peer has a link too: let this earlier one hear the later one's word, if it still lives.

        When both go on raising their start counters, that is a copied home (see `meshnode.membership.oneself`).
        """
        for _ in range(RIVAL_LOOKS):
            row = self.core.roster.get(link.peer.id)
            if row is not None and row.gen > link.peer.boot:
                await tell(link, row.word)
                return
            await asyncio.sleep(RIVAL_LOOK_S)

    def tend(self, now: float) -> list[NodeId]:
        """In a mesh too large for a link between every two: close those that said nothing for a while, and tell to
        whom one has to be made. One that was too large once has not all its links again when it is not any more."""
        large = self.core.roster.living > LINKED_MAX
        self._was_large |= large
        if not self._was_large:
            return []
        kept = fingers(self.me, self.core.roster.living_ids(but=self.me))
        for link in self.pool.links() if large else ():
            if now - link.heartbeat.used_at > IDLE_S and not link.in_flight and link.peer.id not in kept:
                link.hang_up(IDLE, "nothing to say for a while")
        lacking = [node for node in kept if self.pool.get(node) is None and now >= self._due.get(node, now)]
        pauses = {node: now + FINGER_S * self.rng.uniform(0.5, 1.0) for node in lacking}
        self._due = {node: due for node, due in {**self._due, **pauses}.items() if node in kept}
        return lacking

    def age_s(self, node: NodeId) -> float:
        """How long a node has been dead or gone here."""
        return self.core.ledger.age_s(node, self.now())
