"""Membership as the rest of the agent sees it: the shell around the failure detector.

It owns the UDP socket, opens and seals datagrams, sets the core's timer, keeps adverts, evens out views over links,
and dials members so that a broken connection is noticed at once. Two speeds: `usable` is this node's own, fast and
revocable opinion, read by routing; `state` is what the members agreed on, and slow.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshnode.config import Membership as Settings
from meshnode.errors import MeshError, PeerLost, ProtocolError
from meshnode.links.link import Incoming, Link, Reply, path_of
from meshnode.links.pool import Address, Pool, listening
from meshnode.membership import advert as adverts
from meshnode.membership import updates
from meshnode.membership.advert import Advert, Content
from meshnode.membership.book import AdvertBook
from meshnode.membership.contact import Contact, tell
from meshnode.membership.events import (
    Advertised,
    Broken,
    Changed,
    Effect,
    Event,
    Leaving,
    Merged,
    PingStream,
    Received,
    Send,
)
from meshnode.membership.roster import Row, State
from meshnode.membership.swim import Swim
from meshnode.membership.updates import SPKI_PREFIX
from meshnode.membership.view import FoundBy, Known, Member
from meshnode.trust import identity
from meshnode.trust.keeper import Keeper
from meshnode.trust.sealing import Sealer
from meshnode.wire import messages
from meshnode.wire.messages import AdvertPull, Adverts, Done, NodeId, RosterSync, StreamPing
from meshnode.wire.rng import Rng

log = logging.getLogger(__name__)

DATAGRAMS_A_TURN = 64
UPDATE_BYTES_MAX, CALL_S = 512, 5.0
LINKED_MAX = 32
"""Meshes up to this size keep a link between every two nodes; larger ones dial when there is something to say."""
CHANGE_DELAY_S = 0.05


class Membership:
    """See the module's docstring.

    Args:
        changed: called, a moment later and once for many, when the view is not what it was.
    """

    def __init__(
        self, keeper: Keeper, pool: Pool, settings: Settings, rng: Rng, *, name: str, changed: Callable[[], None]
    ) -> None:
        self._keeper = keeper
        self._pool = pool
        self._settings = settings
        self._rng = rng
        self._name = name
        self._changed = changed
        self._key = keeper.spki[len(SPKI_PREFIX) :]
        epoch_key = X25519PrivateKey.generate()
        self._epoch_public = epoch_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._sealer = Sealer(epoch_key, keeper.id, keeper.statements.mesh_id, keeper.boot)
        self._core = Swim(
            self._key,
            keeper.boot,
            settings=settings,
            rng=rng,
            sign=keeper.key.sign,
            verify=identity.verify,
            id_text=identity.id_text,
            now=time.monotonic(),
        )
        self._adverts = AdvertBook(keeper.id, pool, rng, row=self._core.roster.get, learnt=self._advert_learnt)
        self._known: dict[NodeId, Known] = {keeper.id: Known(found_by="self")}
        self._version = 0
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._contact = Contact(
            me=keeper.id,
            core=self._core,
            pool=pool,
            settings=settings,
            rng=rng,
            addresses=self.addresses,
            barred=lambda node: keeper.statements.revoked(node) is not None,
            feed=self._feed,
            trouble=self._trouble,
            even_out=self._even_out,
        )
        self._view: tuple[Member, ...] | None = None
        self.dropped = 0

    # --- life ---

    async def start(self, host: str, port: int) -> None:
        """Open the UDP port, which is the TCP port's twin. Raises ListenError when it is taken."""
        self._socket = await listening(host, port, socket.SOCK_DGRAM)
        asyncio.get_running_loop().add_reader(self._socket, self._readable)
        self._feed(None)
        self._start(self._contact.even_out_now_and_then())
        self._start(self._contact.reconnect_now_and_then())

    async def stop(self, reason: str | None) -> None:
        """Say goodbye (unless `reason` is None) and be silent."""
        if reason is not None:
            self._feed(Leaving(reason))
            left = updates.left(self._keeper.key.sign, self._key, *self._core.version, reason[:32])
            goodbye = updates.encode(left)
            calls = [tell(link, goodbye) for link in self._pool.links()[:64]]
            await asyncio.gather(*calls, return_exceptions=True)
        for handle in (self._timer, self._telling):
            if handle is not None:
                handle.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    # --- the view ---

    def view(self) -> tuple[Member, ...]:
        """Everyone who is known, this node first; the same tuple until something changes."""
        if self._view is None:
            rows = sorted(self._core.roster, key=lambda row: (row.id != self._keeper.id, row.id))
            self._view = tuple(self._member(row) for row in rows)
        return self._view

    def member(self, node: NodeId) -> Member | None:
        """One node."""
        return next((member for member in self.view() if member.id == node), None)

    def addresses(self, node: NodeId) -> tuple[Address, ...]:
        """Where a node may be reached, what worked last first."""
        known, held = self._known.get(node), self._adverts.get(node)
        found = dict.fromkeys([known.proven] if known is not None and known.proven else [])
        for address in held.addresses if held is not None else ():
            found[address] = None
        return tuple(address for address in found if address is not None)

    def _member(self, row: Row) -> Member:
        is_self = row.id == self._keeper.id
        known = self._known.setdefault(row.id, Known())
        held = self._adverts.get(row.id)
        link = None if is_self else self._pool.get(row.id)
        path = "self" if is_self else path_of(link) if link is not None else "none"
        revoked = self._keeper.statements.revoked(row.id) is not None
        addresses = self.addresses(row.id)
        reason = {"left": f"it left: {row.reason}", "dead": "it does not answer: declared dead by its peers"}.get(
            row.state, known.trouble
        )
        return Member(
            id=row.id,
            name=held.name if held is not None else row.id[:8],
            state="left" if revoked and row.state != "dead" else row.state,
            usable=row.state == "alive" and not known.trouble and not revoked and (is_self or held is not None),
            advert=held,
            addresses=addresses,
            address=known.proven or next(iter(addresses), None),
            found_by=known.found_by,
            path=path,
            reason="revoked" if revoked else reason,
            since=known.since,
        )

    # --- what the agent tells us ---

    def advertise(self, content: Content) -> None:
        """What this node says about itself from now on."""
        self._version += 1
        fields = {name: getattr(content, name) for name in Content.__struct_fields__}
        advert = Advert(
            **fields,
            id=self._keeper.id,
            name=self._name,
            key=self._key,
            boot=self._keeper.boot,
            version=self._version,
            epoch=self._sealer.epoch,
            epoch_key=self._epoch_public,
        )
        self._adverts.put_own(advert, adverts.seal(advert, self._keeper.key.sign))
        self._feed(Advertised(self._version))

    def found(self, node: NodeId, found_by: FoundBy) -> None:
        """How a peer was found; the first answer stays."""
        known = self._known.setdefault(node, Known(found_by=found_by))
        if known.found_by == "gossip":
            known.found_by = found_by
        self._touch()

    def link_up(self, link: Link) -> None:
        """A link to a peer came up: it is there, whatever was said; even out the views."""
        peer = link.peer
        known = self._known.setdefault(peer.id, Known(found_by="inbound"))
        known.trouble = ""
        if link.dialled and peer.address is not None:
            known.proven = peer.address
        elif peer.address is not None and peer.port and known.proven is None:
            known.proven = (peer.address[0], peer.port)
        self._touch()
        self._start(self._even_out(link))

    def link_lost(self, link: Link, reason: str) -> None:
        """A peer's link ended: do not use it until it is heard from, and see whether it can be dialled."""
        node = link.peer.id
        self._trouble(node, f"its connection ended: {reason}")
        if self._keeper.statements.revoked(node) is None:
            self._start(self._contact.redial(node))

    def link_silent(self, link: Link) -> None:
        """A peer stopped answering heartbeats."""
        self._trouble(link.peer.id, "it stopped answering")
        self._feed(Broken(link.peer.id, refused=False))

    def failed(self, node: NodeId, error: MeshError) -> None:
        """A request to a peer failed for a reason of the network."""
        if isinstance(error, PeerLost):
            self._trouble(node, str(error))
            self._feed(Broken(node, refused=False))

    def revoked(self, node: NodeId) -> None:
        """A node is out: nothing of it is opened any more."""
        self._sealer.forget(node)
        self._touch()

    # --- requests over links ---

    async def handle(self, incoming: Incoming) -> Reply:
        """Answer RosterSync, AdvertPull and StreamPing."""
        self._heard(incoming.peer.id)
        match incoming.request:
            case StreamPing():
                return Reply(Done(), ())
            case RosterSync():
                self._merge(incoming.body)
                rows = [updates.encode(update) for update in self._core.roster.news()] if incoming.request.full else []
                return Reply(RosterSync(), (messages.pack_batch(rows),))
            case AdvertPull():
                ids = messages.unpack_batch(incoming.body, item_bytes_max=64)
                found = [self._adverts.bytes_of(NodeId(id.decode("ascii", "replace"))) for id in ids]
                return Reply(Adverts(), (messages.pack_batch([data for data in found if data is not None]),))
        raise ProtocolError(f"{type(incoming.request).__name__} is not about membership")

    # --- the core ---

    def _feed(self, event: Event | None) -> None:
        for effect in self._core.handle(time.monotonic(), event):
            self._do(effect)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._core.next_deadline()
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._feed, None)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send(peer, packet):
                self._send(peer, updates.encode(packet))
            case PingStream(peer):
                self._start(self._contact.ping(peer))
            case Changed(row, before):
                self._row_changed(row, before)

    def _row_changed(self, row: Row, before: State | None) -> None:
        if row.id != self._keeper.id:
            known = self._known.setdefault(row.id, Known())
            if row.state != before:
                known.since = time.monotonic()
                held = self._adverts.get(row.id)
                name = f"{held.name} ({row.id[:8]})" if held is not None else row.id[:8]
                log.info("%s is %s%s", name, row.state, f" ({row.reason})" if row.reason else "")
                if row.state == "alive" and before in ("dead", "left"):
                    known.trouble = ""
            if row.state == "alive" and self._adverts.wants(row):
                self._start(self._adverts.pull(row.id))
        self._touch()

    def _touch(self) -> None:
        self._view = None
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(CHANGE_DELAY_S, self._tell_change)

    def _tell_change(self) -> None:
        self._telling = None
        self._changed()

    # --- datagrams ---

    def _send(self, peer: NodeId, plain: bytes) -> None:
        addresses = self.addresses(peer)
        if self._socket is None or not addresses or not self._sealer.knows(peer):
            return
        try:
            host, port = addresses[0]
            if self._socket.family == socket.AF_INET6 and ":" not in host:
                host = f"::ffff:{host}"
            self._socket.sendto(self._sealer.seal(peer, plain), (host, port))
        except (OSError, ProtocolError) as error:
            log.debug("a datagram to %s was not sent: %s", peer[:8], error)

    def _readable(self) -> None:
        """Read what is there before any timer fires: a late ack is an ack."""
        assert self._socket is not None
        for _ in range(DATAGRAMS_A_TURN):
            try:
                data, _ = self._socket.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("the UDP port: %s", error)
                return
            if len(data) > self._settings.datagram_bytes:
                self.dropped += 1
                continue
            try:
                sender, plain = self._sealer.open(data)
                packet = updates.decode_packet(plain)
            except ProtocolError:
                self.dropped += 1
                continue
            self._heard(sender)
            self._feed(Received(sender, packet))

    def _heard(self, peer: NodeId) -> None:
        """First-hand: the peer said something."""
        known, link = self._known.get(peer), self._pool.get(peer)
        if known is not None and known.trouble and link is not None and not link.silent:
            known.trouble = ""
            self._touch()

    # --- over links ---

    async def _even_out(self, link: Link) -> None:
        """Exchange views with one peer."""
        rows = [updates.encode(update) for update in self._core.roster.news()]
        received = await link.call(RosterSync(), (messages.pack_batch(rows),), timeout_s=CALL_S)
        version = self._core.version
        self._merge(received.body)
        if self._core.version != version:
            # The peer held us for dead, and would not hear the refutation by gossip.
            await tell(link, updates.encode(self._core.word))

    def _advert_learnt(self, advert: Advert) -> None:
        node = NodeId(advert.id)
        if self._keeper.statements.revoked(node) is None:
            try:
                self._sealer.set_peer(node, advert.epoch, advert.epoch_key)
            except ProtocolError as error:
                log.warning("%s", error)
        self._touch()
        if sum(row.state == "alive" for row in self._core.roster) <= LINKED_MAX:
            self._start(self._contact.connect(node))

    def _trouble(self, node: NodeId, why: str) -> None:
        self._known.setdefault(node, Known()).trouble = why[:200]
        self._touch()

    def _merge(self, body: memoryview) -> None:
        items = messages.unpack_batch(body, item_bytes_max=UPDATE_BYTES_MAX)
        self._feed(Merged(tuple(updates.decode_update(item) for item in items)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(self._quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> None:
        """Work whose failure is only a missing answer: the detector and the next round see to it."""
        try:
            await work
        except MeshError as error:
            log.debug("%s", error)
