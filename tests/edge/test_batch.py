"""Machines that come by a batch token: whoever is up lets them in, the admin or not; and who is kept waiting."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshnode.agent import Agent
from meshnode.edge import meeting
from meshnode.edge.node import Node
from meshnode.edge.zoning import granted
from meshnode.errors import InvalidInput, MeshError, PeerLost, PermissionDenied, Revoked, TokenRefused
from meshnode.links.link import Incoming, Reply
from meshnode.links.pool import Pool
from meshnode.links.side import Side
from meshnode.membership import arriving, belonging
from meshnode.membership.belonging import enter
from meshnode.trust import believing, hardware, identity, invites
from meshnode.trust.invites import BatchToken
from meshnode.trust.keeper import Keeper
from meshnode.wire import batches, messages
from meshnode.wire.messages import HaveAsk, Hello, ModelDo, NodeId, PieceListAsk, QuoteAsk, TrustDelta, TrustSync
from tests.edge.living import SMALL, ask, founder, living, sees, settings, workers
from tests.edge.test_local import ECHO, run
from tests.waiting import until

TASK = "1" * 32


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds nobody gives up soon."""
    monkeypatch.setattr(arriving, "LOOK_S", 5.0)
    monkeypatch.setattr(arriving, "ROUND_S", 0.1)


@asynccontextmanager
async def comer(home: Path, token: str, *seeds: Node) -> AsyncIterator[Agent]:
    """An agent that came by a batch token; `seeds` are where it looks for members beside the token."""
    given = settings(home.name)
    addresses = tuple(f"{host}:{port}" for host, port in (seed.address for seed in seeds))
    given = replace(given, discovery=replace(given.discovery, seeds=addresses))
    keeper = Keeper.open(home)
    try:
        peers = await enter(keeper, given, token, home.name)
    except BaseException:
        keeper.close()
        raise
    async with living(home, keeper, peers, given) as agent:
        yield agent


async def batch_token(node: Node, uses: int = 2, **args: Any) -> tuple[str, str]:
    """A token and its id."""
    answer = await ask(node.home, "invite", {"uses": uses, **args})
    return answer["token"], answer["id"]


async def turned_away(home: Path, token: str, *seeds: Node) -> MeshError:
    """Why a machine was not let in; it is in no mesh then."""
    with pytest.raises(MeshError) as caught:
        async with comer(home, token, *seeds):
            pass
    assert not (home / "trust").exists()
    return caught.value


async def test_a_member_that_came_by_the_token_lets_the_next_in_while_no_admin_is_up(tmp_path: Path) -> None:
    """Both work for each other, and the founder agrees when it is back: it was asked for nothing."""
    async with AsyncExitStack() as mesh:
        async with founder(tmp_path / "ann") as ann:
            token, _ = await batch_token(ann.node, zone="eu/berlin")
            bob = (await mesh.enter_async_context(comer(tmp_path / "bob", token))).node
            await until(lambda: sees(ann.node, bob) and sees(bob, ann.node), "ann and bob see each other")
            await ask(bob.home, "model.add", {"path": ECHO, "name": "echo"})
        cat = (await mesh.enter_async_context(comer(tmp_path / "cat", token, bob))).node
        await until(lambda: sees(bob, cat) and sees(cat, bob), "bob and cat see each other")
        y, message = await run(cat.home, np.float32([[5]]), node="bob", zone="eu/berlin")
        assert ([[5.0]], bob.keeper.id) == (y.tolist(), message.node)

        keeper = Keeper.open(tmp_path / "ann")
        peers = ((bob.keeper.id, (bob.address,)),)
        async with living(tmp_path / "ann", keeper, peers, settings("ann")) as back:
            await until(lambda: sees(back.node, cat) and sees(cat, back.node), "ann and cat see each other")
            rows = {row["name"]: row for row in await ask(back.node.home, "members")}
        assert {"ann", "bob", "cat"} == set(rows)
        assert ("ann", ["eu/berlin"], None) == (
            rows["cat"]["granted_by_name"],
            rows["cat"]["zones"],
            rows["cat"]["quarantine"],
        )
    assert [] == workers()


