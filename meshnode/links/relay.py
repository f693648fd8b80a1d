"""Links through a third member: asking for one, being the end of one, and carrying one for others.

What is carried is the TLS between the two ends, so a relay can delay, cut and count, and neither read nor change. A
circuit needs a direct link on both sides: what came through a relay is not relayed again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from meshnode.config import Links
from meshnode.errors import MeshError, PermissionDenied, ProtocolError, Refused
from meshnode.links.circuit import Circuit
from meshnode.links.ledger import Ledger
from meshnode.links.link import Link
from meshnode.links.machine import Machine
from meshnode.links.side import Incoming, Peer, Reply
from meshnode.wire.messages import Done, NodeId, RelayClose, RelayData, RelayOffer, RelayOpen

OPEN_S, OFFER_S, CLOSE_S = 2.0, 1.5, 1.0


def _always(_: NodeId) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What links must know about nodes, and others do.

    `addresses`: where a node may be reached. `alive`: whether members believe that it is there. `admitted`: whether
    it has a grant. `unwilling`: why this node carries nothing for others now, or "". `kin`: how near a member is to a
    peer, by their zones: what is bound to a zone is not sent through a member outside of it.
    """

    addresses: Callable[[NodeId], tuple[tuple[str, int], ...]] = lambda _: ()
    alive: Callable[[NodeId], bool] = _always
    admitted: Callable[[NodeId], bool] = _always
    unwilling: Callable[[], str] = str
    kin: Callable[[NodeId, NodeId], int] = lambda _peer, _member: 0


