"""One start of an agent's shells on a simulated station: the product's own parts, joined as in `meshnode.agent`.

Real are keeper, pool, links, relays, membership, discovery (without multicast), the exchange of trust, catalog, and
tasks from the dispatcher to the door of another node. What is not: sockets, TLS, threads, and the workers, whose place
a `Workshop` takes that waits instead of computing.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol, cast

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from meshnode.audit.book import Book
from meshnode.catalog.index import Catalog
from meshnode.catalog.manifest import Manifest
from meshnode.config import Settings
from meshnode.edge import zoning
from meshnode.edge.events import Events
from meshnode.edge.fleet import steward
from meshnode.edge.learning import learn, refresh_catalog
from meshnode.edge.meeting import Meeting
from meshnode.edge.node import Node as Parts
from meshnode.edge.peers import PeerDoor
from meshnode.edge.policing import Policing
from meshnode.edge.renewal import Renewal
from meshnode.execution.supervisor import Execution
from meshnode.links.address import Address
from meshnode.links.link import Link
from meshnode.links.machine import Machine
from meshnode.links.pool import Pool
from meshnode.links.relay import Knowledge
from meshnode.links.side import Incoming, Reply, Side
from meshnode.membership.advert import Content, Cpu, Held, PowerState
from meshnode.membership.clocks import Source
from meshnode.membership.discovery import Discovery
from meshnode.membership.gossip import Membership
from meshnode.membership.interfaces import Network as Interfaces
from meshnode.membership.trustsync import TrustKeeping
from meshnode.membership.waking import Clocks
from meshnode.sim.shells.loop import SimLoop
from meshnode.sim.shells.process import Process
from meshnode.sim.shells.streams import TlsIdentity
from meshnode.sim.shells.workshop import Workshop
from meshnode.tasks.assembly import World, assemble
from meshnode.telling import Audit
from meshnode.trust.keeper import Keeper
from meshnode.trust.statements import Statement
from meshnode.trust.zones import kinship
from meshnode.wire import messages
from meshnode.wire.messages import Digest, Hello, Infer, NodeId, TaskId

PORT = 7433
WALL_S = 1_800_000_000.0
DRAIN_S = 3.0
LOOK_S = 0.02
ROLES = ("publisher", "submitter", "worker")
Peers = tuple[tuple[NodeId, tuple[Address, ...]], ...]


async def _spoken(*_: object) -> None:
    """Nobody dials here who then says nothing."""


class SimKeeper(Keeper):
    """A keeper as it is; its TLS is the simulator's, which shows the same certificates."""

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """What the in-memory streams show each other."""
        assert self.leaf is not None, "the simulated mesh was founded first"
        shown = cast(ssl.SSLContext, TlsIdentity(self.leaf))
        return shown, shown


class Watcher(Protocol):
    """Who looks on."""

    def looked(self, life: Life) -> None:
        """Its view of the mesh may be another now."""

    def linked(self, life: Life, peer: NodeId, why: str) -> None:
        """A link came up, or went: why."""

    def ran(self, life: Life, task: TaskId) -> None:
        """A task begins to run there."""

    def sent_through(self, life: Life, task: TaskId, relay: NodeId) -> None:
        """A task came there through a member."""

    def fetched(self, life: Life, model: Manifest) -> None:
        """A model is there."""


class Shelf:
    """In the place of the store: every model is there once it is asked for."""

    def digests(self) -> list[Digest]:
        """Nothing has to be let go of."""
        return []

    def begun(self) -> list[Digest]:
        """Nothing is half there."""
        return []


