"""Several admins in one mesh of real agents: adding, removing, replacing keys, and what goes on meanwhile."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.agent import Agent
from meshnode.edge.node import Node
from meshnode.errors import HomeError, InvalidInput, MeshError, PermissionDenied
from meshnode.trust import adminkey, identity
from meshnode.trust.keeper import Keeper
from meshnode.wire.messages import AdminKeyAsk
from tests.edge.living import ask, founder, joiner, living, sees, settings
from tests.edge.test_local import ECHO, run
from tests.waiting import until

WORDS = "five random words are good"


async def trio(mesh: AsyncExitStack, folder: Path) -> list[Node]:
    """Ann founded, bob and cat joined, all see each other."""
    ann = (await mesh.enter_async_context(founder(folder / "ann"))).node
    bob = (await mesh.enter_async_context(joiner(folder / "bob", ann, "bob"))).node
    cat = (await mesh.enter_async_context(joiner(folder / "cat", ann, "cat"))).node
    await until(lambda: sees(bob, cat) and sees(cat, bob), "bob and cat see each other")
    return [ann, bob, cat]


async def agreed(*nodes: Node) -> None:
    """All hold the same statements."""
    await until(lambda: len({it.keeper.statements.root_hash for it in nodes}) == 1, "all hold the same statements")


def admins(node: Node) -> int:
    return len(node.keeper.statements.admins())


async def test_a_lone_founder_adds_a_second_who_does_all_that_admins_do(tmp_path: Path) -> None:
    """Its key never leaves its machine; it invites, renews and revokes while the founder is away."""
    async with AsyncExitStack() as mesh:
        async with AsyncExitStack() as first:
            ann = (await first.enter_async_context(founder(tmp_path / "ann"))).node
            bob = (await mesh.enter_async_context(joiner(tmp_path / "bob", ann))).node
            answer = await ask(ann.home, "admin.add", {"node": "bob"})
            assert (True, 2, 1) == (answer["done"], answer["admins"], answer["quorum"])
            await agreed(ann, bob)
            listed = (await ask(bob.home, "admin.list"))["admins"]
            assert [("ann", False), ("bob", True)] == [(it["name"], it["here"]) for it in listed]
            assert identity.public_der(identity.load_key(bob.home / "admin.key")) in ann.keeper.statements.admins()
            with pytest.raises(InvalidInput, match="already"):
                await ask(ann.home, "admin.add", {"node": "bob"})
        cat = (await mesh.enter_async_context(joiner(tmp_path / "cat", bob, "cat"))).node
        before = cat.keeper.leaf
        await ask(cat.home, "renew")
        assert before != cat.keeper.leaf
        rows = {it["name"]: it for it in await ask(cat.home, "members")}
        assert ("bob", True, False) == (rows["cat"]["granted_by_name"], rows["bob"]["admin"], rows["cat"]["admin"])
        await ask(bob.home, "revoke", {"node": "cat"})
        await until(lambda: cat.keeper.out is not None, "cat is out")


async def test_a_removed_admin_has_no_say_and_what_it_did_stays(tmp_path: Path) -> None:
    """Bob let cat in and is removed: cat's link stays, and its certificate is believed until it has another."""
    async with AsyncExitStack() as mesh:
        ann = (await mesh.enter_async_context(founder(tmp_path / "ann"))).node
        bob = (await mesh.enter_async_context(joiner(tmp_path / "bob", ann))).node
        await ask(ann.home, "admin.add", {"node": "bob"})
        await agreed(ann, bob)
        cat = (await mesh.enter_async_context(joiner(tmp_path / "cat", bob, "cat"))).node
        await until(lambda: sees(ann, cat) and sees(cat, ann), "ann and cat see each other")
        link, leaf = ann.pool.get(cat.keeper.id), cat.keeper.leaf
        await ask(cat.home, "model.add", {"path": ECHO, "name": "echo"})

        with pytest.raises(InvalidInput, match="removed by another"):
            await ask(bob.home, "admin.remove", {"node": "bob"})
        assert (await ask(ann.home, "admin.remove", {"node": "bob"}))["done"]
        await agreed(ann, bob, cat)
        assert 1 == admins(cat)
        with pytest.raises(PermissionDenied, match="no live admin key"):
            await ask(bob.home, "invite")
        for node in (ann, bob, cat):  # believed by the certificate of one who is no admin any more
            assert cat.keeper.id == node.keeper.check_peer(leaf, cat.keeper.id)
        assert link is not None
        assert link.usable
        y, message = await run(ann.home, np.float32([[5]]), node="cat")
        assert ([[5.0]], cat.keeper.id) == (y.tolist(), message.node)
        roles = {it["name"]: it["roles"] for it in await ask(ann.home, "members")}
        assert "admin" not in roles["bob"]
        assert "worker" in roles["bob"]
        with pytest.raises(InvalidInput, match="last admin"):
            await ask(ann.home, "admin.remove", {"node": "ann"})

        answer = await ask(ann.home, "admin.add", {"node": "bob"})  # again, with another key
        assert (True, 2) == (answer["done"], answer["admins"])
        await agreed(ann, bob, cat)
        await ask(bob.home, "invite")


