"""What follows from discovery for the links: addresses that were found are dialled, and links do not outlive theirs."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from meshnode.edge import renewal
from meshnode.edge.node import Node
from meshnode.errors import MeshError
from meshnode.links.address import Address, plain
from meshnode.links.link import Link
from meshnode.membership.candidates import ANNOUNCED
from meshnode.membership.chores import Chores
from meshnode.membership.interfaces import Network
from meshnode.membership.view import FoundBy
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

LEAVING_S = 10.0
"""Who said goodbye is not dialled for so long, also when nobody else is left."""


STRANGER_S = 10.0
"""A peer is let in on its certificate, and its grant comes with the exchange of statements; or else it must go."""


class Meeting:
    """Between discovery, which only knows addresses, and the pool, which only knows links."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._finding: dict[Address | None, FoundBy] = {}
        self._chores = Chores()

    async def attempt(self, address: Address, peer: NodeId | None, found_by: FoundBy) -> bool:
        """Dial an address that discovery found; whether a member is there."""
        node = self._node
        linked = node.pool.links()
        if address in node.addresses() or any(address == link.peer.address for link in linked):
            return True
        if peer is not None and (node.pool.get(peer) is not None or node.keeper.statements.revoked(peer) is not None):
            return node.pool.get(peer) is not None
        member = node.membership.member(peer) if peer is not None else None
        if member is not None and member.state == "left" and node.pool.machine.now() - member.since < LEAVING_S:
            return False  # it drains and still listens: a link now would only be cut
        if (
            found_by in ANNOUNCED
            and linked
            and any(m.usable and address in m.addresses for m in node.membership.view())
        ):
            return True  # a member that needs no finding
        self._finding[address] = found_by
        try:
            await node.pool.dial(address, peer)
        except MeshError as error:
            log.info("%s at %s:%s (%s): %s", "nobody" if peer is None else peer[:8], *address, found_by, error)
            return False
        finally:
            self._finding.pop(address, None)
        return True

    def link_up(self, link: Link) -> None:
        """A link came up; when it was dialled from here, say by what its peer was found."""
        if link.dialled and link.peer.address in self._finding:
            self._node.membership.found(link.peer.id, self._finding[link.peer.address])
        renewal.link_up(self._node)
        if self._stranger(link):
            self._chores.start(self._see_off, link)

    async def stop(self) -> None:
        """See nobody off any more."""
        await self._chores.stop()

    def _stranger(self, link: Link) -> bool:
        return self._node.keeper.statements.grant(link.peer.id) is None

    async def _see_off(self, link: Link) -> None:
        """Hang up on who has a batch token's certificate and does not join: it would be here without being counted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STRANGER_S):
                await link.closed.wait()
        if link.usable and self._stranger(link):
            self._node.pool.drop(link.peer.id, "permission_denied", "this node has not joined the mesh")

    def moved(self, network: Network) -> None:
        """This machine has other addresses: dial anew where a link stands on one that is gone."""
        for link in self._node.pool.links():
            if link.socket is not None and plain(link.socket.getsockname())[0] not in network.own:
                link.abort("the address that it stood on is gone")
