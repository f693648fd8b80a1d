"""Links through a third member, over real sockets: the pair does not know where the other is, so it cannot dial."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from meshnode.config import MIB, Links
from meshnode.errors import MeshError, PeerLost, PermissionDenied, ProtocolError, Refused
from meshnode.links.link import Incoming, Link
from meshnode.links.pool import BULK
from meshnode.links.side import path_of
from meshnode.wire.messages import RelayData, RelayOffer, RelayOpen
from tests.links.stations import ASK, HANG, WAIT, Station, starred, stations, until

FAST = replace(Links(), relay_bytes_s=0.0, relay_total_bytes_s=0.0, relay_retry_s=0.05, relay_retry_max_s=0.2)
NAME = "0" * 32


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[list[Station]]:
    """A relay that everybody knows, and two that do not know where the other is."""
    async with stations(tmp_path, "rab", FAST) as (r, a, b):
        await starred([r], [a, b])
        yield [r, a, b]


async def echoes(link: Link, nbytes: int) -> None:
    body = os.urandom(nbytes)
    assert body == bytes((await link.call(ASK, (body,))).body)


async def test_two_that_cannot_dial_each_other_talk_through_a_third(trio: list[Station]) -> None:
    """The link is one like any other: any size, both ways, many at once; both sides know through whom it goes."""
    _, a, b = trio
    link = await a.to(b)

    assert "relay via r" == path_of(link)
    await asyncio.gather(*(echoes(link, size) for size in (0, 1, 20_000, 5_000_000) for _ in range(3)))
    there = b.pool.get(a.id)
    assert there is not None
    assert "relay via r" == path_of(there)
    await asyncio.gather(*(echoes(there, size) for size in (0, 1, 20_000, 5_000_000)))
    await until(lambda: link.rtt_s is not None)
    assert ["up", "up"] == a.events


async def test_a_dial_that_hangs_is_helped(tmp_path: Path) -> None:
    """An address that swallows everything costs `relay_after_s`, not the whole time of a handshake."""
    with socket.create_server(("127.0.0.1", 0)) as hole:  # the kernel takes the call, and nobody answers
        async with stations(tmp_path, "rab", replace(FAST, relay_after_s=0.05, handshake_s=60.0)) as (r, a, b):
            await starred([r], [a, b])
            a.book[b.id] = (hole.getsockname(),)
            async with asyncio.timeout(20):
                assert "relay via r" == path_of(await a.to(b))


async def test_when_both_dial_one_link_stays(trio: list[Station]) -> None:
    """Both ask for a circuit at once, and both keep the same one."""
    _, a, b = trio
    await asyncio.gather(a.to(b), b.to(a))

    def settled() -> bool:
        here, there = a.pool.get(b.id), b.pool.get(a.id)
        return here is not None and there is not None and here.dialled != there.dialled

    await until(settled)
    link = a.pool.get(b.id)
    assert link is not None
    await echoes(link, 100_000)


async def test_a_relay_that_dies_is_replaced(tmp_path: Path) -> None:
    """Calls fail at once as on any broken link, and the next link goes through another member."""
    async with stations(tmp_path, "rqab", FAST) as (r, q, a, b):
        await starred([r], [a, b])
        link = await a.to(b)
        await starred([q], [a, b])
        call = asyncio.ensure_future(link.call(HANG))
        await b.hanging.wait()
        for held in r.pool.links():
            held.abort("power cut")
        with pytest.raises(PeerLost, match="r, which relayed it, was lost"):
            await call

        again = await a.to(b)
        assert "relay via q" == path_of(again)
        await echoes(again, 100_000)


async def test_a_relay_that_stops_says_so(trio: list[Station]) -> None:
    """Its circuits end before its links, with the reason."""
    r, a, b = trio
    link = await a.to(b)
    await r.pool.stop()
    await until(lambda: link.closed.is_set())
    assert "r, which relayed it: the relay is stopping" == link.close_reason


async def test_a_direct_way_replaces_the_relay(trio: list[Station]) -> None:
    """When the direct way opens, both sides go over to it; what is under way is finished on the old one."""
    _, a, b = trio
    old = await a.to(b)
    bulk = await a.to(b, BULK)
    assert "relay via r" == path_of(bulk)
    call = asyncio.ensure_future(old.call(WAIT, (b"under way",)))
    await b.hanging.wait()

    a.book[b.id] = (b.address,)
    await until(lambda: (link := a.pool.get(b.id)) is not None and link.via is None)
    await until(lambda: (link := b.pool.get(a.id)) is not None and link.via is None)
    await until(lambda: bulk.closed.is_set())
    assert not call.done()
    b.released.set()
    assert b"under way" == bytes((await call).body)
    await until(lambda: old.closed.is_set())
    assert "direct" == path_of(await a.to(b))
    assert "direct" == path_of(await a.to(b, BULK))


async def test_direct_beats_relayed_whoever_dials(trio: list[Station]) -> None:
    """A link through a member never replaces a direct one; the one that asked for it keeps the direct one too."""
    r, a, b = trio
    for one, other in ((a, b), (b, a)):
        one.book[other.id] = (other.address,)
    direct = await a.to(b)
    via = a.pool.get(r.id)
    assert via is not None
    relayed = await a.pool.dial_through(via, b.id, "")
    await until(lambda: relayed.closed.is_set())
    assert direct is a.pool.get(b.id)
    await echoes(direct, 1000)


async def test_a_relay_is_full_and_says_so(tmp_path: Path) -> None:
    """More circuits than one node may have are refused with the limit; the caller sees why it has no link."""
    async with stations(tmp_path, "rabc", replace(FAST, relay_circuits_peer=1)) as (r, a, b, c):
        await starred([r], [a, b, c])
        await a.to(b)
        with pytest.raises(PeerLost, match=f"1 circuits of node {a.id[:8]} are open here, the limit") as caught:
            await a.to(c)
        assert not caught.value.sent


async def test_a_relay_keeps_to_its_rate(tmp_path: Path) -> None:
    """2 MiB through a circuit of 1 MiB a second: the first goes at once, and the second takes its second."""
    async with stations(tmp_path, "rab", replace(FAST, relay_bytes_s=1.0 * MIB)) as (r, a, b):
        await starred([r], [a, b])
        link = await a.to(b)
        began = time.monotonic()
        await echoes(link, MIB)
        assert time.monotonic() - began >= 0.9


async def test_an_unwilling_relay_says_why(tmp_path: Path) -> None:
    """A node that is stopping, on battery or told not to carries nothing for others."""
    async with stations(tmp_path, "rab", FAST) as (r, a, b):
        await starred([r], [a, b])
        r.unwilling = "it runs on battery"
        with pytest.raises(PeerLost, match="it runs on battery"):
            await a.to(b)
    async with stations(tmp_path / "off", "rab", replace(FAST, relay=False)) as (r, a, b):
        await starred([r], [a, b])
        with pytest.raises(PeerLost, match=r"links\.relay"):
            await a.to(b)


async def test_a_relay_sees_only_ciphertext(trio: list[Station]) -> None:
    """What passes through it holds nothing of what is said."""
    r, a, b = trio
    seen = bytearray()

    async def listen(incoming: Incoming) -> Incoming:
        seen.extend(incoming.body)
        return incoming

    r.meddle = listen
    secret = b"a secret of a and b"
    answer = await (await a.to(b)).call(ASK, (secret * 1000,))
    assert secret * 1000 == bytes(answer.body)
    assert len(seen) > 2 * 1000 * len(secret)
    assert secret not in seen


@pytest.mark.parametrize("crime", ["flips a bit", "drops a chunk", "repeats a chunk", "swaps the order"])
async def test_a_relay_that_meddles_ends_the_link(trio: list[Station], crime: str) -> None:
    """A changed, missing, doubled or reordered chunk is an error, never other data."""
    r, a, b = trio
    link = await a.to(b)
    carried = [0]

    async def meddle(incoming: Incoming) -> Incoming:
        request = incoming.request
        if not isinstance(request, RelayData):
            return incoming
        carried[0] += 1
        if carried[0] < 5:
            return incoming
        body, seq = bytearray(incoming.body), request.seq
        if crime == "flips a bit":
            body[len(body) // 2] ^= 1
        elif crime == "drops a chunk":
            raise Refused("lost")
        else:
            seq = seq - 1 if crime == "repeats a chunk" else seq ^ 1
        changed = RelayData(circuit=request.circuit, seq=seq)
        return Incoming(incoming.link, incoming.peer, changed, memoryview(body))

    r.meddle = meddle
    answers: list[bytes] = []
    body = os.urandom(3_000_000)

    async def ask() -> None:
        while True:
            answers.append(bytes((await link.call(ASK, (body,))).body))

    with pytest.raises(PeerLost):
        async with asyncio.timeout(20):
            await ask()
    assert all(answer == body for answer in answers)
    r.meddle = None
    await until(lambda: link.closed.is_set())
    await echoes(await a.to(b), 10_000)


@pytest.mark.parametrize("lie", ["about the target", "about the source"])
async def test_a_relay_does_not_choose_who_is_at_the_end(tmp_path: Path, lie: str) -> None:
    """The ends prove themselves to each other: a relay that connects somebody else than it says is found out."""
    async with stations(tmp_path, "rabc", FAST) as (r, a, b, c):
        await starred([r], [a, b, c])
        liar = r if lie == "about the target" else b

        async def tell(incoming: Incoming) -> Incoming:
            request = incoming.request
            if isinstance(request, RelayOpen):
                request = RelayOpen(circuit=request.circuit, target=c.id)
            if isinstance(request, RelayOffer):
                request = RelayOffer(circuit=request.circuit, source=c.id)
            return Incoming(incoming.link, incoming.peer, request, incoming.body)

        liar.meddle = tell
        with pytest.raises(PeerLost, match="answered"):
            await a.to(b)
        assert a.pool.get(c.id) is None
        assert b.pool.get(c.id) is None


async def test_strangers_get_no_circuit(trio: list[Station]) -> None:
    """A target without a grant is refused by the relay, and a source without one by the target."""
    r, a, b = trio
    via, toward = a.pool.get(r.id), r.pool.get(b.id)
    assert via is not None
    assert toward is not None
    with pytest.raises(PermissionDenied, match="no grant"):
        await via.call(RelayOpen(circuit=NAME, target="c" * 52))
    with pytest.raises(PermissionDenied, match="no grant"):
        await toward.call(RelayOffer(circuit=NAME, source="c" * 52))
    for target in (a.id, r.id):
        with pytest.raises(ProtocolError, match="three nodes"):
            await via.call(RelayOpen(circuit=NAME, target=target))
    with pytest.raises(Refused, match="no such circuit"):
        await via.call(RelayData(circuit=NAME, seq=0), (b"x",))


async def test_relays_are_not_chained(tmp_path: Path) -> None:
    """A relayed link carries no circuits, and a node that is only reached through a member is no relay's neighbour."""
    async with stations(tmp_path, "rabc", FAST) as (r, a, b, c):
        await starred([r], [a, b])
        link = await a.to(b)
        c.book[b.id] = (b.address,)
        await c.to(b)
        with pytest.raises(PermissionDenied, match="relayed link carries no circuits"):
            await link.call(RelayOpen(circuit=NAME, target=c.id))
        with pytest.raises(PeerLost, match=f"no direct link to node {a.id[:8]}"):
            await c.to(a)


