"""Members with real keys and real sockets, without the rest of an agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from meshnode.config import Links
from meshnode.errors import InvalidInput
from meshnode.links.address import Address
from meshnode.links.link import Incoming, Link, Reply, Side
from meshnode.links.pool import Pool
from meshnode.links.relay import Knowledge
from meshnode.trust.joining import Inviter
from meshnode.trust.keeper import Keeper
from meshnode.trust.redeeming import redeem
from meshnode.wire import messages
from meshnode.wire.messages import (
    Done,
    Hello,
    NodeId,
    Piece,
    PieceAsk,
    RelayClose,
    RelayData,
    RelayOffer,
    RelayOpen,
    StreamPing,
)

ASK = PieceAsk(model="0" * 64, file=0, piece=0)
HANG = PieceAsk(model="0" * 64, file=0, piece=1)
WAIT = PieceAsk(model="0" * 64, file=0, piece=4)
BIG = PieceAsk(model="0" * 64, file=0, piece=5)


class Station:
    """A keeper with a pool that echoes bodies, hangs, or fails, by the piece's number; and relays."""

    def __init__(self, keeper: Keeper, name: str, settings: Links) -> None:
        self.keeper = keeper
        self.id = keeper.id
        self.name = name
        self.events: list[str] = []
        self.cancelled = asyncio.Event()
        self.hanging = asyncio.Event()
        self.released = asyncio.Event()
        self.unwilling = ""
        self.takes = settings.body_bytes_max
        self.told: list[dict[str, Any]] = []
        """Why others hung up."""
        self.book: dict[NodeId, tuple[Address, ...]] = {}
        """Where this station believes others to be."""
        self.meddle: Callable[[Incoming], Awaitable[Incoming]] | None = None
        """What a bad relay does with what it is asked."""
        side = Side(
            hello=lambda: Hello(versions=(1,), id=keeper.id, name=name, boot=keeper.boot, body_bytes_max=self.takes),
            handler=self.handle,
            settings=settings,
            requests=messages.decode_peer_request,
            replies=messages.decode_peer_reply,
            told=self.told.append,
        )
        self.pool = Pool(
            keeper,
            side,
            opened=lambda link: self.events.append("up"),
            lost=lambda link, reason: self.events.append(f"lost: {reason}"),
            silent=lambda link: self.events.append("silent"),
            known=Knowledge(
                addresses=lambda node: self.book.get(node, ()),
                admitted=lambda node: keeper.statements.grant(node) is not None,
                unwilling=lambda: self.unwilling,
            ),
        )
        self.address: Address = ("", 0)

    async def to(self, other: Station, kind: str = "") -> Link:
        """The link to another station, by what is in the book."""
        return await self.pool.link(other.id, self.book.get(other.id, ()), kind=kind)

    async def handle(self, incoming: Incoming) -> Reply:
        request = incoming.request
        if isinstance(request, StreamPing):
            return Reply(Done())
        if isinstance(request, RelayOpen | RelayOffer | RelayData | RelayClose):
            if self.meddle is not None:
                incoming = await self.meddle(incoming)
            return await self.pool.relay.handle(incoming)
        assert isinstance(request, PieceAsk)
        if request.piece == 1:
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if request.piece == 4:
            self.hanging.set()
            await self.released.wait()
        if request.piece == 5:
            return Reply(Piece(), (bytes(2_000_001),))
        if request.piece == 2:
            raise InvalidInput("not that one", hint="another")
        if request.piece == 3:
            raise RuntimeError("a bug of ours")
        return Reply(Piece(), (incoming.body,))


async def of_one_mesh(folder: Path, names: str) -> list[Keeper]:
    """Homes of members, each a letter; the first founded the mesh and let the others in."""
    keepers = [Keeper.open(folder / name) for name in names]
    keepers[0].found("m", names[0])
    inviter = Inviter(keepers[0], host="127.0.0.1", hints=lambda: ["127.0.0.1"], peers=list, joined=lambda _: None)
    for keeper, name in zip(keepers[1:], names[1:], strict=True):
        token = await inviter.invite(expires_s=60, roles=None, zones=())
        keeper.adopt((await redeem(keeper, token, name)).membership)
    await inviter.stop()
    return keepers


@asynccontextmanager
async def stations(folder: Path, names: str, settings: Links | None = None) -> AsyncIterator[list[Station]]:
    """Members of one mesh, each a letter; the first founded it. None knows where another is."""
    keepers = await of_one_mesh(folder, names)
    everything = [s.data for keeper in keepers for s in map(keeper.statements.get, keeper.statements.ids()) if s]
    made = [Station(keeper, name, settings or Links()) for keeper, name in zip(keepers, names, strict=True)]
    for station in made:
        station.keeper.merge(everything)
        station.address = await station.pool.start("127.0.0.1", 0)
    try:
        yield made
    finally:
        for station in made:
            await station.pool.stop()
            station.keeper.close()


async def starred(hubs: list[Station], rim: list[Station]) -> None:
    """Each of the rim knows and has links to the hubs, and none of the rim where another is."""
    for hub in hubs:
        for station in rim:
            station.book[hub.id] = (hub.address,)
            await station.to(hub)


async def until(what: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait for a condition; fail when its time is up."""
    async with asyncio.timeout(within_s):
        while not what():  # noqa: ASYNC110 - the parts settle by themselves, and have no event for it
            await asyncio.sleep(0.01)