async def test_who_comes_when_all_uses_are_taken_waits_for_an_admin(tmp_path: Path) -> None:
    """It is a member that may neither run, submit nor fetch anything, which all are told; `accept` ends that."""
    async with founder(tmp_path / "ann") as agent:
        ann = agent.node
        await ask(ann.home, "model.add", {"path": ECHO, "name": "echo"})
        token, _ = await batch_token(ann, 1, zone="eu")
        async with comer(tmp_path / "bob", token), comer(tmp_path / "cat", token) as late:
            cat = late.node
            await until(lambda: sees(ann, cat) and sees(cat, ann), "ann and cat see each other")
            why = "its token is for 1 machines, and as many had joined before"
            assert why == cat.keeper.quarantine == late.ready()["quarantine"]

            with pytest.raises(PermissionDenied, match="in quarantine"):
                await run(cat.home, np.float32([[5]]))
            with pytest.raises(MeshError):
                await run(ann.home, np.float32([[5]]), node="cat", deadline_s=1.0)
            link = cat.pool.get(ann.keeper.id)
            assert link is not None
            digest = ann.catalog.manifests()[0].digest
            for request in (
                QuoteAsk(task=TASK, model=digest, deadline_s=5.0),
                PieceListAsk(model=digest, file=0),
                HaveAsk(model=digest),
                ModelDo(model=digest, what="fetch"),
            ):
                with pytest.raises(PermissionDenied, match="in quarantine"):
                    await link.call(request)
            with pytest.raises(PermissionDenied, match="publisher"):
                await ask(cat.home, "model.add", {"path": ECHO, "name": "mine"})

            for home in (ann.home, cat.home):
                rows = {row["name"]: row["quarantine"] for row in await ask(home, "members")}
                assert {"ann": None, "bob": None, "cat": why} == rows
                assert why in [row["quarantine"] for row in (await ask(home, "status"))["nodes"]]
                (told,) = [row for row in await ask(home, "doctor") if row["check"] == "quarantine"]
                assert not told["ok"]
                assert "meshnode accept" in told["fix"]
            events = [(e["event"], e["name"]) for e in await ask(ann.home, "events")]
            assert ("quarantined", "cat") in events
            assert ("", "eu") == (granted(ann, cat.keeper.id), cat.keeper.statements.members()[-1].zones[0])
            with pytest.raises(InvalidInput, match="is in quarantine"):
                await ask(ann.home, "zone", {"node": "cat", "zone": "us"})

            with pytest.raises(PermissionDenied, match="only an admin may accept"):
                await ask(cat.home, "accept", {"node": "cat"})
            with pytest.raises(InvalidInput, match="no node 'bob' is in quarantine"):
                await ask(ann.home, "accept", {"node": "bob"})
            await ask(ann.home, "accept", {"node": "cat"})
            await until(lambda: not cat.keeper.quarantine, "cat has heard it")
            assert "eu" == granted(ann, cat.keeper.id)
            y, message = await run(ann.home, np.float32([[6]]), node="cat")
            assert ([[6.0]], cat.keeper.id) == (y.tolist(), message.node)
            assert [[7.0]] == (await run(cat.home, np.float32([[7]])))[0].tolist()
            events = [(e["event"], e["name"]) for e in await ask(ann.home, "events")]
            assert ("out of quarantine", "cat") in events
    assert [] == workers()


