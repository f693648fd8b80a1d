"""Keeping in touch with members over links: dial them, dial again what broke, even out views now and then.

It reports what it finds to the failure detector and decides nothing about who is alive.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from meshnode.config import Membership as Settings
from meshnode.errors import MeshError, PeerLost
from meshnode.links.link import Link
from meshnode.links.pool import Address, Pool
from meshnode.membership.events import Broken, Event, StreamAnswered
from meshnode.membership.swim import Swim
from meshnode.wire.messages import NodeId, RosterSync, StreamPing, pack_batch
from meshnode.wire.rng import Rng

log = logging.getLogger(__name__)

REDIALS = 3
TELL_S = 0.5


async def tell(link: Link, update: bytes) -> None:
    """Tell one peer one thing, over its link."""
    await link.call(RosterSync(full=False), (pack_batch([update]),), timeout_s=TELL_S)


@dataclass(slots=True)
class Contact:
    """See the module's docstring.

    Args:
        addresses: where a node may be reached, what worked last first.
        barred: whether a node was revoked.
        feed: tells the failure detector.
        trouble: notes why a peer is not used.
        even_out: exchanges views over a link.
    """

    me: NodeId
    core: Swim
    pool: Pool
    settings: Settings
    rng: Rng
    addresses: Callable[[NodeId], tuple[Address, ...]]
    barred: Callable[[NodeId], bool]
    feed: Callable[[Event], None]
    trouble: Callable[[NodeId, str], None]
    even_out: Callable[[Link], Awaitable[None]]
    _dialling: set[NodeId] = field(default_factory=set)

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
            if row is None or row.state in ("dead", "left") or self.pool.get(node) is not None:
                return
            try:
                await self.pool.link(node, self.addresses(node))
                return
            except MeshError as error:
                self.trouble(node, str(error))
                refused = isinstance(error, PeerLost) and error.refused
                self.feed(Broken(node, refused=refused and attempt == 0))
            await asyncio.sleep(0.5 * 2**attempt)

    async def ping(self, node: NodeId) -> None:
        """Ping over the link, beside the helpers' datagrams."""
        link = await self.pool.link(node, self.addresses(node))
        await link.call(StreamPing(), timeout_s=self.settings.probe_timeout_s * 2)
        self.feed(StreamAnswered(node))

    async def even_out_now_and_then(self) -> None:
        """Anti-entropy with one random peer each interval, less often in large meshes."""
        while True:
            scale = max(1.0, math.log2(max(self.core.nodes, 1)) - 5)
            await asyncio.sleep(self.settings.sync_interval_s * scale * self.rng.uniform(0.7, 1.3))
            if links := self.pool.links():
                try:
                    await self.even_out(self.rng.sample(links, 1)[0])
                except MeshError as error:
                    log.debug("views were not evened out: %s", error)

    async def reconnect_now_and_then(self) -> None:
        """A verdict never forbids a dial: members that are missing are tried again, for ever."""
        while True:
            await asyncio.sleep(self.settings.reconnect_interval_s * self.rng.uniform(0.5, 1.5))
            linked = {self.me, *(link.peer.id for link in self.pool.links())}
            rows = [row for row in self.core.roster if row.id not in linked and row.state != "left"]
            missing = [row.id for row in rows if not self.barred(row.id)]
            if missing:
                node = self.rng.sample(missing, 1)[0]
                try:
                    await self.pool.link(node, self.addresses(node))
                except MeshError as error:
                    self.trouble(node, str(error))
