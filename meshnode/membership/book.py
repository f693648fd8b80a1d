"""The adverts that are held, the newest of each node, and getting those that are missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from meshnode.errors import MeshError, ProtocolError
from meshnode.links.pool import Pool
from meshnode.membership import advert as adverts
from meshnode.membership.advert import ADVERT_BYTES_MAX, Advert
from meshnode.membership.roster import Row
from meshnode.membership.updates import SPKI_PREFIX
from meshnode.trust import identity
from meshnode.wire import messages
from meshnode.wire.messages import AdvertPull, NodeId
from meshnode.wire.rng import Rng

log = logging.getLogger(__name__)

PULLS_MAX = 6
PULL_S = 5.0


@dataclass(slots=True)
class AdvertBook:
    """See the module's docstring.

    Args:
        row: what the failure detector holds of a node.
        learnt: told about an advert that is newer than the one before.
    """

    me: NodeId
    pool: Pool
    rng: Rng
    row: Callable[[NodeId], Row | None]
    learnt: Callable[[Advert], None]
    _held: dict[NodeId, tuple[Advert, bytes]] = field(default_factory=dict)
    _pulling: set[NodeId] = field(default_factory=set)

    def get(self, node: NodeId) -> Advert | None:
        """The newest advert of a node."""
        held = self._held.get(node)
        return held[0] if held is not None else None

    def bytes_of(self, node: NodeId) -> bytes | None:
        """The same, as its owner signed it."""
        held = self._held.get(node)
        return held[1] if held is not None else None

    def put_own(self, advert: Advert, data: bytes) -> None:
        """This node's own."""
        self._held[self.me] = (advert, data)

    def wants(self, row: Row) -> bool:
        """Whether the node is known to have a newer advert, and nobody is fetching it."""
        return row.advert > 0 and not self._is_current(row) and row.id not in self._pulling

    async def pull(self, node: NodeId) -> None:
        """Get a node's newest advert: from itself when there is a link, else from whoever is linked."""
        if node in self._pulling:
            return
        self._pulling.add(node)
        try:
            for attempt in range(PULLS_MAX):
                own = self.pool.get(node)
                others = [link for link in self.pool.links() if link.peer.id != node]
                self.rng.shuffle(others)
                for link in ([own] if own is not None else []) + others[:2]:
                    try:
                        body = (messages.pack_batch([node.encode()]),)
                        received = await link.call(AdvertPull(), body, timeout_s=PULL_S)
                    except MeshError:
                        continue
                    for data in messages.unpack_batch(received.body, item_bytes_max=ADVERT_BYTES_MAX):
                        self.take(data)
                row = self.row(node)
                if row is None or self._is_current(row):
                    return
                await asyncio.sleep(0.1 * 2**attempt)
        finally:
            self._pulling.discard(node)

    def take(self, data: bytes) -> None:
        """Hold an advert when it is signed by its owner and newer than the one that is held."""
        try:
            advert = adverts.unseal(
                data,
                lambda key, message, signature: identity.verify(SPKI_PREFIX + key, message, signature),
                lambda key: identity.node_id(SPKI_PREFIX + key),
            )
        except ProtocolError as error:
            log.warning("an advert was refused: %s", error)
            return
        node = NodeId(advert.id)
        held = self.get(node)
        if node == self.me or (held is not None and (held.boot, held.version) >= (advert.boot, advert.version)):
            return
        self._held[node] = (advert, data)
        self.learnt(advert)

    def _is_current(self, row: Row) -> bool:
        held = self.get(row.id)
        return held is not None and (held.boot, held.version) >= (row.gen, row.advert)
