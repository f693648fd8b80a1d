"""Links over real TLS sockets between real keepers: calls, cancellation, errors, revocation, the local door."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop

from meshnode.config import Links
from meshnode.errors import (
    AgentUnavailable,
    DeadlineExceeded,
    InvalidInput,
    PeerLost,
    PermissionDenied,
    ProtocolError,
)
from meshnode.links.address import Address
from meshnode.links.link import Incoming, Link, Reply, Side
from meshnode.links.local import LocalServer, connect, socket_path
from meshnode.wire import messages
from meshnode.wire.messages import Ask, Document, Hello, PieceAsk, StreamPing
from meshnode.wire.terms import Message
from tests.links.stations import ASK, BIG, Station, stations, until


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Station, Station]]:
    """Two members of one mesh."""
    async with stations(tmp_path, "ab") as (a, b):
        yield a, b


async def linked(a: Station, b: Station) -> Link:
    return await a.pool.link(b.keeper.id, [b.address])


async def test_bodies_of_every_size_come_back(pair: tuple[Station, Station]) -> None:
    """Many calls at once on one link, small and large, each gets its own answer."""
    link = await linked(*pair)
    bodies = [os.urandom(size) for size in (0, 1, 1000, 20_000, 70_000, 3_000_000) for _ in range(4)]
    answers = await asyncio.gather(*(link.call(ASK, (body,)) for body in bodies))
    assert bodies == [bytes(answer.body) for answer in answers]


async def test_errors_cross_the_link(pair: tuple[Station, Station]) -> None:
    """A handler's typed error arrives as itself; a bug arrives without its details."""
    link = await linked(*pair)
    with pytest.raises(InvalidInput, match="not that one") as caught:
        await link.call(PieceAsk(model="0" * 64, file=0, piece=2))
    assert "another" == caught.value.hint
    with pytest.raises(Exception, match="the other side failed") as bug:
        await link.call(PieceAsk(model="0" * 64, file=0, piece=3))
    assert "bug of ours" not in str(bug.value)


class OfTomorrow(Message, frozen=True, tag="of_tomorrow"):
    """A request that this version does not know."""

    more: int = 1


async def test_a_request_of_a_newer_version_is_refused_politely(pair: tuple[Station, Station]) -> None:
    """A typed error that names it; the link goes on, and so does what else is on it."""
    link = await linked(*pair)
    beside = asyncio.ensure_future(link.call(ASK, (bytes(3_000_000),)))
    with pytest.raises(ProtocolError, match="of_tomorrow"):
        await link.call(OfTomorrow(), (b"body",))  # type: ignore[arg-type]
    assert 3_000_000 == len((await beside).body)
    assert link.usable
    assert b"x" == (await link.call(ASK, (b"x",))).body


async def test_cancelling_and_timing_out_reach_the_other_side(pair: tuple[Station, Station]) -> None:
    """The work there is cancelled; the link goes on."""
    a, b = pair
    link = await linked(a, b)
    hang = PieceAsk(model="0" * 64, file=0, piece=1)
    call = asyncio.ensure_future(link.call(hang, (os.urandom(100_000),)))
    async with asyncio.timeout(10):
        await b.hanging.wait()
        call.cancel()
        await b.cancelled.wait()
        b.cancelled.clear()
        with pytest.raises(DeadlineExceeded):
            await link.call(hang, timeout_s=0.05)
        await b.cancelled.wait()
        assert b"x" == bytes((await link.call(ASK, (b"x",))).body)


async def test_a_lost_connection_fails_every_call(pair: tuple[Station, Station]) -> None:
    """PeerLost at once for what is open, and for what comes later, which was certainly not sent."""
    a, b = pair
    link = await linked(a, b)
    call = asyncio.ensure_future(link.call(PieceAsk(model="0" * 64, file=0, piece=1)))
    async with asyncio.timeout(10):
        await b.hanging.wait()
        b.pool.links()[0].abort("cable")
        with pytest.raises(PeerLost) as caught:
            await call
    assert caught.value.sent
    with pytest.raises(PeerLost) as later:
        await link.call(ASK)
    assert not later.value.sent


async def test_two_dials_make_one_link(pair: tuple[Station, Station]) -> None:
    """When both dial at once, both keep the same connection."""
    a, b = pair
    await asyncio.gather(linked(a, b), linked(b, a))
    async with asyncio.timeout(10):
        while len(a.pool.links()) != 1 or len(b.pool.links()) != 1:  # noqa: ASYNC110 - both sides settle by themselves
            await asyncio.sleep(0.01)
    (here,), (there,) = a.pool.links(), b.pool.links()
    assert here.dialled != there.dialled
    assert b"y" == bytes((await here.call(ASK, (b"y",))).body)


