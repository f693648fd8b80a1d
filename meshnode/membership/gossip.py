"""Membership as the rest of the agent sees it: the shell around the failure detector.

It feeds the core, runs its effects and sets its timer, keeps adverts, and answers what peers ask about membership. Two
speeds: `usable` is this node's own, fast and revocable opinion, read by routing; `state` is what the members agreed
on, and slow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from meshnode.config import Membership as Settings
from meshnode.errors import HomeError, MeshError, PeerLost
from meshnode.links.address import Address
from meshnode.links.link import Incoming, Link, Reply, path_of
from meshnode.links.pool import Pool
from meshnode.membership import advert as adverts
from meshnode.membership.advert import Advert, Content
from meshnode.membership.answers import Answers
from meshnode.membership.book import AdvertBook
from meshnode.membership.chores import Chores
from meshnode.membership.clocks import Source, tell_if_set
from meshnode.membership.contact import IDLE, LINKED_MAX, Contact, tell
from meshnode.membership.datagrams import Datagrams
from meshnode.membership.events import (
    Advertised,
    Broken,
    Changed,
    Effect,
    Event,
    Evicted,
    Isolated,
    Leaving,
    PingStream,
    Reborn,
    Received,
    Send,
    StreamsHeard,
    Sync,
    Woke,
)
from meshnode.membership.oneself import Oneself
from meshnode.membership.roster import Row, State
from meshnode.membership.swim import Swim
from meshnode.membership.updates import SPKI_PREFIX, AnyPacket
from meshnode.membership.view import COPIED, FoundBy, Known, Member, member_of
from meshnode.membership.waking import LOOK_S, Waking
from meshnode.trust import identity
from meshnode.trust.keeper import Keeper
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

log = logging.getLogger(__name__)

CHANGE_DELAY_S = 0.05


class Membership:
    """See the module's docstring.

    Args:
        changed: called, a moment later and once for many, when the view is not what it was.
        woke: called when the machine has slept, or this process stood still.
        source: of the clocks and of fresh keys.
    """

    def __init__(
        self,
        keeper: Keeper,
        pool: Pool,
        settings: Settings,
        rng: Rng,
        *,
        name: str,
        changed: Callable[[], None],
        woke: Callable[[], None] = lambda: None,
        source: Source | None = None,
    ) -> None:
        self._keeper = keeper
        self._pool = pool
        self._source = source or Source()
        self._now = pool.machine.now
        self._settings = settings
        self._rng = rng
        self._name = name
        self._changed = changed
        self._woke = woke
        self._key = keeper.spki[len(SPKI_PREFIX) :]
        self.datagrams = Datagrams(
            keeper.id,
            keeper.statements.mesh_id,
            keeper.boot,
            pool.machine,
            bytes_max=settings.datagram_bytes,
            received=self._received,
            new_key=self._source.epoch_key,
        )
        self._core = Swim(
            Oneself(self._key, keeper.boot, self._source.birth(), keeper.key.sign),
            settings=settings,
            rng=rng,
            verify=identity.verify,
            id_text=identity.id_text,
            now=self._now(),
            admitted=self._admitted,
        )
        self._adverts = AdvertBook(keeper.id, pool, rng, row=self._core.roster.get, learnt=self._advert_learnt)
        self._known: dict[NodeId, Known] = {keeper.id: Known(self._now(), "self")}
        self._version = 0
        self._content: Content | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None
        self._chores = Chores()
        self._contact = Contact(
            me=keeper.id,
            core=self._core,
            pool=pool,
            rng=rng,
            addresses=self.addresses,
            barred=self._barred,
            now=self._now,
            feed=self._feed,
            trouble=self._trouble,
        )
        self._answers = Answers(self._core, self._adverts, self._contact.age_s, self._feed)
        self._view: tuple[Member, ...] | None = None
        self._heard_until = self._now()
        self._stopped = False

    # --- life ---

    async def start(self, host: str, port: int) -> None:
        """Open the UDP port, which is the TCP port's twin. Raises ListenError when it is taken."""
        await self.datagrams.open(host, port)
        self._feed(None)
        self._chores.start(self._watch)

    async def stop(self, reason: str | None) -> None:
        """Say goodbye (unless `reason` is None) and be silent."""
        if reason is not None:
            self._feed(Leaving(reason))
            own = self._core.roster.get(self._keeper.id)
            assert own is not None, "a node always holds itself"
            await asyncio.gather(*(tell(link, own.word) for link in self._pool.links()[:64]), return_exceptions=True)
        self._stopped = True  # links go on for a moment, and what comes over them starts nothing any more
        for handle in (self._timer, self._telling):
            if handle is not None:
                handle.cancel()
        await self._chores.stop()
        self.datagrams.close()

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
        held, statements = self._adverts.get(row.id), self._keeper.statements
        link = self._pool.get(row.id)
        is_self = row.id == self._keeper.id
        grant = statements.grant(row.id) if held is None else None
        return member_of(
            row,
            self._knowing(row.id),
            held,
            self.addresses(row.id),
            path="self" if is_self else path_of(link) if link is not None else "none",
            granted_name=grant.name if grant is not None else None,
            revoked=statements.revoked(row.id) is not None,
        )

    def _knowing(self, node: NodeId, found_by: FoundBy = "gossip") -> Known:
        return self._known.setdefault(node, Known(self._now(), found_by))

    @property
    def isolated(self) -> bool:
        """Whether nobody is heard any more."""
        return self._core.health.isolated

    @property
    def copied(self) -> str:
        """Why this start must not act for its id: a copy of its home, which started earlier, runs too; or empty."""
        return COPIED if self._core.oneself.yielded else ""

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
            boot=self._core.oneself.gen,
            version=self._version,
            epoch=self.datagrams.epoch,
            epoch_key=self.datagrams.public,
        )
        self._content = content
        self._adverts.put_own(advert, adverts.seal(advert, self._keeper.key.sign))
        self._feed(Advertised(self._version))

    def found(self, node: NodeId, found_by: FoundBy) -> None:
        """How a peer was found; the first answer stays."""
        known = self._knowing(node, found_by)
        if known.found_by == "gossip":
            known.found_by = found_by
        self._touch()

    def link_up(self, link: Link) -> None:
        """A link to a peer came up: it is there, whatever was said; even out the views."""
        self._adverts.link_up()
        peer, known = link.peer, self._knowing(link.peer.id, "inbound")
        known.trouble = ""
        if link.dialled and peer.address is not None:
            known.proven = peer.address
        elif peer.address is not None and peer.port:  # it may have moved since it was last dialled
            known.proven = (peer.address[0], peer.port)
        self._touch()
        self._chores.start(self._contact.meet, link)

    def link_lost(self, link: Link, reason: str) -> None:
        """A peer's link ended, and not by agreement: do not use it until it is heard from, and see if it answers."""
        if link.close_code == IDLE:
            return self._touch()
        self._trouble(link.peer.id, f"its connection ended: {reason}")
        if not self._barred(link.peer.id):
            self._chores.start(self._contact.redial, link.peer.id)

    async def tell_rival(self, link: Link) -> None:
        """A later start of the peer has a link too."""
        await self._contact.tell_rival(link)

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
        """A node is out: nothing of it is opened or believed any more."""
        self.datagrams.forget(node)
        self._feed(Evicted(node))
        self._touch()

    # --- requests over links ---

    async def handle(self, incoming: Incoming) -> Reply:
        """Answer what is asked about membership."""
        self._heard(incoming.peer.id)
        return self._answers.to(incoming)

    def _received(self, sender: NodeId, packet: AnyPacket) -> None:
        self._heard(sender)
        self._feed(Received(sender, packet))

    def _heard(self, peer: NodeId) -> None:
        """First-hand: the peer said something, so what was wrong with it is over, unless its link is still silent."""
        known, link = self._known.get(peer), self._pool.get(peer)
        if known is not None and known.trouble and link is not None and not link.silent:
            known.trouble = ""
            self._touch()

    # --- the core ---

    def _feed(self, event: Event | None) -> None:
        for effect in self._core.handle(self._now(), event):
            self._do(effect)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._core.next_deadline()
        if due is not None and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - self._now()), self._ring)

    def _ring(self) -> None:
        """A deadline. What has come by then is heard first."""
        self.datagrams.read()
        since, self._heard_until = self._heard_until, self._now()
        heard = [it.peer.id for it in self._pool.links() if it.heartbeat.heard_at > since and not it.silent]
        if heard:
            self._feed(StreamsHeard(tuple(heard)))
        self._feed(None)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send(peer, packet):
                address = next(iter(self.addresses(peer)), None)
                if address is not None:
                    self.datagrams.send(peer, packet, address)
            case PingStream(peer, accusation):
                self._chores.start(self._contact.ping, peer, accusation)
            case Sync(peer):
                self._chores.start(self._contact.sync, peer)
            case Changed(row, before):
                self._row_changed(row, before)
            case Reborn(gen):
                self._reborn(gen)
            case Isolated(now):
                log.warning("nobody is heard any more" if now else "others are heard again")
                self._touch()

    def _row_changed(self, row: Row, before: State | None) -> None:
        if row.id != self._keeper.id:
            known = self._knowing(row.id)
            if row.state != before:
                known.since = self._now()
                held = self._adverts.get(row.id)
                name = f"{held.name} ({row.id[:8]})" if held is not None else row.id[:8]
                log.info("%s is %s%s", name, row.state, f" ({row.reason})" if row.reason else "")
                if row.state == "alive" and before in ("dead", "left"):
                    known.trouble = ""
            if row.state == "alive" and self._adverts.want(row):
                self._chores.start(self._adverts.pull)
        self._touch()

    def _reborn(self, gen: int) -> None:
        """This start counts as a later one from now on: new keys, a new advert, and the next start comes after."""
        log.warning("another start of this node was heard of; this one continues as number %d", gen)
        try:
            self._keeper.raise_boot(gen)
        except HomeError as error:
            log.error("the next start of this node may count as an old one: %s", error)
        self.datagrams.renew(gen, [held for held in self._adverts.adverts() if not self._barred(NodeId(held.id))])
        if self._content is not None:
            self.advertise(self._content)

    def _touch(self) -> None:
        self._view = None
        if self._telling is None and not self._stopped:
            self._telling = asyncio.get_running_loop().call_later(CHANGE_DELAY_S, self._tell_change)

    def _tell_change(self) -> None:
        self._telling = None
        self._changed()

    # --- over links ---

    async def _watch(self) -> None:
        """Look at the clocks each second, at which links there are to be, and let go of adverts of who is gone."""
        waking = Waking(self._source.clocks())
        while True:
            await asyncio.sleep(LOOK_S)
            if gone_s := waking.look(clocks := self._source.clocks()):
                log.info("back after %.0f s of sleep", gone_s)
                self._feed(Woke())
                self._woke()
            tell_if_set(waking.set_s, clocks.wall)
            for node in self._contact.tend(self._now()):
                self._chores.start(self._contact.connect, node)
            self._adverts.tidy(len(self._core.roster))

    def _advert_learnt(self, advert: Advert) -> None:
        node = NodeId(advert.id)
        if not self._barred(node):
            self.datagrams.know(advert)
        self._touch()
        if self._core.roster.living <= LINKED_MAX:
            self._chores.start(self._contact.connect, node)

    def _barred(self, node: NodeId) -> bool:
        return self._keeper.statements.revoked(node) is not None

    def _admitted(self, node: NodeId) -> bool:
        """By its grant; or by the certificate on its link, while the grant is still on its way."""
        if self._keeper.statements.grant(node) is not None:
            return True
        return self._pool.get(node) is not None and not self._barred(node)

    def _trouble(self, node: NodeId, why: str) -> None:
        self._knowing(node).trouble = why[:200]
        self._touch()