async def test_two_of_three_keys_decide(tmp_path: Path) -> None:
    """One vote is a proposal that the others see; the second decides. The keys were made when the mesh was."""
    others = [Ed25519PrivateKey.generate() for _ in range(2)]
    keeper = Keeper.open(tmp_path / "ann")
    keeper.found("mesh", "ann", others=others, quorum=2)
    async with AsyncExitStack() as mesh:
        ann = (await mesh.enter_async_context(living(tmp_path / "ann", keeper, (), settings("ann")))).node
        bob = (await mesh.enter_async_context(joiner(tmp_path / "bob", ann, "bob"))).node
        cat = (await mesh.enter_async_context(joiner(tmp_path / "cat", ann, "cat"))).node
        text = adminkey.seal(others[0], WORDS)
        with pytest.raises(InvalidInput, match="does not open"):
            await ask(bob.home, "admin.import", {"text": text, "passphrase": "not the right one"})
        await ask(bob.home, "admin.import", {"text": text, "passphrase": WORDS})
        await agreed(ann, bob, cat)

        first = await ask(ann.home, "admin.add", {"node": "cat"})
        assert (False, 1, 2, 3) == (first["done"], first["votes"], first["quorum"], first["admins"])
        assert first == await ask(ann.home, "admin.add", {"node": "cat"})  # voting twice is voting once
        await agreed(ann, bob, cat)
        (proposal,) = (await ask(bob.home, "admin.list"))["proposed"]
        assert (True, "cat", ["ann"], False) == tuple(proposal[it] for it in ("adds", "name", "voters", "mine"))
        second = await ask(bob.home, "admin.add", {"node": "cat"})
        assert (True, 4) == (second["done"], second["admins"])
        await agreed(ann, bob, cat)
        await ask(cat.home, "invite")

        assert not (await ask(cat.home, "admin.remove", {"node": "ann"}))["done"]
        await agreed(ann, bob, cat)
        await ask(ann.home, "invite")
        assert (await ask(bob.home, "admin.remove", {"node": "ann"}))["done"]
        await agreed(ann, bob, cat)
        with pytest.raises(PermissionDenied):
            await ask(ann.home, "invite")
        with pytest.raises(InvalidInput, match="2 admins must agree"):
            await ask(bob.home, "admin.rotate")


