"""Memberships that are renewed while the mesh works, and nodes that go on with another key. Real agents."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.edge.node import Node
from meshnode.errors import MeshError, PermissionDenied
from meshnode.lasting import Trust
from meshnode.trust import identity, office
from meshnode.trust.keeper import Keeper, Membership
from meshnode.wire.looks import LookAsk
from meshnode.wire.messages import RenewAsk, RotateAsk
from tests.edge.living import ask, founder, joiner, living, sees, settings
from tests.edge.test_local import ECHO, run
from tests.waiting import until

SOON = Trust(valid_days=6 / 86400)
"""Certificates and grants for six seconds: renewed after four."""


def certificate_ends(node: Node) -> float:
    assert node.keeper.leaf is not None
    return identity.term_of(node.keeper.leaf).ends


def grant_ends(node: Node, whose: Node) -> int:
    grant = node.keeper.statements.grant(whose.keeper.id)
    assert grant is not None
    return grant.expires_at


async def test_memberships_are_renewed_before_they_end_and_nothing_breaks(tmp_path: Path) -> None:
    """An admin's own and a member's, each with a new certificate and a grant; the link between them stays."""
    async with founder(tmp_path / "ann", trust=SOON) as ann_agent:
        ann = ann_agent.node
        async with joiner(tmp_path / "bob", ann) as bob_agent:
            bob = bob_agent.node
            link = bob.pool.get(ann.keeper.id)
            nodes = (ann, bob)
            before = [(certificate_ends(it), grant_ends(ann, it)) for it in nodes]
            await until(
                lambda: all(
                    certificate_ends(it) > leaf and grant_ends(it, it) > grant
                    for it, (leaf, grant) in zip(nodes, before, strict=True)
                ),
                "both are renewed",
            )
            assert link is not None
            assert link.usable
            assert grant_ends(ann, bob) == grant_ends(bob, bob)
            assert bob.keeper.id == ann.keeper.check_peer(bob.keeper.leaf, bob.keeper.id)
            events = [it["event"] for it in await ask(bob.home, "events")]
            assert "renewed" in events
            roles = {it.node: (it.name, it.roles, it.zones) for it in ann.keeper.statements.members()}
            assert ("bob", frozenset({"worker", "submitter", "publisher"}), ()) == roles[bob.keeper.id]

    again = Keeper.open(tmp_path / "bob")  # the new certificate is on disk
    try:
        assert again.leaf is not None
        assert identity.term_of(again.leaf).ends >= certificate_ends(bob)
    finally:
        again.close()


async def test_a_node_that_was_away_past_its_end_comes_back_and_is_renewed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its certificate and grant have ended; it is let in with a warning, works, and is renewed at once."""
    async with founder(tmp_path / "ann", trust=Trust(valid_days=2 / 86400)) as ann_agent:
        ann = ann_agent.node
        async with joiner(tmp_path / "bob", ann) as first:
            ended = certificate_ends(first.node)
        await until(lambda: time.time() > ended, "the membership has ended")
        assert grant_ends(ann, first.node) < time.time()

        keeper = Keeper.open(tmp_path / "bob")
        async with living(tmp_path / "bob", keeper, ((ann.keeper.id, (ann.address,)),), settings("bob")) as back:
            bob = back.node
            await until(lambda: sees(ann, bob) and sees(bob, ann), "both see each other")
            await until(lambda: certificate_ends(bob) > ended, "it is renewed")
        assert f"the certificate of node {keeper.id[:8]} is valid" in caplog.text


async def test_an_admin_that_renews_nobody_by_itself_is_respected(tmp_path: Path) -> None:
    """The member is told why, and so are `status` and `doctor`; by hand it goes on."""
    quiet = Trust(renew=False, valid_days=3 / 86400)
    async with founder(tmp_path / "ann", trust=quiet) as ann_agent, joiner(tmp_path / "bob", ann_agent.node) as agent:
        ann, bob = ann_agent.node, agent.node
        before = grant_ends(ann, bob)
        await until(lambda: "switched off" in bob.renewal.problem, "bob is told why")
        await until(lambda: any(it["event"] == "not renewed" for it in bob.events.after(0)), "it is an event")
        told = (await ask(bob.home, "status"))["renewal"]
        assert (True, False) == (told["late"], told["final"])
        rows = {it["check"]: it for it in await ask(bob.home, "doctor")}
        assert rows["renewal"]["ok"] is False
        assert "switched off" in rows["renewal"]["detail"]
        assert "meshnode renew" in rows["renewal"]["fix"]
        assert before == grant_ends(ann, bob)
        assert {"bob": True} == {it["name"]: it["due"] for it in await ask(ann.home, "members") if it["name"] == "bob"}

        ann.keeper.life_s = 3600.0
        await ask(ann.home, "renew", {"node": "bob"})
        await until(lambda: bob.renewal.problem == "" and certificate_ends(bob) > before + 1000, "bob has both")


