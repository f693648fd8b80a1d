"""Who comes in and who goes out, as local clients ask for it: invites of both kinds, accepting, revoking, joining."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from meshnode.edge import officers
from meshnode.edge.node import Node
from meshnode.edge.verb import JSON
from meshnode.errors import InvalidInput, PermissionDenied
from meshnode.tasks.finding import ID_PREFIX_MIN, find_member
from meshnode.trust import believing, invites, inviting
from meshnode.trust.batch import BatchInvite
from meshnode.trust.invites import BatchToken
from meshnode.trust.statements import Grant, Statement
from meshnode.wire.messages import NodeId

BATCH_S = 7 * 86400.0
SINGLE_S = 1800.0
TOKEN_ID_MIN = 6
"""Characters of a token's id that a person must type."""
TOKEN_ID_CHARS = 16


class NewInvite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`role` is a comma-separated list. With `uses` it is a batch token; `hardware` are ids in hex."""

    expires_s: float | None = None
    role: str | None = None
    zone: str | None = None
    uses: int | None = None
    hardware: tuple[str, ...] = ()


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An invite token."""

    token: str


class Revoke(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node` is a name, an id or the beginning of an id, of a node or of an invite."""

    node: str
    reason: str = ""


class Accept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node` is a name, an id or the beginning of an id."""

    node: str


async def invite(node: Node, args: NewInvite) -> JSON:
    """A token. Raises InvalidInput, PermissionDenied without the admin key."""
    roles = tuple(part.strip() for part in args.role.split(",")) if args.role else None
    zones = (args.zone,) if args.zone else ()
    if args.uses is None:
        if args.hardware:
            raise InvalidInput("only a batch token names machines", hint="add --uses N")
        expires_s = SINGLE_S if args.expires_s is None else args.expires_s
        token = await node.inviter.invite(expires_s=expires_s, roles=roles, zones=zones)
        return {"token": token, "expires_s": expires_s}
    expires_s = BATCH_S if args.expires_s is None else args.expires_s
    others = [m.addresses[0] for m in node.membership.view() if m.usable and m.id != node.keeper.id and m.addresses]
    statement, token = inviting.make(
        node.keeper,
        uses=args.uses,
        expires_s=expires_s,
        roles=roles,
        zones=zones,
        hardware=[_hardware(text) for text in args.hardware],
        hints=[(host, port) for host, port in (*node.addresses(), *others) if "%" not in host],
    )
    _say(node, statement)
    return {"token": token, "expires_s": expires_s, "uses": args.uses, "id": _short(statement.id)}


async def listed(node: Node, _: object) -> JSON:
    """The invites: batch ones of the whole mesh, and the single-use ones that this node has open."""
    now = time.time()
    names = officers.names(node.keeper.statements)
    waiting = {g.node for g in node.keeper.statements.members() if g.quarantine}
    batches = [_document(it, names, waiting, now) for it in node.keeper.statements.invites().values()]
    single = [
        {
            "id": invites.tag(it.key).hex(),
            "kind": "single",
            "state": "open",
            "uses": 1,
            "used": 0,
            "quarantined": 0,
            "roles": sorted(it.roles),
            "zones": list(it.zones),
            "hardware": 0,
            "issued_at": None,
            "expires_at": it.expires_at,
            "issued_by": node.keeper.id,
            "issued_by_name": names.get(node.keeper.id),
        }
        for it in node.inviter.open(now)
    ]
    return [*batches, *single]


async def accept(node: Node, args: Accept) -> JSON:
    """Take a node out of quarantine. Raises InvalidInput, PermissionDenied without the admin key."""
    statements = node.keeper.statements
    waiting = [g for g in statements.members() if g.quarantine and statements.revoked(g.node) is None]
    grant = _meant(waiting, args.node)
    if grant is None:
        hint = f"in quarantine: {', '.join(_label(g) for g in waiting[:8])}" if waiting else "`meshnode members`"
        raise InvalidInput(f"no node {args.node!r} is in quarantine", hint=hint)
    _say(node, inviting.accept(node.keeper, grant))
    return {"id": grant.node, "name": grant.name}


async def revoke(node: Node, args: Revoke) -> JSON:
    """Throw a node out, or end an invite. Raises InvalidInput, PermissionDenied without the admin key."""
    grants = [g for g in node.keeper.statements.members() if args.node in (g.node, g.name)]
    if not grants and len(args.node) >= TOKEN_ID_MIN:
        found = [it for it in node.keeper.statements.invites().values() if it.id.hex().startswith(args.node)]
        if len(found) == 1:
            return _end(node, found[0])
        if node.inviter.withdraw(args.node):
            return {"invite": args.node, "joined": 0}
    wanted = grants[0].node if len(grants) == 1 else find_member(node.membership.view(), args.node).id
    if wanted == node.keeper.id:
        raise InvalidInput("this is the node itself", hint="`meshnode leave` takes this machine out of the mesh")
    node.keeper.admin("revoke a node")
    lost = officers.put_out(node, wanted)
    _say(node, node.keeper.revoke(wanted, args.reason))
    return {"id": wanted} | ({"admin": lost} if lost else {})


async def join(node: Node, args: Token) -> JSON:
    """Leave a mesh of one for the token's. Raises PermissionDenied, and what redeeming it raises."""
    others = [m for m in node.membership.view() if m.id != node.keeper.id and m.state in ("alive", "suspect")]
    if others and node.keeper.out is None:
        raise PermissionDenied(
            f"this node is already in a mesh with {len(others)} other nodes",
            hint="`meshnode leave` first; it ends this node's part in that mesh",
        )
    token = invites.parse(args.token, now=time.time())
    same = isinstance(token, BatchToken) and token.mesh_id == node.keeper.statements.mesh_id and node.keeper.out is None
    if same or (not isinstance(token, BatchToken) and token.inviter == node.keeper.id):
        # Redeeming it would put the admin key away, as that of a mesh that was left.
        raise PermissionDenied(
            "this node is in the token's mesh already" if same else "this node made the token itself",
            hint="use it on the other machine: `meshnode up TOKEN` there",
        )
    answer = {"mesh": await node.control.rejoin(args.token)}
    return answer | ({"quarantine": why} if (why := node.keeper.quarantine) else {})


def _end(node: Node, it: BatchInvite) -> JSON:
    if it.ended_at is not None:
        raise InvalidInput(f"the token {_short(it.id)} {believing.closed(it, time.time())}", hint="`meshnode accept`")
    _say(node, inviting.end(node.keeper, it))
    return {"invite": _short(it.id), "joined": len(it.joined)}


def _say(node: Node, statement: Statement) -> None:
    node.trust.publish([statement.data])
    node.trust.learnt([statement])


def _meant(grants: list[Grant], wanted: str) -> Grant | None:
    found = [g for g in grants if wanted in (g.node, g.name)]
    found = found or [g for g in grants if len(wanted) >= ID_PREFIX_MIN and g.node.startswith(wanted)]
    if len(found) > 1:
        ids = ", ".join(g.node[:8] for g in found)
        raise InvalidInput(f"{len(found)} nodes are called {wanted!r}", hint=f"name it by its id: {ids}")
    return found[0] if found else None


def _document(it: BatchInvite, names: dict[NodeId, str], waiting: set[NodeId], now: float) -> dict[str, Any]:
    quarantined = sum(redemption.body["node"] in waiting for redemption, _ in it.joined)
    full = len(it.joined) >= it.uses
    state = (
        "revoked" if it.ended_at is not None else "expired" if now >= it.expires_at else "used up" if full else "open"
    )
    return {
        "id": _short(it.id),
        "kind": "batch",
        "state": state,
        "uses": it.uses,
        "used": len(it.joined),
        "quarantined": quarantined,
        "roles": sorted(it.roles),
        "zones": list(it.zones),
        "hardware": len(it.hardware),
        "issued_at": it.issued_at,
        "expires_at": it.expires_at,
        "issued_by": it.issued_by,
        "issued_by_name": names.get(it.issued_by),
    }


def _hardware(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise InvalidInput(
            f"{text[:80]!r} is no hardware id", hint="`meshnode hardware` on that machine prints them: 64 hex digits"
        )
    return found


def _short(statement: bytes) -> str:
    return statement.hex()[:TOKEN_ID_CHARS]


def _label(grant: Grant) -> str:
    return f"{grant.name} ({grant.node[:8]})"
