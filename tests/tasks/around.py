"""What a submitting agent sees around it, for the tests of this folder: members, their grants, and peers that answer.

A peer is a real link over a socket pair with a handler behind it; what it quotes and how it runs can be set.
"""

from __future__ import annotations

import asyncio
import random
import socket
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from meshnode.catalog.manifest import File, Manifest
from meshnode.config import LAN, Links, Routing
from meshnode.errors import MeshError, PermissionDenied, ProtocolError
from meshnode.links.link import Incoming, Link, Reply
from meshnode.links.side import Side, lost
from meshnode.membership.advert import Advert, Cpu, Held, PowerState
from meshnode.membership.view import Member
from meshnode.routing.estimates import Estimates
from meshnode.tasks.choosing import Chooser
from meshnode.tasks.explaining import Explaining
from meshnode.tasks.finding import find_member
from meshnode.tasks.knowing import Knowing
from meshnode.tasks.runs import Runs
from meshnode.wire import messages
from meshnode.wire.messages import Hello, Infer, Inferred, NodeId, Quote, QuoteAsk, ResultAsk

ME, ANN, BOB, CAT = (NodeId(letter * 52) for letter in "mabc")
NAMES = {ME: "me", ANN: "ann", BOB: "bob", CAT: "cat"}
MODEL = Manifest("m", 1, (File("m.onnx", 1000, bytes(32), bytes(32)),), (), (), 4096, publisher=ME)
SETTINGS: Routing = LAN.routing
Run = Callable[[Infer, memoryview], Awaitable[Reply]]


def advert(node: NodeId, **fields: Any) -> Advert:
    """A worker that has the model in memory."""
    given: dict[str, Any] = {
        "addresses": (("127.0.0.1", 1),),
        "software": "0",
        "zone": "",
        "labels": {},
        "cpu": Cpu("cpu", 1, 1.0),
        "memory_total": 1,
        "gpus": (),
        "providers": ("CPUExecutionProvider",),
        "slots": 1,
        "models": (Held(MODEL.digest, True, 0.01),),
        "power": PowerState("mains", None),
    }
    made = {"id": node, "name": NAMES[node], "key": bytes(32), "boot": 1, "version": 1, "epoch": 1}
    return Advert(**(given | made | {"epoch_key": bytes(32)} | fields))


def member(node: NodeId, *, state: Any = "alive", usable: bool | None = None, **fields: Any) -> Member:
    """One node as seen from here; the fields are its advert's."""
    return Member(
        id=node,
        name=NAMES[node],
        state=state,
        usable=state == "alive" if usable is None else usable,
        advert=advert(node, **fields),
        addresses=(("127.0.0.1", 1),),
        address=("127.0.0.1", 1),
        found_by="gossip",
        path="direct",
        reason="",
        since=0.0,
    )


def inferred(by: NodeId, body: bytes, **changes: Any) -> Reply:
    """A whole answer, or one that is wrong in some field."""
    fields = {"model": MODEL.digest, "node": by, "checksum": zlib.crc32(body), "provider": "CPUExecutionProvider"}
    return Reply(Inferred(**({"outputs": (), "queue_s": 0.0, "run_s": 0.01} | fields | changes)), (body,))


async def hang(_message: Infer, _body: memoryview) -> Reply:
    """Never answers."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


@dataclass
class Far:
    """A peer: what it says when it is asked."""

    id: NodeId
    quote: Quote | MeshError | None = field(default_factory=lambda: Quote(backlog_s=0.0, service_s=0.01, slots=1))
    """None is silence."""
    run: Run | None = None
    asked: list[QuoteAsk] = field(default_factory=list)
    ran: list[Infer] = field(default_factory=list)
    cancelled: int = 0
    link: Link | None = None
    """Its own end."""
    runs: Runs = field(init=False)
    boot: int = 1

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was here."""
        self.runs = Runs(self._run)
        self.boot += 1

    async def handle(self, incoming: Incoming) -> Reply:
        request = incoming.request
        if isinstance(request, QuoteAsk):
            self.asked.append(request)
            return await self._quote()
        if isinstance(request, Infer):
            return await self.runs.infer(request, incoming.body, ME, incoming.link.closed.is_set)
        if isinstance(request, ResultAsk):
            return await self.runs.result(request, ME, incoming.link.closed.is_set)
        raise ProtocolError("not asked of peers here")

    async def _run(self, message: Infer, body: memoryview, _submitter: NodeId) -> Reply:
        self.ran.append(message)
        try:
            if self.run is not None:
                return await self.run(message, body)
            return inferred(self.id, bytes(body)[::-1])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _quote(self) -> Reply:
        if self.quote is None:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        if isinstance(self.quote, MeshError):
            raise self.quote
        assert self.quote is not None
        return Reply(self.quote, ())


