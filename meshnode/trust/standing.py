"""What holds, given a set of statements: who is admin, who is a member, who is out, which models exist and do harm.

Pure: the same set gives the same answer whatever order it came in. Revocation wins over every grant, and an admin's
revocation over what the revoked node signed. `issued_at` orders grants of one node and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshnode.trust import admins as electing
from meshnode.trust import batch
from meshnode.trust.admins import Admins
from meshnode.trust.batch import BatchInvite
from meshnode.trust.form import KINDS, ROLES, Statement
from meshnode.trust.grants import Grant, IdOf
from meshnode.wire.messages import NodeId

REPORTS_MIN = 2
"""One worker may be broken, or lie."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """A node is out for good. `by` is the node itself when it left, else the id of the admin key."""

    reason: str
    by: NodeId
    at: int
    statement: bytes


@dataclass(frozen=True, slots=True)
class Flag:
    """Reports that a model does harm, in the order of their times: one of each worker, and those of admins."""

    reporters: tuple[NodeId, ...]
    reasons: tuple[str, ...]
    statements: tuple[bytes, ...]
    by_admin: bool

    @property
    def holds(self) -> bool:
        """Whether no node runs the model: an admin says so, or two workers do."""
        return self.by_admin or len(self.reporters) >= REPORTS_MIN


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds; `invites` are batch ones.

    `heirs` are the nodes that took the places of others, by the ids of those; `idle` are who gave such a place away,
    and who was given one that another was given later. They have a grant, and it gives them nothing.
    """

    admins: Admins
    grants: Mapping[NodeId, Grant]
    revocations: Mapping[NodeId, Revocation]
    models: tuple[Statement, ...]
    flags: Mapping[str, Flag] = field(default_factory=dict)
    blueprints: tuple[Statement, ...] = ()
    invites: Mapping[bytes, BatchInvite] = field(default_factory=dict)
    policies: tuple[Statement, ...] = ()
    publishers: tuple[Statement, ...] = ()
    heirs: Mapping[NodeId, NodeId] = field(default_factory=dict)
    idle: frozenset[NodeId] = frozenset()


NOTHING = Standing(Admins(), {}, {}, (), {})


def derive(genesis: Statement, statements: Iterable[Statement], id_of: IdOf) -> Standing:
    """What follows from a set of statements of one mesh."""
    of_kind: dict[str, list[Statement]] = {kind: [] for kind in KINDS}
    for statement in sorted(statements, key=lambda s: (s.issued_at, s.id)):
        of_kind[statement.kind].append(statement)
    admins = electing.derive(genesis, of_kind["admin_add"], of_kind["admin_remove"])
    revocations, distrusted = _revocations(of_kind["revoke"], admins, id_of)
    gone = _revoked_statements(of_kind, admins)
    grants = {
        statement.body["node"]: _grant(statement, id_of)  # the latest by (time, id) wins
        for statement in of_kind["grant"]
        if admins.counts(statement) and statement.id not in gone
    }
    heirs, doubles = _heirs(of_kind["grant"], admins, gone)
    invites, joined = batch.derive(of_kind, admins, gone, revocations, id_of)
    grants = joined | grants  # what an admin says of a node itself wins
    models = []
    for statement in of_kind["model"]:
        publisher = id_of(statement.issuer)
        grant = grants.get(publisher)
        granted = grant is not None and "publisher" in grant.roles and publisher not in distrusted | doubles
        if statement.id not in gone and (granted or admins.counts(statement)):
            models.append(statement)
    reports = [it for it in of_kind["flag"] if it.id not in gone]
    idle = doubles | heirs.keys()
    out = idle | revocations.keys()
    workers = {node for node, grant in grants.items() if "worker" in grant.roles and node not in out}

    def of_admins(kind: str) -> tuple[Statement, ...]:
        return tuple(it for it in of_kind[kind] if it.id not in gone and admins.counts(it))

    return Standing(
        admins,
        grants,
        revocations,
        tuple(models),
        flags=_flags(reports, admins, workers, id_of),
        blueprints=of_admins("blueprint"),
        invites=invites,
        policies=of_admins("policy"),
        publishers=of_admins("publisher"),
        heirs=heirs,
        idle=frozenset(idle),
    )


def _heirs(
    statements: Iterable[Statement], admins: Admins, gone: set[bytes]
) -> tuple[dict[NodeId, NodeId], set[NodeId]]:
    """Who took the place of which node, the last who did; and who had taken it before.

    A node that may give its place to another key must not be two nodes by it, or as many as it likes: two workers
    together flag a model, and one that nobody knows of would outlive the revocation of the other.
    """
    heirs: dict[NodeId, NodeId] = {}
    doubles: set[NodeId] = set()
    known: set[NodeId] = set()
    for statement in statements:  # by (time, id); a later grant of the same heir renews it
        was, node = statement.body.get("was", ""), statement.body["node"]
        if not was or node in known or not admins.counts(statement) or statement.id in gone:
            continue
        known.add(node)
        if (before := heirs.get(was)) is not None:
            doubles.add(before)
        heirs[NodeId(was)] = NodeId(node)
    return heirs, doubles


def _revocations(
    statements: list[Statement], admins: Admins, id_of: IdOf
) -> tuple[dict[NodeId, Revocation], set[NodeId]]:
    """Who is out, and who of them was thrown out by an admin rather than left."""
    revocations: dict[NodeId, Revocation] = {}
    distrusted: set[NodeId] = set()
    for statement in statements:
        node = statement.body.get("node")
        if node is None:
            continue
        by = id_of(statement.issuer)
        if admins.counts(statement):
            if node not in distrusted:  # an admin's word is told, also when the node says that it left before
                revocations[node] = _revocation(statement, by)
            distrusted.add(node)
        elif by == node:
            revocations.setdefault(node, _revocation(statement, by))
    return revocations, distrusted


def _revocation(statement: Statement, by: NodeId) -> Revocation:
    return Revocation(statement.body["reason"], by, statement.issued_at, statement.id)


def _revoked_statements(of_kind: Mapping[str, list[Statement]], admins: Admins) -> set[bytes]:
    issuer_of = {s.id: s.issuer for kind in ("grant", "model", "flag") for s in of_kind[kind]}
    return {
        target
        for statement in of_kind["revoke"]
        if (target := statement.body.get("statement")) is not None
        and (admins.counts(statement) or issuer_of.get(target) == statement.issuer)
    }


def _flags(reports: Iterable[Statement], admins: Admins, workers: set[NodeId], id_of: IdOf) -> dict[str, Flag]:
    """By digest: reports that nobody took back, of live admins and of workers that are still in."""
    flags: dict[str, Flag] = {}
    for report in reports:
        node, by_admin = id_of(report.issuer), admins.counts(report)
        flag = flags.get(report.body["digest"], Flag((), (), (), False))
        if not by_admin and (node not in workers or node in flag.reporters):
            continue
        flags[report.body["digest"]] = Flag(
            flag.reporters if by_admin else (*flag.reporters, node),
            (*flag.reasons, report.body["reason"]),
            (*flag.statements, report.id),
            flag.by_admin or by_admin,
        )
    return flags


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
        final=body.get("final", False),
        was=body.get("was", ""),
    )
