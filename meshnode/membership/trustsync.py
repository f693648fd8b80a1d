"""Keeping the trust sets of connected nodes equal.

Each HELLO carries the root hash of the sender's statement set. When two differ, the node with the smaller id starts
one exchange; tasks on that link wait for its end, so that a revocation is learnt before business is done. New
statements are pushed to all links at once. What fails over a link that stays is done again, as an exchange: nothing
else would ever bring a statement that was missed. The rules of the set itself are in `meshnode.trust.statements`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from meshnode.errors import MeshError, ProtocolError
from meshnode.links.link import Incoming, Link, Reply
from meshnode.membership.chores import Chores
from meshnode.trust.keeper import Keeper
from meshnode.trust.statements import STATEMENT_BYTES_MAX, Statement
from meshnode.wire import batches
from meshnode.wire.messages import Done, TrustDelta, TrustPush, TrustSync

log = logging.getLogger(__name__)

SETTLE_S = 5.0
"""A link whose other side does not finish the exchange in this time is used as it is."""
TURN_S = 1.0
"""The larger id begins after so long. The smaller does not when its set came to differ while the HELLOs were on their
way."""
AGAIN_S, AGAIN_MAX_S = 0.5, 8.0


@dataclass(slots=True)
class TrustKeeping:
    """The exchange of statements over links.

    Args:
        links: the live links.
        learnt: told about statements that were new here.
    """

    keeper: Keeper
    links: Callable[[], Iterable[Link]]
    learnt: Callable[[list[Statement]], None]
    _settling: dict[Link, asyncio.Event] = field(default_factory=dict)
    _evening: set[Link] = field(default_factory=set)
    _chores: Chores = field(default_factory=lambda: Chores("trust statements were not exchanged: ", logging.INFO))

    def link_up(self, link: Link) -> None:
        """A link came up; exchange when the roots differ."""
        if link.peer.root == self.keeper.statements.root_hash:
            return
        self._settling[link] = asyncio.Event()
        self._chores.start(self._even_out, link, 0.0 if self.keeper.id < link.peer.id else TURN_S)

    def link_lost(self, link: Link) -> None:
        """Whoever waits for this link need not."""
        self._settled(link)

    async def settled(self, link: Link) -> None:
        """Wait until what the other side knows about trust is known here too."""
        event = self._settling.get(link)
        if event is not None:
            try:
                async with asyncio.timeout(SETTLE_S):
                    await event.wait()
            except TimeoutError:
                log.warning("%s did not finish the exchange of trust statements in %s s", link.peer.name, SETTLE_S)
                self._settled(link)

    def publish(self, statements: list[bytes], *, but: Link | None = None) -> None:
        """Push new statements to every link except the one they came from."""
        for link in self.links():
            if link is not but and not link.peer.local:
                self._chores.start(self._push, link, statements)

    async def handle(self, incoming: Incoming) -> Reply:
        """Answer TrustSync and TrustPush."""
        body = incoming.body
        if isinstance(incoming.request, TrustSync):
            theirs = set(batches.unpack_batch(body, item_bytes_max=batches.ID_BYTES))
            ours = self.keeper.statements
            lacking = [data for id, data in ours.items() if id not in theirs]
            wanted = [id for id in theirs if ours.get(id) is None]
            if not wanted:
                self._settled(incoming.link)
            return Reply(TrustDelta(statements=len(lacking)), (batches.pack_batch([*lacking, *wanted]),))
        if isinstance(incoming.request, TrustPush):
            self._merge(batches.unpack_batch(body, item_bytes_max=STATEMENT_BYTES_MAX), incoming.link)
            self._settled(incoming.link)
            return Reply(Done(), ())
        raise ProtocolError(f"{type(incoming.request).__name__} is not about trust")

    def told(self, closing: Mapping[str, Any]) -> None:
        """Why a peer hung up. It may prove it by a statement, which holds whoever brings it."""
        if isinstance(statement := closing.get("statement"), bytes):
            self._merge([statement], None)

    async def stop(self) -> None:
        """End what is under way, and begin nothing more."""
        await self._chores.stop()

    async def _even_out(self, link: Link, wait_s: float) -> None:
        """Exchange until it is done or the link is gone."""
        if wait_s:
            await asyncio.sleep(wait_s)
            if link not in self._settling:
                return
        if link in self._evening:
            return
        self._evening.add(link)
        pause_s = AGAIN_S
        try:
            while link.usable:
                try:
                    return await self._exchange(link)
                except ProtocolError:
                    raise
                except MeshError as error:
                    log.info("trust statements were not exchanged with %s: %s", link.peer.name, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, AGAIN_MAX_S)
        finally:
            self._evening.discard(link)

    async def _exchange(self, link: Link) -> None:
        ours = self.keeper.statements
        received = await link.call(TrustSync(), (batches.pack_batch(sorted(ours.ids())),), timeout_s=SETTLE_S)
        if not isinstance(received.message, TrustDelta):
            raise ProtocolError(f"TrustSync was answered with {type(received.message).__name__}")
        items = batches.unpack_batch(received.body, item_bytes_max=STATEMENT_BYTES_MAX)
        self._merge(items[: received.message.statements], link)
        wanted = [ours.get(id) for id in items[received.message.statements :]]
        if known := [statement.data for statement in wanted if statement is not None]:
            await link.call(TrustPush(), (batches.pack_batch(known),), timeout_s=SETTLE_S)
        self._settled(link)

    async def _push(self, link: Link, statements: list[bytes]) -> None:
        try:
            await link.call(TrustPush(), (batches.pack_batch(statements),), timeout_s=SETTLE_S)
        except ProtocolError:
            raise
        except MeshError as error:
            log.info("trust statements were not pushed to %s: %s", link.peer.name, error)
            await self._even_out(link, 0.0)

    def _merge(self, statements: list[bytes], source: Link | None) -> None:
        new = self.keeper.merge(statements)
        if new:
            self.publish([statement.data for statement in new], but=source)
            self.learnt(new)

    def _settled(self, link: Link) -> None:
        event = self._settling.pop(link, None)
        if event is not None:
            event.set()