async def test_admins_on_both_sides_of_a_split_agree_when_it_heals(tmp_path: Path) -> None:
    """Each side removes the other's admin while they do not hear each other: one outcome, with an admin, on all."""
    async with AsyncExitStack() as mesh:
        async with AsyncExitStack() as whole:
            for node in await trio(whole, tmp_path):
                if node.home.name != "ann":
                    await ask(tmp_path / "ann", "admin.add", {"node": node.home.name})
                    await until(lambda node=node: node.keeper.is_admin, "it is an admin")  # type: ignore[misc]
        for name, other in (("ann", "bob"), ("bob", "ann"), ("cat", "bob")):  # alone, each
            keeper = Keeper.open(tmp_path / name)
            async with living(tmp_path / name, keeper, (), settings(name)) as alone:
                await ask(alone.node.home, "admin.remove", {"node": other})
        nodes: list[Agent] = []
        for name in ("ann", "bob", "cat"):
            peers = tuple((it.node.keeper.id, (it.node.address,)) for it in nodes)
            keeper = Keeper.open(tmp_path / name)
            nodes.append(await mesh.enter_async_context(living(tmp_path / name, keeper, peers, settings(name))))
        await agreed(*(it.node for it in nodes))
        names = [[it["name"] for it in (await ask(n.node.home, "admin.list"))["admins"]] for n in nodes]
        assert [["ann", "cat"]] * 3 == names


async def test_an_admin_key_is_replaced_while_the_mesh_works(tmp_path: Path) -> None:
    """The new key does all, the old one and its copies nothing, and members get certificates of the new one."""
    async with AsyncExitStack() as mesh:
        ann, bob, cat = await trio(mesh, tmp_path)
        await ask(ann.home, "policy.set", {"text": "default_zone = ''\n[quota]\nconcurrent = 9\n"})
        await ask(ann.home, "revoke", {"node": "cat"})
        old = (ann.home / "admin.key").read_bytes()
        leaf, link = bob.keeper.leaf, bob.pool.get(ann.keeper.id)
        answer = await ask(ann.home, "admin.rotate")
        await agreed(ann, bob)
        listed = await ask(bob.home, "admin.list")
        assert [answer["key"]] == [it["key"] for it in listed["admins"]]
        assert ["ann"] == [it["name"] for it in listed["former"]]
        assert old != (ann.home / "admin.key").read_bytes()
        assert bob.keeper.statements.revoked(cat.keeper.id) is not None
        assert (
            9 == {it["rule"]: it["value"] for it in (await ask(bob.home, "policy.show"))["rules"]}["quota.concurrent"]
        )
        assert bob.keeper.id == ann.keeper.check_peer(leaf, bob.keeper.id)
        await ask(bob.home, "renew")
        assert identity.signed_by_any(bob.keeper.leaf or b"", ann.keeper.statements.admins().values())
        assert link is not None
        assert link.usable

        (tmp_path / "copy").write_bytes(old)
        thief = identity.load_key(tmp_path / "copy")
        removal = ann.keeper.sign("admin_remove", {"key": ann.keeper.holding.spki, "kept": b""}, thief)  # type: ignore[union-attr]
        bob.keeper.merge([removal])
        assert [answer["key"]] == [identity.node_id(key) for key in bob.keeper.statements.admins()]


async def test_an_admin_key_is_sealed_opened_and_carried_away(tmp_path: Path) -> None:
    """Sealed it signs nothing, which is told; a copy opens elsewhere; the passphrase is in no file and no record."""
    async with AsyncExitStack() as mesh:
        async with AsyncExitStack() as first:
            ann = (await first.enter_async_context(founder(tmp_path / "ann"))).node
            await ask(ann.home, "admin.lock", {"passphrase": WORDS})
            with pytest.raises(PermissionDenied, match="sealed") as caught:
                await ask(ann.home, "invite")
            assert "meshnode admin unlock" in caught.value.hint
            assert adminkey.is_sealed((ann.home / "admin.key").read_text())
        keeper = Keeper.open(tmp_path / "ann")
        ann = (await mesh.enter_async_context(living(tmp_path / "ann", keeper, (), settings("ann")))).node
        assert [True] == [it["sealed"] for it in (await ask(ann.home, "admin.list"))["admins"]]
        with pytest.raises(InvalidInput, match="does not open"):
            await ask(ann.home, "admin.unlock", {"passphrase": "another one"})
        await ask(ann.home, "admin.unlock", {"passphrase": WORDS})
        bob = (await mesh.enter_async_context(joiner(tmp_path / "bob", ann))).node

        text = (await ask(ann.home, "admin.export", {"passphrase": WORDS + "!"}))["text"]
        with pytest.raises(InvalidInput):
            await ask(ann.home, "admin.forget", {"text": text, "passphrase": WORDS})
        await ask(ann.home, "admin.forget", {"text": text, "passphrase": WORDS + "!"})
        assert not (ann.home / "admin.key").exists()
        with pytest.raises(PermissionDenied):
            await ask(ann.home, "invite")
        await ask(bob.home, "admin.import", {"text": text, "passphrase": WORDS + "!"})
        await agreed(ann, bob)
        await ask(ann.home, "renew")  # bob's key does it now
        assert [("bob" if it["here"] else "ann") for it in (await ask(bob.home, "admin.list"))["admins"]] == ["bob"]
        records = [json.dumps(row) for row in await _records(ann.home)]
        assert any("admin.unlock" in row for row in records)
        assert [] == _with(tmp_path, WORDS.encode())


