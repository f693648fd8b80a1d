"""What follows for this node when statements are new: models come and go, members are thrown out."""

from __future__ import annotations

import asyncio
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
        revocation = node.keeper.statements.revoked(member.id)
        if revocation is None:
            continue
        reason = revocation.reason or "no reason given"
        if member.id == node.keeper.id:
            log.error("this node was revoked: %s", reason)
            node.dispatcher.draining = True
            continue
        node.membership.revoked(member.id)
        node.discovery.forget(member.id)
        # One turn later, so that the revocation itself, which is about to be pushed, still reaches the node.
        text = f"this node was revoked: {reason}"
        asyncio.get_running_loop().call_soon(node.pool.drop, member.id, "revoked", text)
