"""What follows for this node when statements are new: models come and go, members are thrown out."""

from __future__ import annotations

import logging
import time

from meshnode.edge import auditing, flagging, fleet, zoning
from meshnode.edge.node import Node
from meshnode.routing.estimates import Estimates
from meshnode.trust.statements import Statement
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)


def refresh_catalog(node: Node) -> None:
    """Read the models that hold now."""
    statements = node.keeper.statements
    node.policing.refresh()
    models = [(it, statements.publisher(it)) for it in statements.models()]
    node.catalog.refresh((it, who) for it, who in models if node.policing.publishes(who))
    zoning.put_out(node)
    fleet.steer(node)
    node.fleet.changed()


def learn(node: Node, statements: list[Statement]) -> None:
    """Act on statements that were not known here before."""
    auditing.learnt(node.book, statements, node.keeper.statements.publisher)
    kinds = {statement.kind for statement in statements}
    if kinds & {"admin_add", "admin_remove", "invite_key"}:
        node.pool.refresh()
    if kinds & {"admin_add", "admin_remove", "grant"}:
        node.renewal.changed.set()
    refresh_catalog(node)
    look_at_quarantine(node)
    if "admin_remove" in kinds:
        part_with_those_without_grant(node)
    flagging.heard(node, statements)
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


def part_with_those_without_grant(node: Node) -> None:
    """Hang up on members whose grant went with the admin that gave it."""
    for link in (*node.pool.links(), *node.pool.bulk()):
        peer = link.peer.id
        if node.keeper.statements.grant(peer) is None and node.keeper.refusal(peer) is None:
            node.pool.drop(peer, "permission_denied", "who granted this node's membership is no admin any more")


def look_at_quarantine(node: Node) -> None:
    """Tell who came into quarantine and who is out of it."""
    statements = node.keeper.statements
    node.events.quarantines(
        {
            g.node: (g.name, g.quarantine)
            for g in statements.members()
            if g.quarantine and not statements.revoked(g.node)
        }
    )


def set_aside(node: Node, estimates: Estimates, peer: NodeId, why: str) -> None:
    """A peer gave a wrong result: leave it out for a while, and say why. Nobody else is told."""
    member = node.membership.member(peer)
    name = member.name if member is not None else peer[:8]
    log.warning("%s (%s) is set aside: %s", name, peer[:8], why)
    node.events.note("set aside", peer, name, why)
    if peer != node.keeper.id:
        estimates.distrust(peer, time.monotonic())


def unwilling(node: Node, *, stopping: bool) -> str:
    """Why this node takes no work of others now; or nothing."""
    if stopping:
        return "it is stopping"
    if node.keeper.out is not None:
        return "it was revoked"
    return "it is in quarantine" if node.keeper.quarantine else node.membership.copied or node.owner.reason
