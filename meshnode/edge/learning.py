"""What follows for this node when statements are new: models come and go, members are thrown out."""

from __future__ import annotations

import logging

from meshnode.edge.node import Node
from meshnode.trust.statements import Statement

log = logging.getLogger(__name__)


def refresh_catalog(node: Node) -> None:
    """Read the models that hold now."""
    statements = node.keeper.statements
    node.catalog.refresh((it, statements.publisher(it)) for it in statements.models())


def learn(node: Node, statements: list[Statement]) -> None:
    """Act on statements that were not known here before."""
    kinds = {statement.kind for statement in statements}
    if kinds & {"admin_add", "admin_remove"}:
        node.pool.refresh()
    refresh_catalog(node)
    if "revoke" not in kinds:
        return
    for member in node.membership.view():
        refusal = node.keeper.refusal(member.id)
        if refusal is None:
            continue
        if member.id == node.keeper.id:
            node.membership.revoked(member.id)
            node.dispatcher.draining = True
            log.error("%s; %s", refusal, refusal.hint)
            continue
        node.membership.revoked(member.id)
        node.discovery.forget(member.id)
        node.pool.drop(member.id, refusal.code, str(refusal), refusal.statement)


def unwilling(node: Node, *, stopping: bool) -> str:
    """Why this node takes no work of others now; or nothing."""
    if stopping:
        return "it is stopping"
    return "it was revoked" if node.keeper.out is not None else node.membership.copied or node.owner.reason