async def test_an_end_that_an_admin_set_is_not_put_off(tmp_path: Path) -> None:
    """The certificate ends with it, the grant is not renewed, and after it the node is out, with no days more."""
    async with founder(tmp_path / "ann") as ann_agent, joiner(tmp_path / "bob", ann_agent.node) as agent:
        ann, bob = ann_agent.node, agent.node
        answer = await ask(ann.home, "renew", {"node": "bob", "for_s": 4.0})
        assert answer["final"]
        await until(lambda: grant_ends(bob, bob) == answer["expires_at"], "bob has heard")
        rows = {it["check"]: it for it in await ask(bob.home, "doctor")}
        assert "by an admin's word" in rows["renewal"]["detail"]
        await ask(bob.home, "renew")
        assert grant_ends(ann, bob) == answer["expires_at"] >= int(certificate_ends(bob))
        await until(lambda: time.time() >= answer["expires_at"], "it is over")
        link = bob.pool.get(ann.keeper.id)
        assert link is not None
        with pytest.raises(PermissionDenied, match="expired"):
            await link.call(RenewAsk(key=bob.keeper.spki))


async def test_who_asks_for_another_or_before_its_time_gets_no_grant(tmp_path: Path) -> None:
    """A member's key is its own; asking often makes no statements."""
    async with founder(tmp_path / "ann") as ann_agent, joiner(tmp_path / "bob", ann_agent.node) as agent:
        ann, bob = ann_agent.node, agent.node
        held = len(ann.keeper.statements)
        link = bob.pool.get(ann.keeper.id)
        assert link is not None
        with pytest.raises(PermissionDenied, match="no membership"):
            await link.call(RenewAsk(key=ann.keeper.spki))
        for _ in range(3):
            await ask(bob.home, "renew")
        assert held == len(ann.keeper.statements)


async def test_a_node_goes_on_with_another_key(tmp_path: Path) -> None:
    """Name, roles and zone stay, its models too; the old id is revoked everywhere, by itself, and tasks run on."""
    async with AsyncExitStack() as mesh:
        ann = (await mesh.enter_async_context(founder(tmp_path / "ann"))).node
        async with joiner(tmp_path / "bob", ann, role="worker,submitter,publisher", zone="eu/berlin") as agent:
            bob = agent.node
            old = bob.keeper.id
            await ask(bob.home, "model.add", {"path": ECHO, "name": "echo"})
            answer = await ask(bob.home, "rotate")
            assert (old, "bob") == (answer["was"], answer["name"])
            await agent.ended()
        keeper = Keeper.open(tmp_path / "bob")
        assert answer["id"] == keeper.id != old
        await mesh.enter_async_context(
            living(tmp_path / "bob", keeper, ((ann.keeper.id, (ann.address,)),), settings("bob"))
        )
        await until(lambda: (it := ann.membership.member(keeper.id)) is not None and it.usable, "ann sees the new node")
        grant = ann.keeper.statements.grant(keeper.id)
        assert grant is not None
        assert ("bob", ("eu/berlin",), old) == (grant.name, grant.zones, grant.was)
        out = ann.keeper.statements.revoked(old)
        assert out is not None
        assert (old, f"it goes on as node {keeper.id[:8]}") == (out.by, out.reason)
        assert ["echo"] == [it["name"] for it in await ask(ann.home, "models")]
        y, message = await run(ann.home, np.float32([[5]]), node="bob", zone="eu/berlin")
        assert ([[5.0]], keeper.id) == (y.tolist(), message.node)


