"""What holds, given a set of statements: who is admin, who is a member, who is out, which models exist.

Pure: the same set gives the same answer whatever order it came in. Revocation wins over every grant, and an admin's
revocation over what the revoked node signed. `issued_at` orders grants of one node and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from meshnode.trust.form import KINDS, ROLES, Statement
from meshnode.wire.messages import NodeId

IdOf = Callable[[bytes], NodeId]
"""(public key DER) -> node id"""


@dataclass(frozen=True, slots=True)
class Grant:
    """A node is a member until `expires_at` (UTC seconds)."""

    node: NodeId
    name: str
    roles: frozenset[str]
    zones: tuple[str, ...]
    granted_by: NodeId
    granted_at: int
    expires_at: int
    statement: bytes


@dataclass(frozen=True, slots=True)
class Revocation:
    """A node is out for good. `by` is the node itself when it left, else the id of the admin key."""

    reason: str
    by: NodeId
    at: int
    statement: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds. `admins` maps public keys to certificates, both DER, the oldest first."""

    admins: Mapping[bytes, bytes]
    grants: Mapping[NodeId, Grant]
    revocations: Mapping[NodeId, Revocation]
    models: tuple[Statement, ...]
    blueprints: tuple[Statement, ...] = ()
    policies: tuple[Statement, ...] = ()
    publishers: tuple[Statement, ...] = ()


NOTHING = Standing({}, {}, {}, ())


def derive(genesis: Statement, statements: Iterable[Statement], id_of: IdOf) -> Standing:
    """What follows from a set of statements of one mesh."""
    of_kind: dict[str, list[Statement]] = {kind: [] for kind in KINDS}
    for statement in sorted(statements, key=lambda s: (s.issued_at, s.id)):
        of_kind[statement.kind].append(statement)
    admins = _admins(genesis, of_kind["admin_add"], of_kind["admin_remove"])
    revocations, distrusted = _revocations(of_kind["revoke"], admins, id_of)
    gone = _revoked_statements(of_kind, admins)
    grants = {
        statement.body["node"]: _grant(statement, id_of)  # the latest by (time, id) wins
        for statement in of_kind["grant"]
        if statement.issuer in admins and statement.id not in gone
    }
    models = []
    for statement in of_kind["model"]:
        publisher = id_of(statement.issuer)
        grant = grants.get(publisher)
        granted = grant is not None and "publisher" in grant.roles and publisher not in distrusted
        if statement.id not in gone and (granted or statement.issuer in admins):
            models.append(statement)

    def of_admins(kind: str) -> tuple[Statement, ...]:
        return tuple(it for it in of_kind[kind] if it.id not in gone and it.issuer in admins)

    said = (of_admins(kind) for kind in ("blueprint", "policy", "publisher"))
    return Standing(admins, grants, revocations, tuple(models), *said)


def _admins(genesis: Statement, added: list[Statement], removed: list[Statement]) -> dict[bytes, bytes]:
    """The genesis' admins and everyone added by an admin, less the removed; the oldest stays if nobody else would."""
    ever: dict[bytes, bytes] = dict(genesis.body["admins"])
    grew = True
    while grew:
        grew = False
        for statement in added:
            key = statement.body["key"]
            if statement.issuer in ever and key not in ever:
                ever[key] = statement.body["root"]
                grew = True
    out = {statement.body["key"] for statement in removed if statement.issuer in ever}
    live = {key: root for key, root in ever.items() if key not in out}
    if not live:
        oldest = next(iter(ever))
        live = {oldest: ever[oldest]}
    return live


def _revocations(
    statements: list[Statement], admins: Mapping[bytes, bytes], id_of: IdOf
) -> tuple[dict[NodeId, Revocation], set[NodeId]]:
    """Who is out, and who of them was thrown out by an admin rather than left."""
    revocations: dict[NodeId, Revocation] = {}
    distrusted: set[NodeId] = set()
    for statement in statements:
        node = statement.body.get("node")
        if node is None:
            continue
        by = id_of(statement.issuer)
        if statement.issuer in admins:
            if node not in distrusted:  # an admin's word is told, also when the node says that it left before
                revocations[node] = _revocation(statement, by)
            distrusted.add(node)
        elif by == node:
            revocations.setdefault(node, _revocation(statement, by))
    return revocations, distrusted


def _revocation(statement: Statement, by: NodeId) -> Revocation:
    return Revocation(statement.body["reason"], by, statement.issued_at, statement.id)


def _revoked_statements(of_kind: Mapping[str, list[Statement]], admins: Mapping[bytes, bytes]) -> set[bytes]:
    issuer_of = {s.id: s.issuer for kind in ("grant", "model") for s in of_kind[kind]}
    return {
        target
        for statement in of_kind["revoke"]
        if (target := statement.body.get("statement")) is not None
        and (statement.issuer in admins or issuer_of.get(target) == statement.issuer)
    }


def _grant(statement: Statement, id_of: IdOf) -> Grant:
    body = statement.body
    return Grant(
        NodeId(body["node"]),
        body["name"],
        frozenset(body["roles"]) & ROLES,
        tuple(body["zones"]),
        id_of(statement.issuer),
        statement.issued_at,
        body["expires_at"],
        statement.id,
    )
