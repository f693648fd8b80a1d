"""Admins at the doors: who they are, voting for one more or one less, and what becomes of this node's admin key."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.edge import speaking
from meshnode.edge.node import Node
from meshnode.edge.verb import JSON, Nothing, Verbs
from meshnode.errors import InvalidInput, PermissionDenied, ProtocolError
from meshnode.links.link import Reply
from meshnode.membership.view import Member
from meshnode.tasks.finding import find_member
from meshnode.trust import adminkey, identity, office
from meshnode.trust.keeper import ADMIN_ROLES
from meshnode.trust.statements import Statement, StatementSet
from meshnode.wire.messages import KEYS, AdminKey, AdminKeyAsk, NodeId

ASK_S = 10.0


class Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node` is a name, an id or the beginning of one; of an admin also the beginning of its key's id.

    `anyway`: though nodes are up whose software reads such votes otherwise.
    """

    node: str
    anyway: bool = False


class Passphrase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an admin key is sealed with."""

    passphrase: str = ""


class Another(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another admin key, sealed or not; `anyway` as in `Vote`."""

    passphrase: str = ""
    anyway: bool = False


class Import(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sealed admin key, as text."""

    text: str
    passphrase: str


def holders(statements: StatementSet) -> dict[bytes, NodeId]:
    """At which node the key of an admin was when it was added; of a first one, the node that it granted that first."""
    found: dict[bytes, NodeId] = {}
    for it in sorted(statements.of_kinds("admin_add", "grant"), key=lambda it: (it.issued_at, it.id)):
        if it.kind == "admin_add" and isinstance(node := it.body.get("node"), str):
            found.setdefault(it.body["key"], NodeId(node))
        elif it.kind == "grant" and "admin" in it.body["roles"] and it.issuer not in found:
            found[it.issuer] = NodeId(it.body["node"])
    after = {grant.was: grant.node for grant in statements.members() if grant.was}
    for key in found:
        for _ in after:  # a node may have had several keys, one after the other
            found[key] = after.get(found[key], found[key])
    return found


def names(statements: StatementSet) -> dict[NodeId, str]:
    """What the node of an admin's key is called, by the id of the key: for those who gave grants."""
    called = {grant.node: grant.name for grant in statements.members()}
    return {identity.node_id(key): called[node] for key, node in holders(statements).items() if node in called}


async def _list(node: Node, _: Nothing) -> JSON:
    statements, keeper = node.keeper.statements, node.keeper
    it, at = statements.office(), holders(statements)
    names = {grant.node: grant.name for grant in statements.members()}

    def told(key: bytes) -> dict[str, Any]:
        held_at = at.get(key)
        here = keeper.holding is not None and keeper.holding.spki == key
        sealed = keeper.holding.sealed if here and keeper.holding is not None else None
        where = {"node": held_at, "name": names.get(held_at) if held_at else None}
        return {"key": identity.node_id(key), **where, "here": here, "sealed": sealed}

    return {
        "quorum": it.quorum,
        "admins": [told(key) for key in it.live],
        "former": [told(key) for key in it.former],
        "proposed": [
            {
                "adds": proposal.adds,
                "key": identity.node_id(proposal.key),
                "node": proposal.node or at.get(proposal.key),
                "name": names.get(NodeId(proposal.node)) or names.get(at.get(proposal.key, NodeId(""))),
                "voters": [names.get(at.get(key, NodeId(""))) or identity.node_id(key)[:8] for key in proposal.voters],
                "mine": keeper.holding is not None and keeper.holding.spki in proposal.voters,
            }
            for proposal in it.proposed
        ],
    }


UPDATE = "update them first; `--anyway` does it now"
ALONE = "takes the first vote for enough"
FORGETS = "drops all that a removed admin had signed, the memberships too, until it is updated"


async def _add(node: Node, args: Vote) -> JSON:
    node.keeper.admin("add an admin")
    if node.keeper.statements.office().quorum > 1 and not args.anyway:
        await speaking.check_everyone(node, KEYS, ALONE, UPDATE)
    member = find_member(node.membership.view(), args.node)
    if member.id == node.keeper.id:
        raise InvalidInput("this node holds an admin key already")
    answer = await _key_of(node, member)
    _say(node, office.vote_add(node.keeper, answer.key, answer.root, member.id))
    done = answer.key in node.keeper.statements.admins()
    if done:
        _give_role(node, member.id, frozenset(ADMIN_ROLES))
    return _outcome(node, member.id, member.name, answer.key, done=done)


async def _key_of(node: Node, member: Member) -> AdminKey:
    link = await node.pool.link(member.id, member.addresses)
    speaking.check(link.peer, KEYS, "can hold no admin key but a founder's")
    received = await link.call(AdminKeyAsk(), timeout_s=ASK_S)
    if not isinstance(received.message, AdminKey) or not identity.is_root(received.message.root, received.message.key):
        raise ProtocolError(f"{member.name} was asked for its admin key and sent none")
    return received.message


async def _remove(node: Node, args: Vote) -> JSON:
    keeper, statements = node.keeper, node.keeper.statements
    keeper.admin("remove an admin")
    key, who, name = _meant(node, args.node)
    if not args.anyway:
        await speaking.check_everyone(node, KEYS, FORGETS, UPDATE)
    _say(node, office.vote_remove(keeper, key))
    done = key not in statements.admins()
    still = {it for other, it in holders(statements).items() if other in statements.admins()}
    if done and who is not None and who not in still and (grant := statements.grant(who)) is not None:
        _give_role(node, who, grant.roles - {"admin"})
    return _outcome(node, who, name, key, done=done)


def put_out(node: Node, who: NodeId) -> JSON:
    """Vote against the admin key that a node holds which is thrown out; None when it holds none, or the last one."""
    statements = node.keeper.statements
    office_now = statements.office()
    key = next((key for key, at in holders(statements).items() if at == who and key in office_now.live), None)
    held = node.keeper.holding
    if key is None or len(office_now.live) <= office_now.quorum or (held is not None and held.spki == key):
        return None
    _say(node, office.vote_remove(node.keeper, key))
    return _outcome(node, who, who[:8], key, done=key not in statements.admins())


def _meant(node: Node, wanted: str) -> tuple[bytes, NodeId | None, str]:
    """The admin that somebody means: by the beginning of its key's id, or by its node."""
    statements = node.keeper.statements
    live, at = statements.admins(), holders(statements)
    names = {grant.node: grant.name for grant in statements.members()}
    by_key = [key for key in live if len(wanted) >= 6 and identity.node_id(key).startswith(wanted)]
    by_node = [
        key
        for key in live
        if (it := at.get(key)) and (wanted in (it, names.get(it)) or (len(wanted) >= 6 and it.startswith(wanted)))
    ]
    found = by_key or by_node
    if len(found) != 1:
        known = ", ".join(f"{names.get(at.get(key, NodeId('')), 'key')} ({identity.node_id(key)[:8]})" for key in live)
        what = f"{len(found)} admins are" if found else "no admin is"
        raise InvalidInput(f"{what} called {wanted!r}", hint=f"name one by its key: {known}")
    who = at.get(found[0])
    return found[0], who, (names.get(who) if who else None) or identity.node_id(found[0])[:8]


def _give_role(node: Node, who: NodeId, roles: frozenset[str]) -> None:
    grant = node.keeper.statements.grant(who)
    if grant is not None and grant.roles != roles:
        _say(node, [office.regrant(node.keeper, grant, "change an admin's roles", roles=roles)])


def _outcome(node: Node, who: NodeId | None, name: str, key: bytes, *, done: bool) -> JSON:
    it = node.keeper.statements.office()
    votes = next((len(p.voters) for p in it.proposed if p.key == key), it.quorum)
    return {
        "id": who,
        "name": name,
        "key": identity.node_id(key),
        "done": done,
        "votes": votes,
        "quorum": it.quorum,
        "admins": len(it.live),
    }


def _say(node: Node, said: list[Statement]) -> None:
    if said:
        node.trust.publish([it.data for it in said])
        node.trust.learnt(said)


def key_for(node: Node, peer: NodeId) -> Reply:
    """Tell an admin's node which admin key this one would hold. Raises PermissionDenied."""
    grant = node.keeper.statements.grant(peer, time.time())
    if grant is None or "admin" not in grant.roles:
        raise PermissionDenied(f"node {peer[:8]} is no admin's")
    key, root = office.candidate(node.keeper)
    return Reply(AdminKey(key=key, root=root), ())


# --- the key of this node ---


async def _rotate(node: Node, args: Another) -> JSON:
    office.check_may_rotate(node.keeper)
    if not args.anyway:
        await speaking.check_everyone(node, KEYS, FORGETS, UPDATE)
    new = Ed25519PrivateKey.generate()
    text = await asyncio.to_thread(adminkey.seal, new, args.passphrase) if args.passphrase else adminkey.pem(new)
    _say(node, office.rotate_admin(node.keeper, new, text))
    assert node.keeper.holding is not None
    return {"key": identity.node_id(node.keeper.holding.spki), "sealed": node.keeper.holding.sealed}


async def _lock(node: Node, args: Passphrase) -> JSON:
    held = office.check_holds(node.keeper)
    if held.sealed:
        office.lock(node.keeper, None)
    else:
        assert held.key is not None
        office.lock(node.keeper, await asyncio.to_thread(adminkey.seal, held.key, args.passphrase))
    return {"sealed": True}


async def _unlock(node: Node, args: Passphrase) -> JSON:
    held = office.check_holds(node.keeper)
    if held.sealed and held.key is None:
        text = (node.home / adminkey.NAME).read_text("ascii")
        node.keeper.open_admin(await asyncio.to_thread(adminkey.unseal, text, args.passphrase))
        node.renewal.changed.set()
    return {"sealed": held.sealed}


async def _export(node: Node, args: Passphrase) -> JSON:
    key = node.keeper.admin("export its key")
    return {"text": await asyncio.to_thread(adminkey.seal, key, args.passphrase)}


async def _import(node: Node, args: Import) -> JSON:
    office.take(node.keeper, args.text, await asyncio.to_thread(adminkey.unseal, args.text, args.passphrase))
    _give_role(node, node.keeper.id, frozenset(ADMIN_ROLES))  # members look for admins by this role
    return {"sealed": True}


class Forget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The copy that was made, which must open with its passphrase before the key goes."""

    text: str
    passphrase: str


async def _forget(node: Node, args: Forget) -> JSON:
    copy = await asyncio.to_thread(adminkey.unseal, args.text, args.passphrase)
    if office.check_holds(node.keeper).spki != identity.public_der(copy):
        raise InvalidInput("the copy is not of the admin key of this node; it stays")
    if node.keeper.admin_key is not None and (grant := node.keeper.statements.grant(node.keeper.id)) is not None:
        _give_role(node, node.keeper.id, grant.roles - {"admin"})
    office.forget(node.keeper)
    return {}


VERBS: Verbs = {
    "admin.list": (Nothing, _list),
    "admin.add": (Vote, _add),
    "admin.remove": (Vote, _remove),
    "admin.rotate": (Another, _rotate),
    "admin.lock": (Passphrase, _lock),
    "admin.unlock": (Passphrase, _unlock),
    "admin.export": (Passphrase, _export),
    "admin.import": (Import, _import),
    "admin.forget": (Forget, _forget),
}