class Relay:
    """See the module's docstring.

    Args:
        direct: the direct link to a node, when there is one.
        offered: a circuit came to this node; a peer will begin TLS on it.
    """

    def __init__(
        self,
        me: NodeId,
        settings: Links,
        known: Knowledge,
        machine: Machine,
        *,
        direct: Callable[[NodeId], Link | None],
        offered: Callable[[Circuit], None],
    ) -> None:
        self._me = me
        self._settings = settings
        self._known = known
        self._machine = machine
        self._direct = direct
        self._offered = offered
        self._ledger = Ledger(settings, machine.now())
        self._ends: dict[tuple[NodeId, str], Circuit] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    @property
    def carried(self) -> int:
        """Circuits that this node carries for others."""
        return len(self._ledger)

    # --- asking for one ---

    async def open(self, via: Link, peer: NodeId) -> Circuit:
        """A circuit to a peer through the member at the other end of a link. Raises MeshError: why not."""
        name = secrets.token_hex(16)
        await via.call(RelayOpen(circuit=name, target=peer), timeout_s=OPEN_S)
        return self._end_of(name, via.peer, peer)

    # --- what peers ask ---

    async def handle(self, incoming: Incoming) -> Reply:
        """Answer the four messages of circuits. The caller has a grant."""
        request, peer = incoming.request, incoming.peer
        if self._stopped and isinstance(request, RelayOpen | RelayOffer):
            raise Refused("this agent is stopping")
        if incoming.link.via is not None:
            raise PermissionDenied("a relayed link carries no circuits: a relay has a direct link to both ends")
        match request:
            case RelayOpen():
                await self._carry_for(peer.id, request)
            case RelayOffer():
                self._accept(peer, request)
            case RelayData():
                end = self._ends.get((peer.id, request.circuit))
                if end is not None:
                    await self._take(end, request, incoming.body)
                else:
                    await self._pass_on(peer.id, request, incoming.body)
            case RelayClose():
                end = self._ends.get((peer.id, request.circuit))
                if end is not None:
                    self._drop(end, request.reason and f"{peer.name}, which relayed it: {request.reason}")
                elif self._ledger.has(request.circuit, peer.id):
                    self._over(request.circuit, request.reason, but=peer.id)
            case _:
                raise ProtocolError(f"{type(request).__name__} is not about circuits")
        return Reply(Done(), ())

    def lost(self, peer: NodeId) -> None:
        """There is no direct link to this node any more, or it began anew: what went through it is over."""
        for end in [end for (relay, _), end in self._ends.items() if relay == peer]:
            self._drop(end, f"the link to {end.relay.name}, which relayed it, was lost")
        for circuit in self._ledger.of(peer):
            self._over(circuit, f"the relay lost its link to node {peer[:8]}", but=peer)

    async def stop(self) -> None:
        """End what is carried, and every end here; the direct links are still up. Nothing new is taken."""
        self._stopped = True
        for circuit in self._ledger.circuits():
            self._over(circuit, "the relay is stopping")
        for end in list(self._ends.values()):
            self._drop(end, "the agent is stopping")
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # --- carrying for others ---

    async def _carry_for(self, source: NodeId, request: RelayOpen) -> None:
        target, circuit = NodeId(request.target), request.circuit
        why = self._known.unwilling() if self._settings.relay else "it is switched off (links.relay)"
        if why:
            raise Refused(f"this node carries nothing for others: {why}")
        if target in (self._me, source):
            raise ProtocolError("a circuit has two ends and a relay, three nodes")
        if not self._known.admitted(target):
            raise PermissionDenied(f"node {target[:8]} has no grant in this mesh")
        link = self._direct(target)
        if link is None or link.silent:
            raise Refused(f"this node has no direct link to node {target[:8]}")
        self._ledger.open(self._machine.now(), circuit, source, target)
        try:
            await link.call(RelayOffer(circuit=circuit, source=source), timeout_s=OFFER_S)
        except MeshError as error:
            self._over(circuit, "it was not opened", but=source)
            raise Refused(f"{link.peer.name} did not take it: {error}") from error
        except asyncio.CancelledError:
            self._over(circuit, "it was given up", but=source)
            raise

    async def _pass_on(self, sender: NodeId, request: RelayData, body: memoryview) -> None:
        circuit = request.circuit
        mine = self._ledger.has(circuit, sender)
        try:
            step = self._ledger.carry(self._machine.now(), circuit, sender, len(body))
            try:
                if step.wait_s > 0:
                    await asyncio.sleep(step.wait_s)
                link = self._direct(step.to)
                if link is None or circuit not in self._ledger:
                    raise Refused("the circuit is over")
                await link.call(request, (body,))
            finally:
                self._ledger.carried(circuit, sender)
        except (MeshError, asyncio.CancelledError) as error:
            if mine:
                self._over(circuit, str(error) or "a chunk of it was given up")
            raise

    def _over(self, circuit: str, reason: str, *, but: NodeId | None = None) -> None:
        """Forget a circuit that is carried here, and tell its ends, but for the one that knows."""
        for node in self._ledger.close(circuit):
            link = self._direct(node)
            if node != but and link is not None:
                self._start(self._tell(link, circuit, reason))

    # --- being an end ---

    def _accept(self, relay: Peer, request: RelayOffer) -> None:
        source = NodeId(request.source)
        through = sum(1 for node, _ in self._ends if node == relay.id)
        if through >= self._settings.relay_circuits_peer:
            raise Refused(f"{through} circuits through {relay.name} end here, the limit")
        if source in (self._me, relay.id) or (relay.id, request.circuit) in self._ends:
            raise ProtocolError("a circuit has two ends and a relay, and a name of its own")
        if not self._known.admitted(source):
            raise PermissionDenied(f"node {source[:8]} has no grant in this mesh")
        self._offered(self._end_of(request.circuit, relay, source))

    def _end_of(self, name: str, relay: Peer, peer: NodeId) -> Circuit:
        async def send(message: RelayData, data: bytes) -> None:
            link = self._direct(relay.id)
            if link is None:
                raise Refused(f"the link to {relay.name}, which relays, is gone")
            await link.call(message, (data,))

        end = Circuit(name, relay, peer, send, self._machine.pair())
        self._ends[relay.id, name] = end
        self._start(self._run(end))
        return end

    async def _run(self, end: Circuit) -> None:
        try:
            reason = await end.carry()
            link = self._direct(end.relay.id)
            if self._drop(end, reason) and link is not None:
                await self._tell(link, end.id, reason)
        finally:
            self._ends.pop((end.relay.id, end.id), None)
            await end.close()

    async def _take(self, end: Circuit, request: RelayData, body: memoryview) -> None:
        try:
            await end.take(request.seq, body)
        except (MeshError, asyncio.CancelledError) as error:
            self._drop(end, str(error) or "a chunk of it was given up")
            raise

    def _drop(self, end: Circuit, reason: str) -> bool:
        """It is over for this node; whether that is news."""
        news = self._ends.pop((end.relay.id, end.id), None) is not None
        end.end(reason)
        return news

    async def _tell(self, link: Link, circuit: str, reason: str) -> None:
        with suppress(MeshError):
            await link.call(RelayClose(circuit=circuit, reason=reason[:4096]), timeout_s=CLOSE_S)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
