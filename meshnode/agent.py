"""The composition root: builds the parts of an agent, starts them, drains them, stops them. Nothing else.

An agent lives in one mesh at a time. Joining another one ends this life and begins the next in the same process.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from meshnode.audit.book import Book
from meshnode.catalog.giving import Giver
from meshnode.catalog.index import Catalog
from meshnode.catalog.store import Store
from meshnode.config import Manners, Settings, host_port
from meshnode.edge import auditing, carrying, renewal, zoning
from meshnode.edge.advertising import Advertiser, content
from meshnode.edge.documents import ready
from meshnode.edge.events import Events
from meshnode.edge.flagging import checked, harmless, report, unflagged
from meshnode.edge.fleet import steward
from meshnode.edge.learning import learn, refresh_catalog, set_aside, unwilling
from meshnode.edge.local import LocalDoor
from meshnode.edge.meeting import Meeting
from meshnode.edge.node import Control, Node
from meshnode.edge.outside import Doors
from meshnode.edge.peers import PeerDoor
from meshnode.edge.policing import Policing
from meshnode.edge.relaying import knowledge
from meshnode.edge.rollouts import Rollouts
from meshnode.errors import ListenError
from meshnode.execution.devices import Devices
from meshnode.execution.supervisor import Execution
from meshnode.links.address import Address
from meshnode.links.link import Incoming, Link, Reply
from meshnode.links.local import LocalServer
from meshnode.links.pool import Pool
from meshnode.links.side import Side
from meshnode.links.yielding import Yielding
from meshnode.membership.belonging import Peers, enter, node_name
from meshnode.membership.discovery import Discovery
from meshnode.membership.gossip import Membership
from meshnode.membership.interfaces import Network
from meshnode.membership.trustsync import TrustKeeping
from meshnode.membership.view import peers_of
from meshnode.owner.sensing import Machine
from meshnode.owner.watch import Watch
from meshnode.tasks.assembly import World, assemble
from meshnode.trust import invites
from meshnode.trust.joining import Inviter
from meshnode.trust.keeper import Keeper
from meshnode.trust.statements import Statement
from meshnode.version import __version__
from meshnode.wire import messages
from meshnode.wire.messages import Hello, NodeId

log = logging.getLogger(__name__)

DRAIN_S = 3.0
PORT_TRIES = 20


class Agent:
    """One life of an agent in one mesh."""

    def __init__(
        self, home: Path, settings: Settings, keeper: Keeper, devices: Devices, stopping: asyncio.Event
    ) -> None:
        self.joined: Peers = ()
        self._keeper = keeper
        keeper.life_s = settings.trust.valid_days * 86400
        self._settings = settings
        self._stopping = stopping
        self._again = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False
        rng = random.Random()
        name = node_name(settings)
        side = Side(
            hello=self._hello,
            handler=self._asked,
            settings=settings.links,
            requests=messages.decode_peer_request,
            replies=messages.decode_peer_reply,
            told=lambda closing: self.node.trust.told(closing),
            late=lambda received: self.node.dispatcher.came_late(received),
        )
        pool = Pool(
            keeper,
            side,
            opened=self._link_up,
            lost=self._link_lost,
            silent=lambda link: self.node.membership.link_silent(link),
            rival=lambda link: membership.tell_rival(link),
            known=knowledge(lambda: self.node),
        )
        membership = Membership(
            keeper,
            pool,
            settings.membership,
            rng,
            name=name,
            changed=self._view_changed,
            woke=lambda: self.node.discovery.woke(),
        )
        policing = Policing(home, keeper)
        book = Book(home / "audit", settings.audit, keeper.spki, keeper.key.sign)
        store = Store(home / "models", settings.catalog, lambda: carrying.may_go(self.node))
        catalog = Catalog()
        execution = Execution(
            settings.execution,
            devices,
            folder=home / "worker",
            models=(home / "models",),
            changed=auditing.loads(book, lambda: execution.loaded(), lambda: self._advertiser.soon()),
            answer_bytes_max=settings.links.body_bytes_max,
            apart=lambda: owner.manners is Manners.POLITE and bool(owner.reading.display),
            condemned=lambda digest, how: report(self.node, digest, how),
        )
        owner = Watch(
            home,
            settings,
            Machine(settings.manners),
            changed=lambda: execution.welcome(owner.reason),
            tell=lambda: self._advertiser.soon(),
        )
        fetcher = carrying.fetcher(lambda: self.node, keeper.id, store, settings.catalog, rng)
        tasks = assemble(
            World(
                self_id=keeper.id,
                view=membership.view,
                failed=membership.failed,
                linked=pool.get,
                link=self._link_to,
                roles_of=self._roles_of,
                zone_of=lambda peer: zoning.granted(self.node, peer),
                resolve=checked(unflagged, lambda: self.node, catalog.route),
                manifest=checked(harmless, lambda: self.node, catalog.of_digest),
                bound=catalog.bound,
                on_disk=store.has,
                needs=store.needs,
                ensure=fetcher.ensure,
                willing=lambda: unwilling(self.node, stopping=self._leaving),
                served=lambda it: auditing.served(book, it),
                ended=lambda it: auditing.ended(book, it),
                permits=policing.permits(),
                set_aside=lambda peer, why: set_aside(self.node, tasks.estimates, peer, why),
            ),
            settings,
            rng,
            execution,
        )
        self.node = Node(
            home=home,
            settings=settings,
            keeper=keeper,
            devices=devices,
            pool=pool,
            yielding=Yielding(pool),
            membership=membership,
            discovery=Discovery(
                home,
                keeper.statements.mesh_id,
                settings.discovery,
                settings.membership,
                rng,
                attempt=lambda *found: self._meeting.attempt(*found),
                alone=lambda: not pool.links(),
                moved=self._moved,
            ),
            trust=TrustKeeping(keeper, pool.links, self._learnt),
            inviter=Inviter(
                keeper,
                host=host_port(settings.listen)[0],
                hints=lambda: list(self.node.discovery.addresses[: invites.HINTS_MAX]),
                peers=lambda: [(keeper.id, self.node.addresses()), *peers_of(membership.view())],
                joined=self._admitted,
            ),
            execution=execution,
            store=store,
            catalog=catalog,
            fetcher=fetcher,
            giver=Giver(store, settings.catalog, rng),
            dispatcher=tasks.dispatcher,
            serving=tasks.serving,
            lately=tasks.lately,
            owner=owner,
            fleet=steward(keeper.id, lambda: self.node, lambda: self._advertiser.soon()),
            policing=policing,
            book=book,
            control=Control(stopping.set, self._rejoin, self._leave, self._again.set),
            events=Events(keeper.id),
        )
        self._advertiser = Advertiser(
            lambda: content(self.node, zone=self._zone(), addresses=self.node.addresses(), draining=self._leaving),
            membership.advertise,
            nodes=lambda: sum(member.state == "alive" for member in membership.view()),
        )
        self._local = LocalServer(
            home,
            Side(
                hello=self._hello,
                handler=LocalDoor(self.node).handle,
                settings=settings.links,
                requests=messages.decode_local_request,
                replies=messages.decode_local_reply,
                local=True,
            ),
        )
        self._peer_door = PeerDoor(self.node)
        self._meeting = Meeting(self.node)
        self._doors = Doors(self.node)

    # --- life ---

    async def start(self, peers: Peers) -> None:
        """Start every part; when one fails, `stop` ends those that were started."""
        node = self.node
        await asyncio.to_thread(node.store.open)
        await asyncio.to_thread(node.book.start)
        node.book.note("started", node=self._keeper.id, mesh=self._keeper.statements.mesh_id, zone=self._zone())
        refresh_catalog(self.node)
        await zoning.claim(node)
        await asyncio.gather(node.execution.start(), node.owner.start())
        node.address = await self._listen()
        node.discovery.survey(node.address)
        self._advertiser.now()
        await node.inviter.start()
        await self._local.start()
        await self._doors.start()
        await node.discovery.start()
        node.discovery.introduce([row for row in peers if row[0] != self._keeper.id])
        self._start(self._advertiser.run())
        for work in (node.fleet.run(), node.yielding.run(), Rollouts(node).run(), renewal.run(node)):
            self._start(work)

    async def ended(self) -> None:
        """Wait until this life is over."""
        waits = [asyncio.ensure_future(self._stopping.wait()), asyncio.ensure_future(self._again.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def stop(self) -> None:
        """Take nothing new, finish what is open for a moment, say goodbye, end everything."""
        node = self.node
        self._leaving = True
        node.dispatcher.draining = True
        node.serving.hand_back("it is stopping")
        node.discovery.remember(node.membership.view())
        goodbye = asyncio.ensure_future(node.membership.stop("stop"))
        end = time.monotonic() + DRAIN_S
        while time.monotonic() < end and (node.dispatcher.open or node.execution.vitals()[0]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # two counts of two parts, watched for seconds at most: events would tell no more
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        parts = (
            goodbye,
            node.discovery.stop(),
            node.inviter.stop(),
            node.fetcher.stop(),
            node.trust.stop(),
            self._meeting.stop(),
            node.owner.stop(),
            self._local.stop(),
            self._doors.stop(),
            node.pool.stop(),
            node.execution.stop(),
        )
        for outcome in await asyncio.gather(*parts, return_exceptions=True):
            if isinstance(outcome, BaseException):
                log.error("while stopping: %r", outcome)
        await node.serving.runs.stop()
        node.book.note("stopped")
        await asyncio.to_thread(node.book.stop)

    def ready(self) -> dict[str, Any]:
        """The first thing that is announced."""
        return ready(self.node, node_name(self._settings), self._doors.addresses)

    async def _listen(self) -> Address:
        """TCP and UDP on one port; when any port will do, one that is free for both."""
        host, port = host_port(self._settings.listen)
        for attempt in range(PORT_TRIES):
            address = await self.node.pool.start(host, port)
            try:
                await self.node.membership.start(host, address[1])
            except ListenError:
                if port != 0 or attempt == PORT_TRIES - 1:
                    raise
                self.node.pool.unlisten()
                continue
            return address
        raise AssertionError

    # --- links ---

    def _hello(self) -> Hello:
        return Hello(
            versions=(messages.PROTOCOL_VERSION,),
            id=self._keeper.id,
            name=node_name(self._settings),
            boot=self._keeper.boot,
            root=self._keeper.statements.root_hash,
            port=self.node.address[1],
            software=f"meshnode/{__version__}",
            features=messages.FEATURES,
            body_bytes_max=self._settings.links.body_bytes_max,
        )

    def _link_up(self, link: Link) -> None:
        log.info("linked with %s (%s)", link.peer.name, link.peer.id[:8])
        self._meeting.link_up(link)
        self.node.trust.link_up(link)
        self.node.membership.link_up(link)
        self.node.discovery.links_changed()

    def _link_lost(self, link: Link, reason: str) -> None:
        log.info("the link with %s (%s) ended: %s", link.peer.name, link.peer.id[:8], reason)
        self.node.trust.link_lost(link)
        if not self._leaving:
            self.node.membership.link_lost(link, reason)
            self.node.discovery.links_changed()

    def _asked(self, incoming: Incoming) -> Awaitable[Reply]:
        if isinstance(incoming.request, messages.Infer):
            self.node.yielding.task()
        return self._peer_door.handle(incoming)

    async def _link_to(self, peer: NodeId) -> Link:
        self.node.yielding.task()
        return await self.node.pool.link(peer, self.node.membership.addresses(peer))

    def _moved(self, network: Network) -> None:
        self._advertiser.soon()
        self._meeting.moved(network)

    # --- trust ---

    def _roles_of(self, node: NodeId) -> frozenset[str]:
        grant = self._keeper.statements.grant(node, time.time())
        return frozenset() if grant is None else grant.roles

    def _zone(self) -> str:
        """What is shown: the zone of the grant, or what the settings say, which decides nothing."""
        return zoning.granted(self.node, self._keeper.id) or self._settings.zone

    def _admitted(self, statement: Statement) -> None:
        self.node.trust.publish([statement.data])
        self._learnt([statement])

    def _learnt(self, statements: list[Statement]) -> None:
        learn(self.node, statements)
        self._advertiser.soon()

    async def _rejoin(self, token: str) -> str:
        self.joined = await enter(self._keeper, self._settings, token, node_name(self._settings))
        self.node.discovery.left()
        asyncio.get_running_loop().call_later(0.1, self._again.set)  # once the answer is written
        return self._keeper.statements.mesh_name

    async def _leave(self) -> None:
        statement = self._keeper.leave()
        self.node.discovery.left()
        self.node.trust.publish([statement.data])
        asyncio.get_running_loop().call_later(0.3, self._stopping.set)  # once peers and the caller have heard

    # --- what this node says about itself ---

    def _view_changed(self) -> None:
        view = self.node.membership.view()
        self.node.discovery.remember(view)
        self.node.events.look(view)
        self.node.fleet.changed()

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a part of the agent ended by an error", exc_info=error)
