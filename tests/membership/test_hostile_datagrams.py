"""What datagrams can do to a member that should do nothing: forged, cut, repeated, out of order, by strangers and by
members who were thrown out; and what a member may say who lies. Real keys, real seals, real sockets."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from meshnode.errors import ProtocolError
from meshnode.membership import advert as adverts
from meshnode.membership import updates
from meshnode.membership.roster import raw_id
from meshnode.membership.updates import Ack, Alive, AnyPacket, AnyUpdate, Dead, Gossip, Nack, Ping, PingReq, Suspect
from meshnode.trust import identity
from meshnode.trust.sealing import WINDOW_BITS, Sealer
from tests.membership.members import Mate, Stranger, acquainted, mates
from tests.waiting import until

MOST = 2**32 - 1
REFUSED_US_MAX = 1000.0
"""A refused packet takes some 10 us here; a bound that only something quadratic would miss."""
GROWTH_BYTES_MAX = 10_000_000
RANDOM = 100_000


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[list[Mate]]:
    """Four members who know each other."""
    async with mates(tmp_path, "abcd") as made:
        yield made


def packets_of(one: Mate, about: Mate) -> list[AnyPacket]:
    """One of each kind, with updates in them."""
    told = (one.core.oneself.word, updates.suspect(one.keeper.key.sign, about.raw, 9, 9, one.raw))
    return [Ping(1, told, 5), Ack(2, told, 6), PingReq(3, about.raw, 400, told), Nack(4), Gossip(told)]


def unwell(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged that should not have been."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_nothing_forged_or_cut_changes_anything(mesh: list[Mate], caplog: pytest.LogCaptureFixture) -> None:
    """Each length, each byte in turn turned over, of each kind of packet: dropped, counted and not answered. The
    packets themselves still open afterwards: no forgery moves the window of those it is made of."""
    a, b, c, _ = mesh
    noise = random.Random(1)
    real = [a.sealed(b, packet) for packet in packets_of(a, c)]
    forged = [whole[:length] for whole in real for length in range(1, len(whole))]
    for whole in real:
        for place in range(len(whole)):
            turned = bytes([whole[place] ^ 1 << noise.randrange(8)])
            forged += [whole[:place] + turned + whole[place + 1 :]]
        forged += [whole + b"\0", whole + whole, whole[:23] + real[0][23:] if whole is not real[0] else b"mn"]
    before, refused = b.picture(), b.refused
    with Stranger() as stranger:
        began = time.perf_counter()
        await stranger.throws(b, forged)
        each_us = (time.perf_counter() - began) / len(forged) * 1e6
        assert len(forged) == b.refused - refused
        assert 0 == stranger.answers()
        assert before == b.picture()
        assert [] == unwell(caplog)
        await stranger.throws(b, real)
        assert len(forged) == b.refused - refused, "the real ones opened"
        assert 0 == stranger.answers(), "and were answered to the member, not to who brought them"
    print(f"{len(forged)} forged packets, {each_us:.1f} us each with the kernel and the test")


async def test_noise_costs_little_and_leaves_nothing(mesh: list[Mate], caplog: pytest.LogCaptureFixture) -> None:
    """A hundred thousand random packets, half of them with a header that names a member: no change, no answer, no
    memory, and microseconds each."""
    a, b, _, _ = mesh
    noise = random.Random(2)
    header = a.sealed(b, b"")[:15]

    def some(n: int) -> list[bytes]:
        return [
            (header if i % 2 else b"") + noise.randbytes(noise.choice((1, 9, 24, 60, 200, 1150, 1300)))
            for i in range(n)
        ]

    with Stranger() as stranger:
        await stranger.throws(b, some(2000))
        before, tables, refused = b.picture(), b.tables(), b.refused
        process = psutil.Process()
        memory, took, thrown = process.memory_info().rss, 0.0, 0
        while thrown < RANDOM:
            batch = some(10_000)
            began = time.perf_counter()
            await stranger.throws(b, batch)
            took += time.perf_counter() - began
            thrown += len(batch)
        assert thrown == b.refused - refused
        assert 0 == stranger.answers()
    assert before == b.picture()
    for name, length in b.tables().items():
        assert length <= tables[name] + 8, f"{name} grew"
    assert GROWTH_BYTES_MAX > process.memory_info().rss - memory
    assert [] == unwell(caplog)
    sealer = b.membership.datagrams._sealer
    began = time.perf_counter()
    for datagram in batch:
        with pytest.raises(ProtocolError):
            sealer.open(datagram)
    opening = (time.perf_counter() - began) / len(batch) * 1e6
    each_us = took / thrown * 1e6
    print(f"{thrown} random packets: {each_us:.1f} us each with the kernel and the test, {opening:.1f} to open")
    assert REFUSED_US_MAX > each_us


async def test_what_was_heard_once_is_not_heard_again(mesh: list[Mate], caplog: pytest.LogCaptureFixture) -> None:
    """Real traffic, recorded and played again: at once, after more than the window, by another address, after a
    restart of its receiver. A refutation that is played back cannot undo what came after it."""
    a, b, c, d = mesh
    b.tap.came.clear()
    await until(lambda: len(b.tap.came) >= 12, "there is traffic to record")
    recorded = list(b.tap.came)
    lie = updates.suspect(c.keeper.key.sign, a.raw, *a.core.oneself.version, c.raw)
    with Stranger() as stranger:
        await stranger.throws(b, [told := c.sealed(b, Gossip((lie,)))])
        recorded.append(told)
        await until(lambda: b.core.roster.get(a.id).inc > lie.inc, "a refutes what c said")
        await acquainted(mesh)
        recorded += b.tap.came
        before, refused = b.picture(), b.refused
        await stranger.throws(b, recorded)
        assert len(recorded) == b.refused - refused, "at once"
        await stranger.throws(b, [m.sealed(b, Nack(1)) for m in (a, c, d) for _ in range(WINDOW_BITS + 1)])
        refused = b.refused
        await stranger.throws(b, recorded)
        assert len(recorded) == b.refused - refused, "later than the window goes back"
        assert before == b.picture()
        assert 0 == stranger.answers()
        assert [] == unwell(caplog)

        await b.stop()
        home, port = b.keeper.home, b.address[1]
        b.keeper.close()
        b.keeper = type(b.keeper).open(home)
        again = Mate(b.keeper, "b", b.membership._settings, 9)
        await again.start(port)
        mesh[1] = again
        await acquainted(mesh)
        before, refused = again.picture(), again.refused
        await stranger.throws(again, recorded)
        assert len(recorded) == again.refused - refused, "after a restart"
        assert before == again.picture()
        assert 0 == stranger.answers()


async def test_any_order_is_taken_once(mesh: list[Mate]) -> None:
    """Packets that overtake each other are all heard, the last word of a member counts whenever it comes, and a
    second time none is heard."""
    a, b, _, _ = mesh
    gen = a.core.oneself.gen
    words = [updates.alive(a.keeper.key.sign, a.key, gen, inc, 1, born=a.core.oneself.born) for inc in range(1, 201)]
    sealed = [a.sealed(b, Gossip((word,))) for word in words]
    order = list(sealed)
    random.Random(3).shuffle(order)
    refused = b.refused
    with Stranger() as stranger:
        await stranger.throws(b, order)
        assert (0, 200) == (b.refused - refused, b.core.roster.get(a.id).inc)
        await stranger.throws(b, order)
        assert (200, 200) == (b.refused - refused, b.core.roster.get(a.id).inc)
        assert 0 == stranger.answers()


async def test_strangers_are_not_heard(mesh: list[Mate], caplog: pytest.LogCaptureFixture) -> None:
    """Right seals of wrong people: somebody with a key of his own; one who says that he is a member; the same member
    in another mesh, and in an earlier start."""
    a, b, _, _ = mesh
    epoch, public = b.keeper.boot, b.membership.datagrams.public
    mesh_id = b.keeper.statements.mesh_id
    stranger_id = identity.node_id(identity.public_der(Ed25519PrivateKey.generate()))
    said = []
    for who, where, start in (
        (stranger_id, mesh_id, 1),
        (a.id, mesh_id, a.keeper.boot),
        (a.id, "ab" * 32, a.keeper.boot),
        (a.id, mesh_id, a.keeper.boot - 1),
        (a.id, mesh_id, MOST),
    ):
        sealer = Sealer(X25519PrivateKey.generate(), who, where, start)
        sealer.set_peer(b.id, epoch, public)
        said += [sealer.seal(b.id, updates.encode(packet)) for packet in packets_of(a, b)]
    before, refused = b.picture(), b.refused
    with Stranger() as stranger:
        await stranger.throws(b, said)
        assert len(said) == b.refused - refused
        assert 0 == stranger.answers()
    assert before == b.picture()
    assert [] == unwell(caplog)


async def test_who_was_thrown_out_is_not_heard(mesh: list[Mate], caplog: pytest.LogCaptureFixture) -> None:
    """Neither directly, nor after this member began anew with other keys, nor through a member who passes its words
    on; it is gone from the tables that are compared, so that they agree whatever it said last."""
    a, b, c, d = mesh
    statement = a.keeper.revoke(d.id, "stolen")
    for mate in (a, b, c):
        mate.keeper.merge([statement.data])
        mate.membership.revoked(d.id)
        mate.pool.drop(d.id, "revoked", "stolen", statement.data)
    await until(lambda: a.core.roster.root == b.core.roster.root == c.core.roster.root, "they agree")
    assert ["left"] * 3 == [m.membership.member(d.id).state for m in (a, b, c)]  # type: ignore[union-attr]
    accusation = updates.suspect(d.keeper.key.sign, c.raw, *c.core.oneself.version, d.raw)
    newer = updates.alive(d.keeper.key.sign, d.key, d.core.oneself.gen, 77, 1, born=d.core.oneself.born)
    before, refused = b.picture(), b.refused
    with Stranger() as stranger:
        await stranger.throws(b, direct := [d.sealed(b, packet) for packet in packets_of(d, c)])
        assert len(direct) == b.refused - refused
        await stranger.throws(b, [a.sealed(b, Gossip((accusation, newer)))])
        assert before == b.picture()
        b.membership._reborn(b.core.oneself.gen + 1)  # as when a copy of its home was heard of
        d.membership.datagrams._sealer.set_peer(b.id, b.membership.datagrams.epoch, b.membership.datagrams.public)
        refused = b.refused
        await stranger.throws(b, direct := [d.sealed(b, packet) for packet in packets_of(d, c)])
        assert len(direct) == b.refused - refused
        assert 0 == stranger.answers()
    assert "left" == b.membership.member(d.id).state  # type: ignore[union-attr]
    assert 0 == b.core.roster.get(d.id).inc
    assert {"another start of this node was heard of; this one continues as number"} >= {
        text.rpartition(" ")[0] for text in unwell(caplog)
    }


async def test_a_member_that_lies_raises_nobody_else(mesh: list[Mate], caplog: pytest.LogCaptureFixture) -> None:
    """Versions that nobody signed, in accusations and in others' names; invented members; words that are no updates:
    nothing changes, and this member's own counters are not used up."""
    a, b, c, _ = mesh
    sign, gen = a.keeper.key.sign, c.core.oneself.gen
    invented = [Ed25519PrivateKey.generate() for _ in range(300)]
    unborn = [(key, identity.public_der(key)[-32:]) for key in invented]
    lies: list[AnyUpdate] = [
        *(kind(b.raw, g, i, a.raw, bytes(64)) for kind in (Suspect, Dead) for g, i in versions_above(b)),
        *(updates.suspect(sign, b.raw, g, i, a.raw) for g, i in versions_above(b)),
        *(updates.dead(sign, c.raw, g, i, a.raw) for g, i in versions_above(c)),
        *(updates.alive(sign, c.key, g, i, 1, born=2) for g, i in versions_above(c)),
        *(updates.left(sign, c.key, g, i, "stop") for g, i in versions_above(c)),
        Dead(c.raw, gen, c.core.oneself.inc, b.raw, bytes(64)),
        *(updates.alive(key.sign, raw, 1, 0, 1, born=1) for key, raw in unborn),
        *(updates.left(key.sign, raw, 1, 0, "stop") for key, raw in unborn),
        *(updates.suspect(key.sign, c.raw, gen, c.core.oneself.inc, raw_id(raw)) for key, raw in unborn),
    ]
    malformed = [
        updates.encode(Gossip(tuple(lies[:1] * 65))),
        b"\x92\x05\xdd\xff\xff\xff\xff",
        b"\x91" * 1000,
        b"\xc1",
        updates.encode(Ping(1))[:-1] + b"\xcf" + b"\xff" * 8,
        updates.encode(Gossip(()))[:-1] + b"\x91\x97\x01" + b"\xc0" * 6,
    ]
    before, refused, tables = b.picture(), b.refused, b.tables()
    with Stranger() as stranger:
        packets: list[AnyPacket] = [Gossip(tuple(lies[at : at + 4])) for at in range(0, len(lies), 4)]
        packets += [PingReq(n, raw_id(unborn[n][1]), 60_000) for n in range(300)]
        packets += [Ack(n, (), n) for n in range(0, MOST, MOST // 100)]
        packets += [Nack(n) for n in range(100)]
        await stranger.throws(b, [a.sealed(b, packet) for packet in packets])
        assert 0 == b.refused - refused, "they are a member's, and well formed"
        await stranger.throws(b, [a.sealed(b, data) for data in malformed])
        assert len(malformed) == b.refused - refused
        assert 0 == stranger.answers()
    assert before == b.picture()
    for name, length in b.tables().items():
        assert length <= tables[name] + 8, f"{name} grew"
    assert 0 == b.core.oneself.inc
    assert [] == unwell(caplog)


def versions_above(of: Mate) -> list[tuple[int, int]]:
    """(gen, inc) that this member never said."""
    gen, inc = of.core.oneself.version
    return [(gen, inc + 1), (gen, MOST), (gen + 1, 0), (MOST, 0), (MOST, MOST)]


async def test_a_member_that_accuses_everybody_kills_nobody(mesh: list[Mate]) -> None:
    """Right signatures, right versions, for ten seconds, of everybody and to everybody: all are alive for all."""
    a, *others = mesh
    end, said = time.monotonic() + 10.0, 0
    with Stranger() as stranger:
        while time.monotonic() < end:
            for to in others:
                lies: list[AnyUpdate] = []
                for about in others:
                    version = about.core.oneself.version
                    lies += [
                        updates.suspect(a.keeper.key.sign, about.raw, *version, a.raw),
                        updates.dead(a.keeper.key.sign, about.raw, *version, a.raw),
                    ]
                await stranger.throws(to, [a.sealed(to, Gossip(tuple(lies)))])
                said += len(lies)
    assert said > 1000
    assert [] == [wrong for mate in others for wrong in mate.wrong]
    await until(lambda: all(o.sees(*(m for m in others if m is not o)) for o in others), "all are alive for all")
    highest = max(o.core.oneself.inc for o in others)
    print(f"{said} accusations, {highest} refutations at most, health {[o.core.health.score for o in others]}")
    assert 150 > highest, "who is not listened to is not refuted"


async def test_a_member_that_comes_and_goes_fills_nothing(mesh: list[Mate]) -> None:
    """Thousands of goodbyes and returns, and pings on behalf of everybody: no table grows with them."""
    a, b, c, _ = mesh
    tables = b.tables()
    word = a.core.oneself.word
    with Stranger() as stranger:
        for inc in range(1, 3001, 3):
            back: tuple[AnyUpdate, ...] = tuple(
                update
                for i in (inc, inc + 1, inc + 2)
                for update in (
                    updates.left(a.keeper.key.sign, a.key, word.gen, i, "x"),
                    updates.alive(a.keeper.key.sign, a.key, word.gen, i + 1, 1, born=word.born),
                )
            )
            await stranger.throws(b, [a.sealed(b, Gossip(back))])
        await stranger.throws(b, [a.sealed(b, PingReq(n, c.raw, 60_000)) for n in range(3000)])
    row = b.core.roster.get(a.id)
    assert "alive" == row.state
    assert 3001 <= row.inc < 3010  # the real one may have refuted something since
    for name, length in b.tables().items():
        assert length <= tables[name] + 64, f"{name} grew"


async def test_an_advert_of_nobody_is_not_kept(mesh: list[Mate]) -> None:
    """A member that answers a pull with adverts of nodes that are none fills neither the book nor the seals."""
    a, b, _, _ = mesh
    own = a.membership._adverts.get(a.id)
    assert own is not None
    tables = b.tables()
    for _ in range(200):
        key = Ed25519PrivateKey.generate()
        raw = identity.public_der(key)[-32:]
        fields = {name: getattr(own, name) for name in own.__struct_fields__}
        fields |= {"id": identity.node_id(identity.public_der(key)), "key": raw}
        b.membership._adverts.take(adverts.seal(adverts.Advert(**fields), key.sign))
    assert tables == b.tables() | {"news": tables["news"], "turns": tables["turns"], "ears": tables["ears"]}


def test_alive_names_its_counters() -> None:
    """The largest counters go over the wire, and the next do not: a member must never be brought to say those."""
    key = Ed25519PrivateKey.generate()
    raw = identity.public_der(key)[-32:]
    last = updates.alive(key.sign, raw, MOST, MOST, 0)
    assert last == updates.decode_update(updates.encode(last))
    with pytest.raises(ProtocolError):
        updates.decode_update(updates.encode(Alive(raw, MOST + 1, 0, 0, 0, 0, bytes(64))))