async def test_a_revoked_token_lets_nobody_in_and_nobody_out(tmp_path: Path) -> None:
    """Who had joined stays; the next is told when it was revoked, by whichever member it asks."""
    async with founder(tmp_path / "ann") as ann:
        token, token_id = await batch_token(ann.node, 5)
        async with comer(tmp_path / "bob", token) as bob:
            await until(lambda: sees(ann.node, bob.node), "ann sees bob")
            assert 1 == (await ask(ann.node.home, "revoke", {"node": token_id[:8]}))["joined"]
            await until(lambda: not _open(bob.node), "bob has heard it")
            for seed in (ann.node, bob.node):
                error = await turned_away(tmp_path / "cat", token, seed)
                assert isinstance(error, TokenRefused)
                assert "was revoked on" in str(error)
            with pytest.raises(InvalidInput, match="was revoked on"):
                await ask(ann.node.home, "revoke", {"node": token_id})
            assert "" == bob.node.keeper.quarantine
            (row,) = await ask(bob.node.home, "invites")
            assert (token_id, "revoked", 5, 1, "ann") == (
                row["id"],
                row["state"],
                row["uses"],
                row["used"],
                row["issued_by_name"],
            )


def _open(node: Node) -> bool:
    return any(invite.ended_at is None for invite in node.keeper.statements.invites().values())


async def test_an_expired_token_is_refused_by_both_sides(tmp_path: Path) -> None:
    """By the joiner's clock before it dials, and by the member's when the joiner's is wrong."""
    async with founder(tmp_path / "ann") as ann:
        token, _ = await batch_token(ann.node, expires_s=1)
        said = invites.parse(token, now=0)
        assert isinstance(said, BatchToken)
        await until(lambda: time.time() >= said.expires_at, "it has expired")

        assert "expired" in str(await turned_away(tmp_path / "bob", token))
        longer = invites.mint_batch(replace(said, expires_at=said.expires_at + 1000))
        assert "by the clock of the node that was asked" in str(await turned_away(tmp_path / "bob", longer))
        later = invites.mint_batch(
            replace(said, issued_at=said.issued_at + 90_000, expires_at=said.expires_at + 100_000)
        )
        error = await turned_away(tmp_path / "bob", later)
        assert "this machine's clock says" in str(error)
        assert "set the clock" in error.hint
        assert 1 == len(ann.node.keeper.statements.members())


async def test_a_key_that_nobody_certified_completes_no_handshake(tmp_path: Path) -> None:
    """A token that somebody made up reaches no member, and leaves no trace there."""
    async with founder(tmp_path / "ann") as ann:
        token, _ = await batch_token(ann.node)
        said = invites.parse(token, now=0)
        assert isinstance(said, BatchToken)
        before = ann.node.keeper.statements.root_hash
        error = await turned_away(tmp_path / "bob", invites.mint_batch(replace(said, seed=bytes(32))))

        assert isinstance(error, PeerLost)
        assert "let this machine in" in str(error)
        assert before == ann.node.keeper.statements.root_hash
        assert [ann.node.keeper.id] == [m.id for m in ann.node.membership.view()]


