"""How a peer is reached: directly; through a member when that fails or takes long; and then directly again.

The direct way is always tried, and preferred: a link through a member is only ever a stand-in until it comes up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from meshnode.config import Links
from meshnode.errors import MeshError, PeerLost, PermissionDenied
from meshnode.links.address import Address
from meshnode.links.link import Link
from meshnode.links.relay import Knowledge
from meshnode.links.side import lost
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

log = logging.getLogger(__name__)

STAGGER_S = 0.3
"""The next address of a peer is tried beside the first after so long."""
MEMBERS_ASKED = 8
"""Members asked for a relay, in turn. One that has no link to the peer says so at once, so asking costs a round trip;
asking only three would seldom find the one gateway of a mesh of thirty."""


class Dialling(Protocol):
    """What this needs of the pool."""

    def get(self, peer: NodeId) -> Link | None:
        """The live link to a peer."""
        ...

    def links(self) -> list[Link]:
        """One live link for each peer."""
        ...

    def kept(self, peer: NodeId, kind: str) -> Link | None:
        """The link that stays, of those to a peer."""
        ...

    async def dial(self, address: Address, expected: NodeId | None = None, *, kind: str = "") -> Link:
        """A link to whoever answers at an address."""
        ...

    async def dial_through(self, via: Link, peer: NodeId, kind: str) -> Link:
        """A link through the member at the other end of another one."""
        ...


class Reach:
    """See the module's docstring."""

    def __init__(
        self,
        pool: Dialling,
        settings: Links,
        known: Knowledge,
        rng: Rng,
        *,
        leave: Callable[[Awaitable[Link]], object],
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._known = known
        self._rng = rng
        self._leave = leave
        self._relayed: dict[NodeId, NodeId] = {}
        self._direct: set[NodeId] = set()

    def opened(self, link: Link) -> None:
        """Remember how a peer was reached the last time."""
        if link.via is None:
            self._relayed.pop(link.peer.id, None)
            self._direct.add(link.peer.id)
        else:
            self._relayed[link.peer.id] = link.via.id
            self._direct.discard(link.peer.id)

    async def reach(self, peer: NodeId, addresses: Sequence[Address], kind: str) -> Link:
        """The first way that works. Raises PeerLost, PermissionDenied, ProtocolError."""
        direct = asyncio.ensure_future(self._directly(peer, addresses, kind))
        relayed: asyncio.Future[Link] | None = None
        try:
            await asyncio.wait({direct}, timeout=0.0 if peer in self._relayed else self._settings.relay_after_s)
            held = self._pool.get(peer)
            helped = (held is None or held.via is not None) and self._known.alive(peer)
            if _came(direct) or not helped or self._has_ended(peer, direct) or not (members := self._members(peer)):
                return await direct
            relayed = asyncio.ensure_future(self._through(members, peer, kind))
            ways: set[asyncio.Future[Link]] = {direct, relayed}
            while ways:
                done, ways = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in done:
                    if _came(way):
                        return self._pool.kept(peer, kind) or way.result()
        finally:
            if relayed is not None and not _came(relayed):
                relayed.cancel()
            if not direct.done():
                if relayed is not None and _came(relayed):
                    self._leave(direct)  # it replaces the relayed link when it comes up after all
                else:
                    direct.cancel()
        return _neither(direct, relayed)

    def _has_ended(self, peer: NodeId, direct: asyncio.Future[Link]) -> bool:
        """It was reached directly, and now its machine says that nobody listens: members would hear the same, one after
        the other, while what it had in hand waits to be done elsewhere. Once: a firewall may say so as well."""
        error = direct.exception() if direct.done() and not direct.cancelled() else None
        if not isinstance(error, PeerLost) or not error.refused or peer not in self._direct:
            return False
        self._direct.discard(peer)
        return True

    async def _directly(self, peer: NodeId, addresses: Sequence[Address], kind: str) -> Link:
        """Try the addresses, each a little after the one before; the first that proves to be the peer wins."""
        if not addresses:
            raise lost(f"no address of node {peer[:8]} is known", sent=False)
        failures: list[MeshError] = []
        dials: set[asyncio.Task[Link]] = set()
        try:
            for address in [*addresses, None]:
                if address is not None:
                    dials.add(asyncio.ensure_future(self._pool.dial(address, peer, kind=kind)))
                timeout = STAGGER_S if address is not None and address != addresses[-1] else None
                while dials:
                    done, dials = await asyncio.wait(dials, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        error = task.exception()
                        if error is None:
                            return self._pool.kept(peer, kind) or task.result()
                        if not isinstance(error, MeshError):
                            raise error
                        failures.append(error)
                    if timeout is not None:
                        break
        finally:
            for task in dials:
                task.cancel()
            await asyncio.gather(*dials, return_exceptions=True)
        refused = next((error for error in failures if isinstance(error, PermissionDenied)), None)
        if refused is not None:
            raise refused
        gone = any(isinstance(error, PeerLost) and error.refused for error in failures)
        raise lost(f"node {peer[:8]} cannot be reached ({'; '.join(map(str, failures))})", sent=False, refused=gone)

    def _members(self, peer: NodeId) -> list[Link]:
        """Who may relay: members with a direct link, of the peer's zone first, then the last that did."""
        links = [link for link in self._pool.links() if link.via is None and not link.silent and link.peer.id != peer]
        self._rng.shuffle(links)
        links.sort(key=lambda it: (-self._known.kin(peer, it.peer.id), it.peer.id != self._relayed.get(peer)))
        return links[:MEMBERS_ASKED]

    async def _through(self, members: list[Link], peer: NodeId, kind: str) -> Link:
        failures = []
        for via in members:
            try:
                return await self._pool.dial_through(via, peer, kind)
            except MeshError as error:
                failures.append(f"{via.peer.name}: {error}")
        raise lost("; ".join(failures[:3]), sent=False)

    async def seek_direct(self, link: Link) -> None:
        """While this relayed link is the one in use, try the direct way now and then."""
        peer, wait_s = link.peer.id, self._settings.relay_retry_s
        while True:
            await asyncio.sleep(wait_s * self._rng.uniform(0.75, 1.25))
            wait_s = min(wait_s * 2, self._settings.relay_retry_max_s)
            if self._pool.get(peer) is not link:
                return
            try:
                await self._directly(peer, self._known.addresses(peer), "")
                return
            except MeshError as error:
                log.debug("%s is still reached through a member: %s", link.peer.name, error)


def _came(way: asyncio.Future[Link]) -> bool:
    return way.done() and not way.cancelled() and way.exception() is None


def _neither(direct: asyncio.Future[Link], relayed: asyncio.Future[Link] | None) -> Link:
    """What went wrong directly, and that members could not help either."""
    error = direct.exception()
    if relayed is not None and isinstance(error, PeerLost):
        raise lost(f"{error}; nor through a member ({relayed.exception()})", sent=False, refused=error.refused)
    return direct.result()
