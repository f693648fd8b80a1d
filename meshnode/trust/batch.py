"""Batch invites: who is a member by a token that many may use, with no admin awake.

An admin certifies a one-time key by an `invite_key` statement; whoever holds the key joins by a `redeem` statement
that it signs, and `invite_end` ends it. Pure, and the same set gives the same answer whatever order it came in. A
redemption is never refused here: what is doubtful about it puts the node into quarantine, where it may neither run nor
submit anything until an admin grants it, or revokes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshnode.trust.admins import Admins
from meshnode.trust.form import KEPT_BYTES, ROLES, Statement
from meshnode.trust.grants import GRANT_S, Grant, IdOf
from meshnode.wire.messages import NodeId

OVER_MAX = 100
"""So many redemptions more than its uses are taken in of an invite, to be seen; what else comes is refused."""
EARLY_S = 86400
"""A joiner's clock may be behind the inviter's by so much, as for certificates."""
OfKind = Mapping[str, list[Statement]]
"""Statements by kind, each kind by (time, id)."""


@dataclass(frozen=True, slots=True)
class BatchInvite:
    """A key that lets machines in, as an admin certified it.

    `id` is its statement's, `key` and `root` its public key and certificate (DER), `hardware` the ids of machines that
    may use it (any, when there are none). `joined` is who did, in the order in which they count, with why it is in
    quarantine or nothing.
    """

    id: bytes
    key: bytes
    root: bytes
    roles: frozenset[str]
    zones: tuple[str, ...]
    uses: int
    hardware: frozenset[bytes]
    issued_by: NodeId
    issued_at: int
    expires_at: int
    ended_at: int | None
    joined: tuple[tuple[Statement, str], ...]


def invite_body(
    key: bytes,
    root: bytes,
    *,
    roles: Iterable[str],
    zones: Iterable[str],
    uses: int,
    expires_at: int,
    hardware: Iterable[bytes],
) -> dict[str, Any]:
    """Whoever holds the private half of `key` may let so many machines in."""
    return {
        "key": key,
        "root": root,
        "roles": sorted(roles),
        "zones": list(zones),
        "uses": uses,
        "expires_at": expires_at,
        "hardware": sorted(set(hardware)),
    }


def redeem_body(invite: bytes, node: NodeId, name: str, at_ms: int, hardware: bytes) -> dict[str, Any]:
    """A machine joins; `hardware` is which of the ids that the invite names it has, if it names any."""
    return {"invite": invite, "node": node, "name": name, "at_ms": at_ms, "hardware": hardware}


def time_to_join(invite: BatchInvite, now: float) -> int:
    """UTC milliseconds: now, but after all who are known to have joined, so that nobody is put behind by a clock."""
    latest = max((it.body["at_ms"] for it, _ in invite.joined), default=0)
    return min(max(int(now * 1000), latest + 1), invite.expires_at * 1000)


def end_body(invite: BatchInvite) -> dict[str, Any]:
    """Nobody joins by it any more. Who has joined is named: a time would not do, for the key's holder can say any."""
    return {"invite": invite.id, "kept": b"".join(sorted(it.id[:KEPT_BYTES] for it, _ in invite.joined))}


def derive(
    of_kind: OfKind, admins: Admins, gone: set[bytes], revoked: Mapping[NodeId, object], id_of: IdOf
) -> tuple[dict[bytes, BatchInvite], dict[NodeId, Grant]]:
    """The invites that hold, by id, and who is a member by them."""
    ends = _ends(of_kind["invite_end"], admins)
    redemptions: dict[bytes, list[Statement]] = {}
    for statement in of_kind["redeem"]:
        redemptions.setdefault(statement.body["invite"], []).append(statement)
    invites: dict[bytes, BatchInvite] = {}
    grants: dict[NodeId, Grant] = {}
    for statement in of_kind["invite_key"]:
        if not admins.counts(statement) or statement.id in gone:
            continue
        end = ends.get(statement.id)
        key = statement.body["key"]
        found = (it for it in redemptions.get(statement.id, ()) if it.issuer == key and it.id not in gone)
        joined = tuple(_judged(statement, found, end, revoked))
        invite = invites[statement.id] = _invite(statement, joined, end, id_of)
        for redemption, doubt in joined:
            grant = _grant(invite, redemption, doubt)
            other = grants.get(grant.node)
            if other is None or _rank(grant) > _rank(other):
                grants[grant.node] = grant
    return invites, grants


