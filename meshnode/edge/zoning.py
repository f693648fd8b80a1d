"""Zones at the doors: who may have what is bound to one, what must go from here, and how an admin gives one.

A zone is what a node's grant names, and nothing that it says of itself. What is bound to a zone is checked by whoever
submits, runs, gives and fetches it, each for itself.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from meshnode.catalog.manifest import Manifest
from meshnode.edge.node import Node
from meshnode.edge.verb import JSON, Verbs
from meshnode.errors import InvalidInput, NoNodeInZone
from meshnode.links.side import Peer
from meshnode.tasks.finding import find_member
from meshnode.trust.form import grant_body
from meshnode.trust.zones import checked_zone, in_zone, inside
from meshnode.wire.messages import Digest, Infer, NodeId

log = logging.getLogger(__name__)
SECOND_S = 1.5


class SetZone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node` is a name, an id or the beginning of one; an empty `zone` takes it out of all."""

    node: str
    zone: str = ""


def granted(node: Node, who: NodeId) -> str:
    """The zone that a node's grant names, or ""; who is in quarantine lies in none."""
    grant = node.keeper.statements.grant(who)
    return grant.zones[0] if grant is not None and grant.zones and not grant.quarantine else ""


def check_here(node: Node, manifest: Manifest) -> None:
    """Raises NoNodeInZone when this node must not have the model."""
    here = granted(node, node.keeper.id)
    for zone in manifest.bound:
        if not in_zone(here, zone):
            raise NoNodeInZone(
                f"model {manifest.name} is bound to zone {zone!r}, and this node is {_lies(here)}",
                hint="`meshnode members` shows the zones; an admin gives one by `invite --zone` or `meshnode zone`",
            )


def check_given(node: Node, peer: NodeId, via: Peer | None, bounds: tuple[str, ...]) -> None:
    """Raises NoNodeInZone when something bound to zones would come to a peer, or by a way, outside of one."""
    _check(node, peer, f"node {peer[:8]}", bounds)
    if via is not None:
        _check(node, via.id, f"{via.name}, through which it would go,", bounds)


def check_way(node: Node, via: Peer | None, request: Infer) -> None:
    """Raises NoNodeInZone when a task came through a member outside of a zone that it, or a model of it, is bound to.

    The results of all of a pipeline's stages go back that way.
    """
    if via is not None:
        models = (request.model, *(stage.model for stage in request.then))
        bounds = (zone for model in models for zone in node.catalog.bound(Digest(model)))
        _check(node, via.id, f"{via.name}, through which it came,", (*bounds, *filter(None, (request.zone,))))


def _check(node: Node, who: NodeId, what: str, bounds: tuple[str, ...]) -> None:
    lies = granted(node, who) if bounds else ""
    for zone in bounds:
        if not in_zone(lies, zone):
            raise NoNodeInZone(f"it is bound to zone {zone!r}, and {what} is {_lies(lies)}")


def may_have(node: Node, who: NodeId, digest: Digest) -> bool:
    """Whether a node lies in the zones that a model is bound to."""
    bounds = node.catalog.bound(digest)
    return not bounds or inside(granted(node, who), bounds)


def put_out(node: Node) -> None:
    """Let go of models that were bound to a zone elsewhere after they came here, or before this node left it."""
    here = granted(node, node.keeper.id)
    for digest in {*node.store.digests(), *node.store.begun()}:
        if (bounds := node.catalog.bound(digest)) and not inside(here, bounds):
            log.warning("model %s is bound to zone %r, and this node is %s: removed", digest[:12], bounds, _lies(here))
            node.execution.unload(digest)
            node.store.remove(digest)


async def claim(node: Node) -> None:
    """The zone of this node's settings: an admin's agent grants it to itself; a member hears that it does not count."""
    keeper, wanted = node.keeper, node.settings.zone
    if not wanted or granted(node, keeper.id) == wanted or keeper.out is not None:
        return
    if keeper.admin_key is not None and not granted(node, keeper.id):
        await _grant(node, keeper.id, wanted)
    else:
        log.warning(
            "the zone %r of the settings is shown and does not count: the grant says %s; an admin changes that by "
            "`meshnode zone %s %s`",
            wanted,
            granted(node, keeper.id) or "none",
            keeper.id[:8],
            wanted,
        )


async def _grant(node: Node, who: NodeId, zone: str) -> None:
    grant = node.keeper.statements.grant(who, time.time())
    if grant is None:
        raise InvalidInput(f"node {who[:8]} has no grant in this mesh, or it has expired")
    if grant.quarantine:  # a grant without roles would be all that it gets
        raise InvalidInput(f"{grant.name} is in quarantine: {grant.quarantine}", hint="`meshnode accept` it first")
    end = time.monotonic() + SECOND_S
    while time.time() < grant.granted_at + 1 and time.monotonic() < end:  # noqa: ASYNC110 - a clock is watched
        await asyncio.sleep(0.05)  # grants of a node are told apart by whole seconds
    zones = (checked_zone(zone), *grant.zones[1:]) if zone else ()
    body = grant_body(who, grant.name, grant.roles, zones, grant.expires_at, final=grant.final, was=grant.was)
    statement = node.keeper.say("grant", body, admin="give a node its zone")
    node.trust.publish([statement.data])
    node.trust.learnt([statement])
    if granted(node, who) != zone:
        raise InvalidInput(
            f"the grant that {grant.name} has is of a later time than this machine's clock shows",
            hint="set the clock (`meshnode doctor` looks at it), or do it on the admin's machine that granted it",
        )


async def _set(node: Node, args: SetZone) -> JSON:
    member = find_member(node.membership.view(), args.node)
    await _grant(node, member.id, args.zone)
    return {"id": member.id, "name": member.name, "zone": args.zone or None}


def _lies(zone: str) -> str:
    return f"in zone {zone!r}" if zone else "in no zone"


VERBS: Verbs = {"zone": (SetZone, _set)}