async def test_a_token_for_some_machines_is_refused_on_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The joiner finds out itself, and says how to find the right id."""
    mine, other = hardware.hashed("mac", "aa"), hardware.hashed("mac", "bb")
    async with founder(tmp_path / "ann") as ann:
        token, _ = await batch_token(ann.node, hardware=[mine.hex()])
        monkeypatch.setattr(hardware, "ids", lambda: {"mac eth0": other})
        error = await turned_away(tmp_path / "bob", token)
        assert "for 1 machines, and this one is none of them" in str(error)
        assert "meshnode hardware" in error.hint
        monkeypatch.setattr(hardware, "ids", lambda: {"machine-id": other, "mac eth0": mine})
        async with comer(tmp_path / "bob", token) as bob:
            assert "" == bob.node.keeper.quarantine
        with pytest.raises(InvalidInput, match="is no hardware id"):
            await batch_token(ann.node, hardware=["abc"])


async def test_who_lost_its_power_before_it_wrote_it_down_takes_no_second_use(tmp_path: Path) -> None:
    """It says that it joins once; the second time it finds itself known."""
    async with founder(tmp_path / "ann") as ann:
        token, _ = await batch_token(ann.node, 1)
        said = invites.parse(token, now=0)
        assert isinstance(said, BatchToken)
        keeper = Keeper.open(tmp_path / "bob")
        for _ in range(2):
            joined = await arriving.arrive(keeper, said, "bob", settings("bob"))
        keeper.adopt(joined.membership)

        assert ann.node.keeper.statements.root_hash == keeper.statements.root_hash
        assert "" == keeper.quarantine
        (invite,) = keeper.statements.invites().values()
        assert [keeper.id] == [it.body["node"] for it, _ in invite.joined]
        assert 1 == sum(keeper.statements.get(id).kind == "redeem" for id in keeper.statements.ids())  # type: ignore[union-attr]
        keeper.close()


async def test_a_revoked_machine_comes_back_as_a_new_node(tmp_path: Path) -> None:
    """Its old key is told that it is out; with the token it makes another, which takes another use."""
    async with founder(tmp_path / "ann") as ann:
        token, _ = await batch_token(ann.node, 5)
        async with comer(tmp_path / "bob", token) as bob:
            old = bob.node.keeper.id
            await until(lambda: sees(ann.node, bob.node), "ann sees bob")
            await ask(ann.node.home, "revoke", {"node": "bob", "reason": "stolen"})
            await until(lambda: bob.node.keeper.out, "bob has heard it")
        async with comer(tmp_path / "bob", token) as again:
            assert old != again.node.keeper.id
            await until(lambda: sees(ann.node, again.node), "ann sees it")
        said = invites.parse(token, now=0)
        assert isinstance(said, BatchToken)
        key = identity.load_key(next((tmp_path / "bob").glob("node.key.revoked-*")))
        with pytest.raises(MeshError, match="stolen") as caught:
            await arriving.arrive(belonging.Newcomer(key), said, "bob", settings("bob"))
        assert isinstance(caught.value, TokenRefused | Revoked)


async def test_who_shows_the_tokens_certificate_and_does_not_join_is_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets no answer about work, is told to go, and takes no use; nor is it a member for anybody."""
    monkeypatch.setattr(meeting, "STRANGER_S", 0.5)
    async with founder(tmp_path / "ann") as ann:
        token, _ = await batch_token(ann.node)
        said = invites.parse(token, now=0)
        assert isinstance(said, BatchToken)
        lurker = arriving.Arrival(belonging.Newcomer(), said, "lurker", settings("lurker"))
        link = await lurker.pool.dial(ann.node.address)
        with pytest.raises(MeshError, match=r"has no grant|has not joined"):
            await link.call(QuoteAsk(task=TASK, model="ab" * 32, deadline_s=5.0), timeout_s=10.0)
        await until(link.closed.is_set, "it was hung up on")
        assert "has not joined" in link.close_reason
        assert [ann.node.keeper.id] == [grant.node for grant in ann.node.keeper.statements.members()]
        await lurker.pool.stop()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"uses": 0}, "1 to 2000 machines"),
        ({"uses": 2001}, "1 to 2000 machines"),
        ({"uses": 2, "role": "worker,admin"}, "makes no admins"),
        ({"uses": 2, "role": "king"}, "unknown role"),
        ({"uses": 2, "role": "operator"}, "allows nothing"),
        ({"uses": 2, "expires_s": 366 * 86400.0}, "365 days"),
        ({"hardware": ["00" * 32]}, "only a batch token"),
        ({"uses": 2, "hardware": ["00" * 31]}, "no hardware id"),
    ],
)
async def test_a_batch_token_out_of_bounds_is_not_made(tmp_path: Path, args: dict[str, Any], reason: str) -> None:
    """Refused with the bound, and nothing is said to the mesh."""
    async with founder(tmp_path / "ann") as ann:
        with pytest.raises(InvalidInput, match=reason):
            await ask(ann.node.home, "invite", args)
        assert 2 == len(ann.node.keeper.statements)