@pytest.mark.parametrize("out", ["a", "b", "r"])
async def test_revocation_ends_circuits_at_once(trio: list[Station], out: str) -> None:
    """Whoever of the three is thrown out, the relayed link ends when those that stay hear it."""
    r, a, b = trio
    gone = {"r": r, "a": a, "b": b}[out]
    link = await a.to(b)
    for station in trio:
        if station is not gone:
            station.pool.drop(gone.id, "revoked", "this node was revoked")
    await until(lambda: link.closed.is_set() and not r.pool.relay.carried)


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Sockets and tasks of circuits are gone when links end, when a handshake fails and when the agents stop."""
    async with stations(tmp_path, "rab", FAST) as (r, a, b):
        await starred([r], [a, b])
        gc.collect()
        before = psutil.Process().num_fds()
        for _ in range(5):
            link = await a.to(b)
            await echoes(link, 200_000)
            await link.close()
            await until(lambda: b.pool.get(a.id) is None)
        await until(lambda: psutil.Process().num_fds() <= before and not r.pool.relay.carried)
        await a.to(b)
    await until(lambda: len(asyncio.all_tasks()) == 1)
    gc.collect()
    assert psutil.Process().num_fds() < before


async def test_members_are_not_asked_for_who_has_just_ended(tmp_path: Path) -> None:
    """A process that was reached directly was killed: its machine says so at once, and the next ask goes to members."""
    async with stations(tmp_path, "abr") as (a, b, r):
        await starred([r], [a, b])
        a.book[b.id] = (b.address,)
        await a.to(b)
        asked = list[Incoming]()

        async def note(incoming: Incoming) -> Incoming:
            asked.append(incoming)
            return incoming

        r.meddle = note
        b.pool.unlisten()
        for link in b.pool.links():
            link.abort("killed")
        await until(lambda: a.pool.get(b.id) is None)
        with pytest.raises(PeerLost) as caught:
            await a.to(b)
        assert caught.value.refused
        assert [] == asked
        with suppress(MeshError):
            await a.to(b)
        assert asked, "a firewall may refuse like that too"