class Leaky:
    """A path between two nodes that breaks for one of them only, as a NAT does that has forgotten a connection."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self.writers: list[asyncio.StreamWriter] = []
        self.broken = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*self.target)
        self.writers += [writer, there[1]]
        with suppress(ConnectionError):
            await asyncio.gather(self.one_way(reader, there[1]), self.one_way(there[0], writer))

    async def one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.broken:
                writer.write(data)

    def forget(self) -> None:
        """The far side sees a reset, the near side nothing at all."""
        self.broken = True
        self.writers[1].transport.abort()


async def test_a_link_that_only_one_side_lost_does_not_keep_the_other_out(pair: tuple[Station, Station]) -> None:
    """The side that holds a dead link for the better one doubts it when its peer dials again, and lets it in."""
    a, b = sorted(pair, key=lambda station: station.id)
    path = Leaky(b.address)
    server = await asyncio.start_server(path.carry, "127.0.0.1", 0)
    a.book[b.id] = (server.sockets[0].getsockname(),)
    b.book[a.id] = (a.address,)
    dead = await a.to(b)
    await until(lambda: b.pool.get(a.id))
    path.forget()
    await until(lambda: b.pool.get(a.id) is None)
    assert dead.usable

    await b.to(a)
    await until(lambda: dead.silent)
    fresh = await b.to(a)
    await until(lambda: a.pool.get(b.id) is not dead)
    assert b"y" == bytes((await fresh.call(ASK, (b"y",))).body)
    for writer in path.writers:
        writer.transport.abort()
    server.close()


async def test_the_wrong_node_and_a_revoked_one_are_refused(pair: tuple[Station, Station]) -> None:
    """Who answers must be who was dialled; a revoked node hears why."""
    a, b = pair
    with pytest.raises(PermissionDenied, match="answered"):
        await a.pool.dial(a.address, expected=b.keeper.id)
    link = await b.pool.dial(a.address)
    revocation = a.keeper.revoke(b.keeper.id, "stolen")
    with pytest.raises(PermissionDenied, match="stolen"):
        await b.pool.dial(a.address)
    text = f"node {b.id[:8]} was revoked: stolen"
    told = {"code": "revoked", "message": text, "statement": revocation.data}
    assert [told] == [why for why in b.told if why["code"] == "revoked"], "with the proof"
    a.pool.drop(b.id, "revoked", text, revocation.data)
    async with asyncio.timeout(20):
        await link.closed.wait()
    assert [told, told] == [why for why in b.told if why["code"] == "revoked"]
    assert ["up"] == [event for event in a.events if event == "up"], "the refused connection never was a link"


async def test_nobody_at_the_address_is_peer_lost(pair: tuple[Station, Station]) -> None:
    """A refused connection says so, and that nothing was sent."""
    a, b = pair
    await b.pool.stop()
    with pytest.raises(PeerLost, match="refused") as caught:
        await linked(a, b)
    assert not caught.value.sent
    assert caught.value.refused


async def test_the_local_door_is_for_this_user_alone(tmp_path: Path) -> None:
    """The socket has 0600 in a 0700 folder, also when the home's path is too long for one."""
    for home in (tmp_path / "h", tmp_path / ("long" * 30)):
        home.mkdir(mode=0o700)

        async def answer(incoming: Incoming) -> Reply:
            return Reply(Document(), (incoming.body,))

        side = Side(
            hello=lambda: Hello(versions=(1,), id="a" * 52, name="x", boot=1),
            handler=answer,
            settings=Links(),
            requests=messages.decode_local_request,
            replies=messages.decode_local_reply,
            local=True,
        )
        with pytest.raises(AgentUnavailable):
            await connect(home, Links())
        server = LocalServer(home, side)
        await server.start()
        path = socket_path(home)
        assert (0o600, 0o700) == (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777)
        link = await connect(home, Links())
        assert b"hi" == bytes((await link.call(Ask(verb="x"), (b"hi",))).body)
        with pytest.raises(Exception, match="not a valid request"):
            await link.call(StreamPing())
        await link.close()
        await server.stop()
        assert not path.exists()


def test_a_round_trip_is_measured_finely_on_the_loop_that_agents_run_on(tmp_path: Path) -> None:
    """uvloop's own clock counts whole milliseconds: on one machine every round trip was 0.0."""

    async def measured() -> float | None:
        async with stations(tmp_path, "ab") as (a, b):
            link = await linked(a, b)
            await until(lambda: link.rtt_s is not None)
            return link.rtt_s

    rtt_s = uvloop.run(measured())
    assert rtt_s is not None
    assert 0 < rtt_s % 0.001


async def test_a_body_that_the_other_side_does_not_take_is_not_sent(pair: tuple[Station, Station]) -> None:
    """Neither as a question nor as an answer: it would end the link, and be tried again for ever."""
    a, b = pair
    b.takes = 2_000_000
    link = await linked(a, b)
    with pytest.raises(InvalidInput, match="2000001 bytes; both sides take 2000000"):
        await link.call(ASK, (bytes(2_000_001),))
    with pytest.raises(InvalidInput, match="2000001 bytes; both sides take 2000000"):
        async with asyncio.timeout(20):
            await b.pool.links()[0].call(BIG)
    assert (True, 0) == (link.usable, link.in_flight)
    assert 2_000_000 == len((await link.call(ASK, (bytes(2_000_000),))).body)
