"""What follows from new statements: models come and go, and who is thrown out is out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshnode.edge.learning import unwilling
from meshnode.edge.node import Node
from meshnode.errors import InvalidInput, MeshError, PermissionDenied, Refused, Revoked
from meshnode.links.link import Link
from meshnode.trust import form
from meshnode.trust.keeper import Keeper
from meshnode.wire.messages import QuoteAsk, Submit, VitalsAsk
from tests.edge.living import ask, founder, joiner, living, sees, settings, workers
from tests.edge.test_local import ECHO, run
from tests.waiting import until


async def test_a_model_comes_and_goes_with_its_statements(pair: tuple[Node, Node]) -> None:
    """What one adds the other knows, without being asked; what one removes is gone on both."""
    ann, bob = pair
    added = await ask(bob.home, "model.add", {"path": ECHO, "name": "echo"})
    await until(lambda: ann.catalog.knows(added["digest"]), "ann knows it")
    assert added["publisher"] == ann.catalog.resolve("echo").publisher
    y, message = await run(ann.home, np.float32([[5]]), node="ann")
    assert ([[5.0]], ann.keeper.id) == (y.tolist(), message.node)
    await ask(ann.home, "model.remove", {"model": "echo"})
    await until(lambda: not bob.catalog.manifests(), "bob has forgotten it")


async def test_a_revoked_node_is_out_at_once(pair: tuple[Node, Node]) -> None:
    """Its link ends with the reason, it is used no more, nothing of it is opened, and it cannot dial in again."""
    ann, bob = pair
    link: Any = ann.pool.get(bob.keeper.id)
    await ask(ann.home, "revoke", {"node": "bob", "reason": "stolen"})
    member = ann.membership.member(bob.keeper.id)
    assert member is not None
    assert ("left", False, "revoked") == (member.state, member.usable, member.reason)
    assert not ann.membership.datagrams._sealer.knows(bob.keeper.id)
    await until(link.closed.is_set, "the link is closed")
    with pytest.raises(PermissionDenied, match="stolen"):
        await bob.pool.dial(ann.address)
    with pytest.raises(MeshError):
        await ann.pool.link(bob.keeper.id, (bob.address,))
    assert None is ann.pool.get(bob.keeper.id)


async def test_a_task_for_a_node_that_is_out_fails_at_once_and_says_so(pair: tuple[Node, Node]) -> None:
    """There is nothing to wait for; and where its name was known by its advert only, the grant still has it."""
    ann, bob = pair
    await ask(ann.home, "model.add", {"path": ECHO, "name": "echo"})
    await ask(ann.home, "revoke", {"node": "bob", "reason": "stolen"})
    with pytest.raises(InvalidInput, match="bob is not in the mesh any more: revoked"):
        await run(ann.home, np.float32([[5]]), node=bob.keeper.id)


async def test_a_revoked_node_knows_it_and_takes_no_tasks(pair: tuple[Node, Node]) -> None:
    """It hears of its own revocation before the link ends, logs it, and refuses new tasks."""
    ann, bob = pair
    await ask(ann.home, "revoke", {"node": "bob", "reason": "stolen"})
    await until(lambda: bob.dispatcher.draining, "bob has learnt it")
    revocation = bob.keeper.statements.revoked(bob.keeper.id)
    assert revocation is not None
    assert "stolen" == revocation.reason
    await ask(ann.home, "model.add", {"path": ECHO, "name": "echo"})
    assert () == bob.catalog.manifests(), "what is said afterwards does not reach it"


async def test_a_revocation_reaches_nodes_that_the_admin_does_not_see(tmp_path: Path) -> None:
    """It is passed on from node to node, and every one of them ends its link with the revoked."""
    async with (
        founder(tmp_path / "ann") as ann,
        joiner(tmp_path / "bob", ann.node) as bob,
        joiner(tmp_path / "cat", ann.node, "cat") as cat,
    ):
        await until(lambda: sees(bob.node, cat.node) and sees(cat.node, bob.node), "bob and cat see each other")
        for node in (bob.node, cat.node):
            ann.node.pool.drop(node.keeper.id, "bye", "a cable is pulled")
        statement = ann.node.keeper.revoke(cat.node.keeper.id, "lost")
        bob.node.trust._merge([statement.data], _unlinked(bob.node))
        await until(lambda: bob.node.pool.get(cat.node.keeper.id) is None, "bob has hung up on cat")
        member = bob.node.membership.member(cat.node.keeper.id)
        assert member is not None
        assert "revoked" == member.reason
        await until(lambda: cat.node.dispatcher.draining, "cat has learnt it")
    assert [] == workers()


def _unlinked(node: Node) -> Link:
    """Stands for the link that a statement came from; it is only compared."""
    return Link(node.pool._side, dialled=True, prove=lambda _: None)


async def test_a_node_that_leaves_is_out_by_its_own_word(pair: tuple[Node, Node]) -> None:
    """`leave` needs no admin; what it added stays known, for it was no thief."""
    ann, bob = pair
    added = await ask(bob.home, "model.add", {"path": ECHO, "name": "echo"})
    await until(lambda: ann.catalog.knows(added["digest"]), "ann knows the model")
    assert {} == await ask(bob.home, "leave")
    await until(lambda: ann.keeper.statements.revoked(bob.keeper.id), "ann has heard it")
    revocation = ann.keeper.statements.revoked(bob.keeper.id)
    assert revocation is not None
    assert ("left", bob.keeper.id) == (revocation.reason, revocation.by)
    assert ann.catalog.knows(added["digest"])


async def test_what_a_thrown_out_node_published_is_gone(pair: tuple[Node, Node]) -> None:
    """Its models are not trusted any more, whenever it signed them."""
    ann, bob = pair
    added = await ask(bob.home, "model.add", {"path": ECHO, "name": "echo"})
    await until(lambda: ann.catalog.knows(added["digest"]), "ann knows the model")
    await ask(ann.home, "revoke", {"node": "bob", "reason": "stolen"})
    assert [] == await ask(ann.home, "models")


async def test_a_draining_agent_refuses_and_says_so(node: Node) -> None:
    """Whoever asks a revoked or stopping agent's dispatcher is told to come again."""
    await ask(node.home, "model.add", {"path": ECHO, "name": "echo"})
    node.dispatcher.draining = True
    with pytest.raises(Refused, match="stopping"):
        await node.dispatcher.submit(Submit(task="1" * 32, model="echo", inputs=(), deadline_s=1.0), memoryview(b""))