def _with(folder: Path, secret: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]


async def _records(home: Path) -> list[dict[str, Any]]:
    await until(lambda: any(b"admin.unlock" in it.read_bytes() for it in (home / "audit").iterdir()), "it is recorded")
    return [json.loads(line) for it in (home / "audit").iterdir() for line in it.read_text().splitlines()]


async def test_only_an_admins_node_makes_a_member_draw_an_admin_key(tmp_path: Path) -> None:
    """Another member is refused, and no key appears."""
    async with AsyncExitStack() as mesh:
        _, bob, cat = await trio(mesh, tmp_path)
        link = bob.pool.get(cat.keeper.id)
        assert link is not None
        with pytest.raises(MeshError, match="no admin's"):
            await link.call(AdminKeyAsk())
        with pytest.raises(PermissionDenied, match="only an admin may add"):
            await ask(bob.home, "admin.add", {"node": "cat"})
        assert not (cat.home / "admin.key").exists()


async def test_an_interrupted_change_of_key_ends_one_way_or_the_other(tmp_path: Path) -> None:
    """After a power cut the key is the one that the certificate is for."""
    keeper = Keeper.open(tmp_path)
    keeper.found("mesh", "ann")
    first, new = keeper.id, Ed25519PrivateKey.generate()
    keeper.close()
    identity.write_key(tmp_path / "node.key.next", new)
    keeper = Keeper.open(tmp_path)
    assert first == keeper.id
    assert not (tmp_path / "node.key.next").exists()

    leaf, grant = keeper.admit(identity.public_der(new), "ann", ("worker",), ())
    keeper.become(new, leaf, [grant.data])
    keeper.close()
    (tmp_path / "node.key").rename(tmp_path / "node.key.next")  # as before the last step
    identity.write_key(tmp_path / "node.key", Ed25519PrivateKey.generate())
    keeper = Keeper.open(tmp_path)
    assert identity.node_id(identity.public_der(new)) == keeper.id
    keeper.close()
    identity.write_key(tmp_path / "node.key", Ed25519PrivateKey.generate())
    with pytest.raises(HomeError, match="not for the key"):
        Keeper.open(tmp_path)


async def test_revoking_an_admins_node_takes_its_office_too(tmp_path: Path) -> None:
    """A stolen machine that holds an admin key is thrown out by one command, and whom it let in stays."""
    async with AsyncExitStack() as mesh:
        ann = (await mesh.enter_async_context(founder(tmp_path / "ann"))).node
        bob = (await mesh.enter_async_context(joiner(tmp_path / "bob", ann))).node
        await ask(ann.home, "admin.add", {"node": "bob"})
        await agreed(ann, bob)
        cat = (await mesh.enter_async_context(joiner(tmp_path / "cat", bob, "cat"))).node
        await agreed(ann, bob, cat)
        answer = await ask(ann.home, "revoke", {"node": "bob", "reason": "stolen"})
        assert answer["admin"]["done"]
        await until(lambda: cat.keeper.statements.revoked(bob.keeper.id) is not None, "cat has heard")
        assert (1, True) == (admins(cat), cat.keeper.statements.grant(cat.keeper.id) is not None)
