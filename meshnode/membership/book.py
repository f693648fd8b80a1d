"""The adverts that are held, the newest of each node, and getting those that are missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from meshnode.errors import MeshError, ProtocolError
from meshnode.links.link import Link
from meshnode.links.pool import Pool
from meshnode.membership import advert as adverts
from meshnode.membership.advert import ADVERT_BYTES_MAX, Advert
from meshnode.membership.roster import Row
from meshnode.membership.updates import SPKI_PREFIX
from meshnode.trust import identity
from meshnode.wire import batches
from meshnode.wire.messages import AdvertPull, NodeId
from meshnode.wire.rng import Rng

log = logging.getLogger(__name__)

PULL_S = 5.0
BACKOFF_S, DOUBLINGS_MAX = 0.1, 6
"""Between two pulls of what is still missing; 6.4 s at most, for as long as its owner is there."""
BATCH = 64


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
    _wanted: dict[NodeId, int] = field(default_factory=dict)
    _pulling: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

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

    def adverts(self) -> list[Advert]:
        """All that are held."""
        return [advert for advert, _ in self._held.values()]

    def tidy(self, rows: int) -> None:
        """Let go of nodes whose tombstone is gone, once more are held than there are rows."""
        if len(self._held) > rows:
            self._held = {node: it for node, it in self._held.items() if node == self.me or self.row(node) is not None}

    def want(self, row: Row) -> bool:
        """Note that a node has a newer advert, if so; whether `pull` is to be started."""
        if row.advert == 0 or row.id == self.me or self._is_current(row):
            return False
        self._wanted.setdefault(row.id, 0)
        self._news.set()
        return not self._pulling

    def link_up(self) -> None:
        """Another link to ask over: what is missing need not wait."""
        self._news.set()

    async def pull(self) -> None:
        """Get the adverts that are wanted: from their owners where there is a link, else from whoever is linked."""
        self._pulling = True
        try:
            while self._wanted:
                batch = list(self._wanted)[:BATCH]
                links = self.pool.links()
                self.rng.shuffle(links)
                owners = [(link, [link.peer.id]) for link in links if link.peer.id in self._wanted]
                await asyncio.gather(*(self._ask(link, ids) for link, ids in owners))
                for link in links[:2]:
                    if left := [node for node in batch if self._lacks(node)]:
                        await self._ask(link, left)
                for node in batch:
                    tries = self._wanted.pop(node, 0) + 1
                    if self._lacks(node):
                        self._wanted[node] = min(tries, DOUBLINGS_MAX)
                if self._wanted:
                    await self._pause(BACKOFF_S * 2 ** min(self._wanted.values()))
        finally:
            self._pulling = False

    async def _pause(self, seconds: float) -> None:
        """Until the next try is due, or there is more to pull or to pull over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()

    async def _ask(self, link: Link, nodes: Sequence[NodeId]) -> None:
        body = (batches.pack_batch([node.encode() for node in nodes]),)
        try:
            received = await link.call(AdvertPull(), body, timeout_s=PULL_S)
            for data in batches.unpack_batch(received.body, item_bytes_max=ADVERT_BYTES_MAX):
                self.take(data)
        except MeshError as error:
            log.debug("adverts were not pulled: %s", error)

    def _lacks(self, node: NodeId) -> bool:
        row = self.row(node)
        return row is not None and row.state in ("alive", "suspect") and not self._is_current(row)

    def take(self, data: bytes) -> None:
        """Hold an advert when it is signed by its owner, a node that is known, and newer than the one that is held."""
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
        if (
            self.row(node) is None
            or node == self.me
            or (held is not None and (held.boot, held.version) >= (advert.boot, advert.version))
        ):
            return
        self._held[node] = (advert, data)
        self.learnt(advert)

    def _is_current(self, row: Row) -> bool:
        held = self.get(row.id)
        return held is not None and (held.boot, held.version) >= (row.gen, row.advert)