async def test_a_grant_that_expires_ends_what_it_allowed(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roles are looked up at each request, against the clock."""
    ann, bob = pair
    await ask(ann.home, "model.add", {"path": ECHO, "name": "echo"})
    link: Any = bob.pool.get(ann.keeper.id)
    quote = QuoteAsk(task="1" * 32, model=ann.catalog.resolve("echo").digest, deadline_s=1.0)
    await link.call(quote)
    grant = ann.keeper.statements.grant(bob.keeper.id)
    assert grant is not None
    late = float(grant.ends_at + 1)
    assert grant.ends_at > grant.expires_at
    assert time.time() < late
    with monkeypatch.context() as clock:
        clock.setattr("meshnode.agent.time.time", lambda: grant.ends_at - 1.0)
        await link.call(quote)  # who could not be renewed in time has some days more
        clock.setattr("meshnode.agent.time.time", lambda: late)
        for request in (quote, VitalsAsk()):
            with pytest.raises(PermissionDenied, match="expired"):
                await link.call(request)
    await link.call(quote)


async def test_a_node_that_was_away_learns_that_it_was_revoked(tmp_path: Path) -> None:
    """Whoever hangs up on it shows the signed revocation; then status, the doctor and every task say so."""
    async with founder(tmp_path / "ann") as ann:
        async with joiner(tmp_path / "bob", ann.node) as bob:
            peers = ((ann.node.keeper.id, (ann.node.address,)),)
        await ask(ann.node.home, "revoke", {"node": "bob", "reason": "stolen"})
        async with living(tmp_path / "bob", Keeper.open(tmp_path / "bob"), peers, settings("bob")) as again:
            node = again.node
            assert bob.node.keeper.id == node.keeper.id
            await until(lambda: node.keeper.out, "bob has learnt it")
            status = await ask(node.home, "status")
            assert "this node was revoked: stolen" == status["revoked"]
            (own,) = [row for row in status["nodes"] if row["self"]]
            assert ("left", False, "revoked") == (own["state"], own["usable"], own["reason"])
            (row,) = [row for row in await ask(node.home, "doctor") if row["check"] == "membership"]
            assert (False, True, True) == (row["ok"], "stolen" in row["detail"], "up TOKEN" in row["fix"])
            with pytest.raises(Revoked, match="stolen"):
                await run(node.home, np.float32([[5]]))
            assert "it was revoked" == unwilling(node, stopping=False)
        assert None is (await ask(ann.node.home, "status"))["revoked"]
    assert [] == workers()


async def test_only_what_is_signed_is_believed_of_a_peer_that_hangs_up(pair: tuple[Node, Node]) -> None:
    """Who says "you were revoked" without the statement, or with one that is not an admin's, changes nothing."""
    ann, bob = pair
    mine, mesh = form.revoke_node_body(ann.keeper.id, "x"), bob.keeper.statements.mesh_id
    forged = bob.keeper._sign("revoke", mine, bob.keeper.key, bob.keeper.spki, mesh=mesh)
    for closing in ({}, {"statement": "x"}, {"statement": b"noise"}, {"statement": forged}):
        ann.trust.told({"code": "revoked", "message": "you were revoked", **closing})
    assert None is ann.keeper.out
