"""Members of a mesh with real keys, real links and real sealed datagrams on loopback, without the rest of an agent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

from meshnode.config import LAN
from meshnode.config import Membership as Settings
from meshnode.errors import ProtocolError
from meshnode.links.address import Address
from meshnode.links.link import Incoming, Link, Reply
from meshnode.links.pool import Pool
from meshnode.links.side import Side
from meshnode.membership import advert, updates
from meshnode.membership.gossip import Membership
from meshnode.membership.roster import raw_id
from meshnode.membership.updates import AnyPacket
from meshnode.trust.keeper import Keeper
from meshnode.wire import messages
from meshnode.wire.messages import Hello, NodeId
from tests.links.stations import of_one_mesh
from tests.waiting import WITHIN_S, until


class Tap:
    """A member's UDP port, with an ear at what comes; otherwise the port itself."""

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self.came: list[bytes] = []

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        data, sender = self._port.recvfrom(size)
        self.came.append(data)
        return data, sender

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    def fileno(self) -> int:
        return self._port.fileno()


class Mate:
    """A member: a keeper, links and the membership that runs on them. `wrong` is all that was ever held of anybody
    but alive."""

    def __init__(self, keeper: Keeper, name: str, settings: Settings, seed: int) -> None:
        self.keeper, self.id, self.name = keeper, keeper.id, name
        self.address: Address = ("", 0)
        self.wrong: list[tuple[NodeId, str]] = []
        side = Side(
            hello=lambda: Hello(versions=(1,), id=keeper.id, name=name, boot=keeper.boot, port=self.address[1]),
            handler=self._handle,
            settings=LAN.links,
            requests=messages.decode_peer_request,
            replies=messages.decode_peer_reply,
        )
        self.pool = Pool(
            keeper,
            side,
            opened=lambda link: self.membership.link_up(link),
            lost=self._lost,
            silent=lambda link: self.membership.link_silent(link),
        )
        self.membership = Membership(keeper, self.pool, settings, Random(seed), name=name, changed=self._look)

    async def _handle(self, incoming: Incoming) -> Reply:
        return await self.membership.handle(incoming)

    def _lost(self, link: Link, reason: str) -> None:
        self.membership.link_lost(link, reason)

    def _look(self) -> None:
        self.wrong += [(row.id, row.state) for row in self.core.roster if row.state in ("dead", "left")]

    @property
    def core(self) -> Any:
        return self.membership._core

    @property
    def key(self) -> bytes:
        """The raw public key."""
        return self.keeper.spki[-32:]

    @property
    def raw(self) -> bytes:
        """The 32 bytes of the id."""
        return raw_id(self.key)

    @property
    def tap(self) -> Tap:
        """The UDP port."""
        port = self.membership.datagrams._socket
        assert isinstance(port, Tap)
        return port

    @property
    def refused(self) -> int:
        """Datagrams that were dropped."""
        return self.membership.datagrams.dropped.total()

    def sees(self, *others: Mate) -> bool:
        """Whether it would send these datagrams and be understood."""
        held = [self.membership.member(other.id) for other in others]
        return all(
            member is not None
            and member.state == "alive"
            and member.advert is not None
            and member.advert.epoch == other.keeper.boot
            for member, other in zip(held, others, strict=True)
        )

    def sealed(self, to: Mate, packet: AnyPacket | bytes) -> bytes:
        """A datagram as this member would send it, which is not sent."""
        plain = packet if isinstance(packet, bytes) else updates.encode(packet)
        return self.membership.datagrams._sealer.seal(to.id, plain)

    def picture(self) -> list[Any]:
        """All that is believed: versions, states, words and accusations, addresses, who would be used."""
        rows = sorted(self.core.roster, key=lambda row: row.id)
        view = sorted(self.membership.view(), key=lambda member: member.id)
        return [rows, [(m.id, m.state, m.usable, m.addresses, m.address, m.reason) for m in view]]

    def tables(self) -> dict[str, int]:
        """How long everything is that is kept of others."""
        core, sealer = self.core, self.membership.datagrams._sealer
        return {
            "rows": len(core.roster),
            "adverts": len(self.membership._adverts._held),
            "known": len(self.membership._known),
            "keys": len(sealer._peers),
            "forgotten keys": len(sealer._forgotten),
            "relays": len(core._relays._nacks._heap),
            "alarms": len(core.ledger._alarms._heap),
            "suspicions": len(core.ledger.suspicions._alarms._heap),
            "accusers": len(core.ledger._accusers._buckets),
            "reminders": len(core._reminders._at) + len(core.ledger._proofs._at),
            "ears": len(core._ears._by_any) + len(core._ears._on_link),
            "turns": len(core._turns._left),
            "news": len(core.ledger.news),
        }

    async def start(self, port: int = 0) -> None:
        self.address = await self.pool.start("127.0.0.1", port)
        await self.membership.start(*self.address)
        datagrams = self.membership.datagrams
        assert datagrams._socket is not None
        datagrams._socket = Tap(datagrams._socket)  # type: ignore[assignment]
        self.membership.advertise(
            advert.Content(
                addresses=(self.address,),
                software="1",
                zone="",
                labels={},
                cpu=advert.Cpu("cpu", 1, 1.0),
                memory_total=1,
                gpus=(),
                providers=(),
                slots=1,
                models=(),
                power=advert.PowerState("mains", None),
            )
        )

    async def stop(self, reason: str | None = "stop") -> None:
        await self.membership.stop(reason)
        await self.pool.stop()


async def acquainted(mates: list[Mate]) -> None:
    """All have links to all, adverts of all, and nothing more to tell."""
    for n, mate in enumerate(mates):
        for other in mates[:n]:
            await mate.pool.link(other.id, (other.address,))

    def calm() -> bool:
        return all(m.sees(*(o for o in mates if o is not m)) and not m.core.ledger.news for m in mates)

    await until(calm, "all know all, and have told it")


@asynccontextmanager
async def mates(folder: Path, names: str, settings: Settings = LAN.membership) -> AsyncIterator[list[Mate]]:
    """Members of one mesh, each a letter, the first of which founded it, who all know each other."""
    keepers = await of_one_mesh(folder, names)
    for keeper in keepers[1:]:
        keeper.merge([data for _, data in keepers[0].statements.items()])
    made = [Mate(keeper, name, settings, n) for n, (keeper, name) in enumerate(zip(keepers, names, strict=True))]
    for mate in made:
        await mate.start()
    try:
        await acquainted(made)
        yield made
    finally:
        for mate in made:
            with suppress(ProtocolError):
                await mate.stop()
        for keeper in keepers:
            keeper.close()


class Stranger:
    """A UDP socket of nobody in the mesh, which counts what it is answered."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    async def throws(self, at: Mate, datagrams: list[bytes]) -> None:
        """Send them, few enough at a time that the kernel keeps them all, and wait until each was looked at."""
        for start in range(0, len(datagrams), BATCH):
            batch = datagrams[start : start + BATCH]
            at.tap.came.clear()
            mine = set(batch)
            for datagram in batch:
                self._socket.sendto(datagram, at.address)
            async with asyncio.timeout(WITHIN_S):
                while len(batch) > sum(datagram in mine for datagram in at.tap.came):  # noqa: ASYNC110 - read next turn
                    await asyncio.sleep(0)

    def answers(self) -> int:
        """How many datagrams came back since the last time this was asked."""
        found = 0
        with suppress(BlockingIOError):
            while self._socket.recv(65535):
                found += 1
        return found


BATCH = 64