def _ends(statements: Iterable[Statement], admins: Admins) -> dict[bytes, tuple[int, set[bytes]]]:
    """When each was ended, and which redemptions stay: those that any admin who ended it knew."""
    ends: dict[bytes, tuple[int, set[bytes]]] = {}
    for statement in statements:
        if admins.counts(statement):
            _, kept = ends.setdefault(statement.body["invite"], (statement.issued_at, set()))
            ids = statement.body["kept"]
            kept.update(ids[i : i + KEPT_BYTES] for i in range(0, len(ids), KEPT_BYTES))
    return ends


def _judged(
    invite: Statement, found: Iterable[Statement], end: tuple[int, set[bytes]] | None, revoked: Mapping[NodeId, object]
) -> Iterator[tuple[Statement, str]]:
    """Each node's first redemption, the oldest first, with what is doubtful about it."""

    def late(it: Statement) -> bool:
        return end is not None and it.id[:KEPT_BYTES] not in end[1]

    first: dict[NodeId, Statement] = {}
    for it in sorted(found, key=lambda it: (late(it), it.body["at_ms"], it.id)):
        first.setdefault(it.body["node"], it)
    allowed, machines = set(invite.body["hardware"]), set[bytes]()
    for place, (node, it) in enumerate(first.items()):
        machine = it.body["hardware"]
        doubt = ""
        if late(it):
            doubt = "its token had been revoked"
        elif not (invite.issued_at - EARLY_S) * 1000 <= it.body["at_ms"] <= invite.body["expires_at"] * 1000:
            doubt = "it joined outside of its token's time"
        elif allowed and machine not in allowed:
            doubt = "its token is not for this machine"
        elif allowed and machine in machines:
            doubt = "another node has joined as this machine"
        elif place >= invite.body["uses"]:
            doubt = f"its token is for {invite.body['uses']} machines, and as many had joined before"
        elif node not in revoked:
            machines.add(machine)
        yield it, doubt


def _invite(
    statement: Statement,
    joined: tuple[tuple[Statement, str], ...],
    end: tuple[int, set[bytes]] | None,
    id_of: IdOf,
) -> BatchInvite:
    body = statement.body
    return BatchInvite(
        id=statement.id,
        key=body["key"],
        root=body["root"],
        roles=frozenset(body["roles"]) & ROLES - {"admin"},
        zones=tuple(body["zones"]),
        uses=body["uses"],
        hardware=frozenset(body["hardware"]),
        issued_by=id_of(statement.issuer),
        issued_at=statement.issued_at,
        expires_at=body["expires_at"],
        ended_at=None if end is None else end[0],
        joined=joined,
    )


def _grant(invite: BatchInvite, redemption: Statement, doubt: str) -> Grant:
    granted_at = redemption.body["at_ms"] // 1000
    return Grant(
        node=NodeId(redemption.body["node"]),
        name=redemption.body["name"],
        roles=frozenset() if doubt else invite.roles,
        zones=invite.zones,
        granted_by=invite.issued_by,
        granted_at=granted_at,
        expires_at=granted_at + GRANT_S,
        statement=redemption.id,
        quarantine=doubt,
        invite=invite.id,
    )


def _rank(grant: Grant) -> tuple[bool, int, bytes]:
    return not grant.quarantine, grant.granted_at, grant.statement