async def test_nobody_takes_anothers_place(tmp_path: Path) -> None:
    """Both keys must sign, and the new one must be nobody's."""
    async with founder(tmp_path / "ann") as ann_agent, joiner(tmp_path / "bob", ann_agent.node) as agent:
        ann, bob = ann_agent.node, agent.node
        link, new = bob.pool.get(ann.keeper.id), Ed25519PrivateKey.generate()
        assert link is not None

        async def refused(key: Any, by_old: Any, by_new: Any) -> str:
            spki = identity.public_der(key)
            message = office.hand_over(bob.keeper.statements.mesh_id, bob.keeper.id, spki)
            request = RotateAsk(bob.keeper.spki, spki, by_old=by_old.sign(message), by_new=by_new.sign(message))
            with pytest.raises(MeshError) as caught:
                await link.call(request)
            return str(caught.value)

        assert "not both keys" in await refused(new, new, new)
        assert "not both keys" in await refused(new, bob.keeper.key, bob.keeper.key)
        assert "already" in await refused(bob.keeper.key, bob.keeper.key, bob.keeper.key)
        assert 2 == len(ann.keeper.statements.members())


async def test_one_node_is_never_two(tmp_path: Path) -> None:
    """A member that takes other keys and does not go has none of their places but the last; and none of its own."""
    async with founder(tmp_path / "ann") as ann_agent, joiner(tmp_path / "bob", ann_agent.node) as agent:
        ann, bob = ann_agent.node, agent.node
        link, held = bob.pool.get(ann.keeper.id), ann.keeper.statements
        assert link is not None
        keys = [Ed25519PrivateKey.generate() for _ in range(3)]

        async def taken(key: Ed25519PrivateKey) -> None:
            spki = identity.public_der(key)
            message = office.hand_over(held.mesh_id, bob.keeper.id, spki)
            await link.call(RotateAsk(bob.keeper.spki, spki, bob.keeper.key.sign(message), key.sign(message)))

        ids = [identity.node_id(identity.public_der(key)) for key in keys]
        for number, key in enumerate(keys[:2]):
            await taken(key)
            now = time.time()
            assert [ids[number]] == [it for it in (bob.keeper.id, *ids) if held.grant(it, now) is not None]
        with pytest.raises(PermissionDenied, match="has no grant"):
            await link.call(LookAsk())
        ann.keeper.revoke(ids[1], "stolen")
        with pytest.raises(PermissionDenied, match="no membership"):
            await taken(keys[2])
        assert [] == [it for it in (bob.keeper.id, *ids) if held.grant(it, time.time()) is not None]


@pytest.mark.parametrize(
    ("begins", "ends", "accepted"),
    [
        (timedelta(hours=23), timedelta(days=300), True),
        (timedelta(hours=25), timedelta(days=300), False),
        (timedelta(days=-100), timedelta(days=-29), True),
        (timedelta(days=-100), timedelta(days=-31), False),
    ],
)
async def test_clocks_are_believed_a_day_early_and_thirty_days_late(
    tmp_path: Path, begins: timedelta, ends: timedelta, accepted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Over a real link: inside with a warning, outside a refusal that shows the dates and the clock, and what helps."""
    async with founder(tmp_path / "ann") as agent:
        ann, now = agent.node, datetime.now(UTC)
        keeper = Keeper.open(tmp_path / "bob")
        admitted, _ = ann.keeper.admit(keeper.spki, "bob", ("worker", "submitter"), ())
        statements = tuple(data for _, data in ann.keeper.statements.items())
        keeper.adopt(Membership(admitted, statements, ann.keeper.statements.mesh_id))
        admin, root = ann.keeper.admin_key, next(iter(ann.keeper.statements.admins().values()))
        assert admin is not None
        made, life = now + begins + identity.BACKDATED, ends - begins - identity.BACKDATED
        mesh = keeper.statements.mesh_id
        odd = identity.issue_leaf(admin, root, keeper.spki, mesh, now=made, life_s=life.total_seconds())
        keeper.leaf = odd
        async with living(tmp_path / "bob", keeper, (), settings("bob")) as late:
            dialling = ann.pool.dial(late.node.address, keeper.id)
            if accepted:
                assert keeper.id == (await dialling).peer.id
                assert f"the certificate of node {keeper.id[:8]} is valid" in caplog.text
            else:
                with pytest.raises(PermissionDenied, match=f"this machine's clock says {now:%Y-%m-%d}") as caught:
                    await dialling
                assert f"{now + begins:%Y-%m-%d} to {now + ends:%Y-%m-%d}" in str(caught.value)
                assert "new token" in caught.value.hint
            if accepted and ends < timedelta():
                await until(lambda: keeper.leaf != odd, "who was let in late is renewed")