class Life:
    """See the module's docstring. The attributes that doors look at are those of `meshnode.edge.node.Node`."""

    def __init__(
        self,
        name: str,
        home: Path,
        settings: Settings,
        process: Process,
        loop: SimLoop,
        seed: str,
        *,
        watcher: Watcher,
        wall_offset_s: float = 0.0,
    ) -> None:
        station = process.station
        self.name = name
        self.home = home
        self.settings = settings
        self.process = process
        self.station = station
        self.loop = loop
        self.leaving = False
        self.wall_offset_s = wall_offset_s
        self._watcher = watcher
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.keeper = keeper = SimKeeper.open(home)
        self.events = Events(keeper.id, lambda: self._clocks().wall)
        self.address: Address = (station.host, PORT)
        self._tasks: set[asyncio.Task[None]] = set()
        machine = Machine(loop.time, loop.time, rng, station.listening, station.pair, _spoken, lambda _: 0)
        source = Source(self._clocks, self._birth, self._epoch_key)
        parts = cast(Parts, self)  # as much of one as is needed here
        self._door, self._meeting = PeerDoor(parts), Meeting(parts)
        self.fleet = steward(keeper.id, lambda: parts, lambda: None)  # there are no blueprints here
        self.book = Book(home / "audit", Audit(enabled=False), keeper.spki, keeper.key.sign)
        self.renewal = Renewal()  # nothing ends within a simulation
        side = Side(
            hello=self._hello,
            handler=self._handle,
            settings=settings.links,
            requests=messages.decode_peer_request,
            replies=messages.decode_peer_reply,
            told=lambda closing: self.trust.told(closing),
            late=lambda received: self.dispatcher.came_late(received),
            machine=machine,
        )
        self.pool = pool = Pool(
            keeper,
            side,
            opened=self._link_up,
            lost=self._link_lost,
            silent=lambda link: self.membership.link_silent(link),
            rival=lambda link: self.membership.tell_rival(link),
            known=Knowledge(
                addresses=lambda peer: self.membership.addresses(peer),
                alive=self._holds_alive,
                admitted=lambda peer: keeper.statements.grant(peer) is not None,
                unwilling=lambda: "it is stopping" if self.leaving else "",
                kin=lambda peer, member: kinship(zoning.granted(parts, peer), zoning.granted(parts, member)),
            ),
        )
        self.membership = membership = Membership(
            keeper,
            pool,
            settings.membership,
            rng,
            name=name,
            changed=self._view_changed,
            woke=lambda: self.discovery.woke(),
            source=source,
        )
        self.discovery = Discovery(
            home,
            keeper.statements.mesh_id,
            settings.discovery,
            settings.membership,
            rng,
            attempt=self._meeting.attempt,
            alone=lambda: not pool.links(),
            moved=self._meeting.moved,
            source=source,
            read=lambda host, wanted: Interfaces(reach=(station.host,), own=frozenset({station.host})),
        )
        self.trust = TrustKeeping(keeper, pool.links, self._learnt)
        self.catalog = Catalog()
        self.execution = Workshop(
            rng.choice((0.01, 0.05, 0.2)),
            loop,
            loaded=lambda: membership.advertise(self._content()),
            began=lambda task: watcher.ran(self, task),
        )
        self.store, self.policing = Shelf(), Policing(home, keeper)
        tasks = assemble(
            World(
                self_id=keeper.id,
                view=membership.view,
                failed=membership.failed,
                linked=pool.get,
                link=self._link_to,
                roles_of=self._roles_of,
                zone_of=lambda node: zoning.granted(cast(Parts, self), node),
                resolve=self.catalog.resolve,
                manifest=self.catalog.of_digest,
                bound=self.catalog.bound,
                on_disk=lambda digest: True,
                needs=lambda digest: 0,
                ensure=self._ensure,
                willing=lambda: "it is stopping" if self.leaving else membership.copied,
                set_aside=lambda peer, why: None,
                now=loop.time,
            ),
            settings,
            rng,
            cast(Execution, self.execution),
        )
        self.dispatcher, self.serving = tasks.dispatcher, tasks.serving

    # --- life ---

    async def start(self, peers: Peers) -> None:
        """As `Agent.start`."""
        refresh_catalog(cast(Parts, self))
        await self.pool.start(*self.address)
        await self.membership.start(*self.address)
        self.discovery.survey(self.address)
        self.membership.advertise(self._content())
        await self.discovery.start()
        self.discovery.introduce([row for row in peers if row[0] != self.keeper.id])

    async def stop(self) -> None:
        """As `Agent.stop`."""
        self.leaving = self.dispatcher.draining = True
        self.serving.hand_back("it is stopping")
        self.discovery.remember(self.membership.view())
        goodbye = asyncio.ensure_future(self.membership.stop("stop"))
        end = self.loop.time() + DRAIN_S
        while self.loop.time() < end and (self.dispatcher.open or self.execution.busy):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)  # as the agent does
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        parts = (goodbye, self.discovery.stop(), self.trust.stop(), self._meeting.stop(), self.pool.stop())
        for outcome in await asyncio.gather(*parts, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        await self.serving.runs.stop()
        self.keeper.close()

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work of this process that ends with it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def addresses(self) -> tuple[Address, ...]:
        """Where others reach this node."""
        return tuple((address, PORT) for address in self.discovery.addresses)

    def publish(self, manifest: dict[str, Any]) -> None:
        """Make a model known, as `meshnode model add` does in the end."""
        statement = self.keeper.publish_model(manifest)
        self.trust.publish([statement.data])
        self._learnt([statement])

    def admitted(self, statement: Statement) -> None:
        """A machine was let in here, as at the end of `meshnode join`."""
        self.trust.publish([statement.data])
        self._learnt([statement])

    # --- as in `meshnode.agent` ---

    def _hello(self) -> Hello:
        return Hello(
            versions=(messages.PROTOCOL_VERSION,),
            id=self.keeper.id,
            name=self.name,
            boot=self.keeper.boot,
            root=self.keeper.statements.root_hash,
            port=PORT,
            features=messages.FEATURES,
            body_bytes_max=self.settings.links.body_bytes_max,
        )

    def _link_up(self, link: Link) -> None:
        self._watcher.linked(self, link.peer.id, "a link is up")
        self._meeting.link_up(link)
        self.trust.link_up(link)
        self.membership.link_up(link)
        self.discovery.links_changed()

    def _link_lost(self, link: Link, reason: str) -> None:
        self._watcher.linked(self, link.peer.id, f"the link is gone: {reason}")
        self.trust.link_lost(link)
        if not self.leaving:
            self.membership.link_lost(link, reason)
            self.discovery.links_changed()

    def _view_changed(self) -> None:
        self.discovery.remember(self.membership.view())
        self._watcher.looked(self)

    def _learnt(self, statements: list[Statement]) -> None:
        learn(cast(Parts, self), statements)

    def _roles_of(self, node: NodeId) -> frozenset[str]:
        grant = self.keeper.statements.grant(node)
        return frozenset() if grant is None else grant.roles

    def _holds_alive(self, peer: NodeId) -> bool:
        member = self.membership.member(peer)
        return member is not None and member.state in ("alive", "suspect")

    async def _link_to(self, peer: NodeId) -> Link:
        return await self.pool.link(peer, self.membership.addresses(peer))

    async def _ensure(self, manifest: Manifest) -> Path:
        zoning.check_here(cast(Parts, self), manifest)
        self._watcher.fetched(self, manifest)
        return self.home

    async def _handle(self, incoming: Incoming) -> Reply:
        if isinstance(incoming.request, Infer) and incoming.link.via is not None:
            self._watcher.sent_through(self, TaskId(incoming.request.task), incoming.link.via.id)
        return await self._door.handle(incoming)

    # --- the machine ---

    def _clocks(self) -> Clocks:
        now, slept_s = self.loop.now, self.process.slept_s  # asked for from outside of the process, too
        return Clocks(now - slept_s, WALL_S + now + self.wall_offset_s, now)

    def _birth(self) -> int:
        return int(self._clocks().wall * 1000) << 16 | self.rng.randrange(1 << 16)

    def _epoch_key(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(hashlib.sha256(f"{self.seed} {self.rng.random()}".encode()).digest())

    def _content(self) -> Content:
        digests = [manifest.digest for manifest in self.catalog.manifests()]
        return Content(
            addresses=self.addresses(),
            software="sim",
            zone="",
            labels={},
            cpu=Cpu("sim", 1, 1.0),
            memory_total=1 << 30,
            gpus=(),
            providers=("none",),
            slots=1,
            models=tuple(Held(digest, *self.execution.held(digest)) for digest in digests),
            power=PowerState("mains", None),
        )