class Around:
    """The mesh around `ME`: peers without a link are dialled when they are wanted."""

    def __init__(self) -> None:
        self.members: dict[NodeId, Member] = {ME: member(ME)}
        self.far: dict[NodeId, Far] = {}
        self.links: dict[NodeId, Link] = {}
        self.no_workers: set[NodeId] = set()
        self.zones: dict[NodeId, str] = {}
        """That grants name."""
        self.own: Quote | MeshError = Quote(backlog_s=0.0, service_s=0.01, slots=1)
        self.own_asked: list[QuoteAsk] = []
        self.released: list[QuoteAsk] = []
        self.dialled: list[NodeId] = []
        self._ends: list[Link] = []

    async def peer(self, node: NodeId, *, state: Any = "alive", linked: bool = True, **fields: Any) -> Far:
        """Add a peer; the fields are its advert's, and its grant names the same zone."""
        self.members[node] = member(node, state=state, **fields)
        self.zones.setdefault(node, fields.get("zone", ""))
        far = self.far[node] = Far(node)
        if linked:
            await self._connect(far)
        return far

    def alone(self, error: MeshError) -> None:
        """This node takes nothing itself."""
        self.own = error

    def chooser(self, settings: Routing = SETTINGS) -> Chooser:
        rng = random.Random(1)
        estimates = Estimates(settings, rng)
        knowing = Knowing(
            ME,
            estimates,
            lambda: tuple(self.members.values()),
            self.linked,
            lambda node: node not in self.no_workers,
            lambda node: self.zones.get(node, ""),
        )
        return Chooser(
            self_id=ME,
            settings=settings,
            rng=rng,
            estimates=estimates,
            knowing=knowing,
            explaining=Explaining(knowing.name),
            quote_here=self._quote_here,
            release_here=self.released.append,
            link=self.link,
            linked=self.linked,
            find=lambda wanted: find_member(tuple(self.members.values()), wanted),
        )

    def linked(self, node: NodeId) -> Link | None:
        link = self.links.get(node)
        return link if link is not None and link.usable else None

    async def link(self, node: NodeId) -> Link:
        if (link := self.linked(node)) is not None:
            return link
        self.dialled.append(node)
        far = self.far.get(node)
        if far is None:
            raise lost(f"node {node[:8]} cannot be reached", sent=False, refused=True)
        return await self._connect(far)

    def cut(self, node: NodeId) -> None:
        """The power of a peer is cut: its link breaks, and no other can be had."""
        far = self.far.pop(node)
        assert far.link is not None
        far.link.abort("power cut")

    async def close(self) -> None:
        for link in self._ends:
            link.abort("the test is over")
        await asyncio.gather(*(link.closed.wait() for link in self._ends))

    def _quote_here(self, ask: QuoteAsk, _submitter: NodeId) -> Reply:
        self.own_asked.append(ask)
        if isinstance(self.own, MeshError):
            raise self.own
        return Reply(self.own, ())

    async def _connect(self, far: Far) -> Link:
        loop = asyncio.get_running_loop()
        here = Link(_side(ME, _refuse), dialled=True, prove=lambda _: far.id)
        there = Link(_side(far.id, far.handle, far.boot), dialled=False, prove=lambda _: ME)
        ours, theirs = socket.socketpair()
        self._ends += [here, there]
        await loop.create_connection(lambda: here, sock=ours)
        await loop.connect_accepted_socket(lambda: there, theirs)
        await here.opened()
        await there.opened()
        self.links[far.id], far.link = here, there
        return here


def _side(node: NodeId, handler: Callable[[Incoming], Awaitable[Reply]], boot: int = 1) -> Side:
    return Side(
        hello=lambda: Hello(versions=(messages.PROTOCOL_VERSION,), id=node, name=NAMES[node], boot=boot),
        handler=handler,
        settings=Links(),
        requests=messages.decode_peer_request,
        replies=messages.decode_peer_reply,
    )


async def _refuse(_incoming: Incoming) -> Reply:
    raise PermissionDenied("nothing is asked of this side")