async def test_a_single_use_token_is_listed_and_withdrawn(tmp_path: Path) -> None:
    """It stands in the list of its node until it is used or revoked; then its holder is told."""
    async with founder(tmp_path / "ann") as ann:
        token = (await ask(ann.node.home, "invite"))["token"]
        (row,) = await ask(ann.node.home, "invites")
        assert ("single", "open", 0) == (row["kind"], row["state"], row["used"])
        await ask(ann.node.home, "revoke", {"node": row["id"][:8]})

        assert [] == await ask(ann.node.home, "invites")
        assert "withdrawn" in str(await turned_away(tmp_path / "bob", token))


async def test_a_member_does_not_join_its_own_mesh(tmp_path: Path) -> None:
    """Its admin key would be put away for nothing."""
    async with founder(tmp_path / "ann") as ann:
        token, _ = await batch_token(ann.node)
        with pytest.raises(PermissionDenied, match="in the token's mesh already"):
            await ask(ann.node.home, "join", {"token": token})


# --- whoever answers in a member's place ---


@dataclass
class Liar:
    """Answers on a mesh port with statements that it got somewhere, and with a certificate of its choice."""

    keeper: Keeper
    leaf: bytes
    roots: list[bytes]
    statements: list[bytes]
    asked: list[str] = field(default_factory=list)

    @property
    def id(self) -> NodeId:
        return self.keeper.id

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        server, client = (
            identity.make_context(server=it, key=self.keeper.key, leaf=self.leaf, roots=self.roots)
            for it in (True, False)
        )
        return server, client

    def check_peer(self, leaf: bytes | None, expected: NodeId | None) -> NodeId:
        assert leaf is not None
        return identity.leaf_id(leaf)

    def hello(self) -> Hello:
        return Hello(versions=(1,), id=self.id, name="liar", boot=1)

    async def handle(self, incoming: Incoming) -> Reply:
        self.asked.append(type(incoming.request).__name__)
        assert isinstance(incoming.request, TrustSync)
        return Reply(TrustDelta(statements=len(self.statements)), (batches.pack_batch(self.statements),))

    def pool(self) -> Pool:
        side = Side(
            hello=self.hello,
            handler=self.handle,
            settings=SMALL.links,
            requests=messages.decode_peer_request,
            replies=messages.decode_peer_reply,
        )
        return Pool(self, side, opened=lambda _: None, lost=lambda *_: None, silent=lambda _: None)


def _of(node: Node) -> list[bytes]:
    return [data for _, data in node.keeper.statements.items()]


@pytest.mark.parametrize("lie", ["another mesh", "no member", "a member that was thrown out"])
async def test_whoever_is_no_member_of_the_tokens_mesh_is_not_told_that_it_joins(tmp_path: Path, lie: str) -> None:
    """Statements of another mesh, or the right ones from a machine that is no member: nothing more is said to it."""
    async with founder(tmp_path / "ann") as ann, founder(tmp_path / "eve", "eve") as eve:
        token, _ = await batch_token(ann.node)
        keeper = Keeper.open(tmp_path / "liar")
        statements = _of(eve.node) if lie == "another mesh" else _of(ann.node)
        leaf, _ = eve.node.keeper.admit(keeper.spki, "liar", ("worker",), ())
        if lie == "a member that was thrown out":
            leaf, _ = ann.node.keeper.admit(keeper.spki, "liar", ("worker",), ())
            ann.node.keeper.revoke(keeper.id, "stolen")
            statements = _of(ann.node)
        liar = Liar(keeper, leaf, believing.roots(ann.node.keeper.statements), statements)
        pool = liar.pool()
        try:
            address = await pool.start("127.0.0.1", 0)
            said = invites.parse(token, now=0)
            assert isinstance(said, BatchToken)
            error = await turned_away(tmp_path / "bob", invites.mint_batch(replace(said, hints=(address,))))
        finally:
            await pool.stop()
            keeper.close()
    assert {"TrustSync"} == set(liar.asked), error
    assert isinstance(error, PeerLost), "somebody in the way does not speak for the mesh"
