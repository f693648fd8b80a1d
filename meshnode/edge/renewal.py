"""Renewing this node's membership before it ends, renewing others' as an admin, and going on with another key.

Who must be renewed asks any admin's node that is up. Nothing waits for it, and nothing breaks meanwhile: links stay,
and those that come later show the new certificate.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.edge import speaking
from meshnode.edge.judging import Row, row
from meshnode.edge.verb import JSON, Nothing, Verbs
from meshnode.errors import InvalidInput, MeshError, PeerLost, PermissionDenied, ProtocolError
from meshnode.links.link import Reply
from meshnode.tasks.finding import find_member
from meshnode.trust import form, identity, office, renewing
from meshnode.trust.renewing import Outlook
from meshnode.trust.statements import STATEMENT_BYTES_MAX, Statement
from meshnode.wire import batches
from meshnode.wire.messages import KEYS, NodeId, RenewAsk, Renewed, RotateAsk

if TYPE_CHECKING:
    from meshnode.edge.node import Node

log = logging.getLogger(__name__)

LOOK_S = 3600.0
"""So often it is looked whether something is due, and so long is waited at most before it is asked for again."""
AGAIN_MIN_S = 0.25
"""The first pause before it is asked for again; it doubles…"""
AGAIN_SHARE = 1 / 50
"""…up to so much of the time that is left when it is due, and begins anew when somebody is reached."""
SPREAD_S = 60.0
"""Nodes that became due by one statement do not ask all at once."""
ASK_S = 10.0
AWAY_S = 0.3
"""What peers need to hear that a key took the place of another, before their links end."""


class RenewFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another `node` (name, id or the beginning of one), or this; `for_s` sets an end that is not put off."""

    node: str = ""
    for_s: float | None = None


@dataclass(slots=True)
class Renewal:
    """How this node's own renewal stands. `problem` is why the last try failed."""

    problem: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    told: bool = False


def link_up(node: Node) -> None:
    """Somebody is reachable now: an admin's node, perhaps."""
    if node.renewal.problem:
        node.renewal.changed.set()


def outlook(node: Node) -> Outlook | None:
    """When this node's membership is due; None while it has none to renew."""
    keeper = node.keeper
    grant = keeper.statements.grant(keeper.id)
    if keeper.leaf is None or grant is None or grant.quarantine:
        return None
    held = keeper.statements
    signers = (*held.admins().values(), *(invite.root for invite in held.invites().values()))
    lasting = identity.signed_by_any(keeper.leaf, signers)
    return renewing.outlook(identity.term_of(keeper.leaf), grant, signer_lasts=lasting)


async def run(node: Node) -> None:
    """Renew whenever it is due, until cancelled."""
    it, rng, pause_s = node.renewal, random.Random(), AGAIN_MIN_S
    while True:
        ahead, now = outlook(node), time.time()
        if ahead is None or now < ahead.due_at:
            it.problem, it.told = "", False
            await _wait(it, LOOK_S if ahead is None else min(ahead.due_at - now, LOOK_S))
            continue
        await asyncio.sleep(rng.uniform(0, min(SPREAD_S, max(0.0, ahead.ends_at - now) / 10)))
        try:
            await renew(node)
        except MeshError as error:
            it.problem = str(error)
            _tell(node, ahead)
            most_s = min(LOOK_S, (ahead.ends_at - ahead.due_at) * AGAIN_SHARE)
            changed = await _wait(it, pause_s)
            pause_s = AGAIN_MIN_S if changed else max(AGAIN_MIN_S, min(2 * pause_s, most_s))
        else:
            it.problem, it.told, pause_s = "", False, AGAIN_MIN_S
            node.events.note("renewed", node.keeper.id, _own_name(node), f"until {_day(outlook(node))}")


async def _wait(it: Renewal, most_s: float) -> bool:
    """Whether something changed meanwhile that may help."""
    it.changed.clear()
    try:
        async with asyncio.timeout(most_s):
            return await it.changed.wait()
    except TimeoutError:
        return False


def _tell(node: Node, ahead: Outlook) -> None:
    """Say once that it is late."""
    if time.time() >= ahead.urgent_at and not node.renewal.told:
        node.renewal.told = True
        why = f"until {_day(ahead)} only: {node.renewal.problem}"
        log.warning("the membership of this node was not renewed, it is good %s", why)
        node.events.note("not renewed", node.keeper.id, _own_name(node), why)


async def renew(node: Node) -> None:
    """Get a new certificate, and a grant if it is time. Raises MeshError when no admin that is up gives them."""
    keeper = node.keeper
    grant = keeper.statements.grant(keeper.id)
    if grant is None:
        raise PermissionDenied("this node is no member of the mesh any more")
    if keeper.admin_key is not None:
        leaf, said = office.renew(keeper, keeper.spki, grant)
        _say(node, said)
    else:
        leaf = (await _ask_admins(node, RenewAsk(key=keeper.spki)))[0]
    keeper.renew(leaf)
    node.pool.refresh()


async def _ask_admins(node: Node, request: RenewAsk | RotateAsk) -> list[bytes]:
    """What the first admin's node that can sends: a certificate, and statements, which are taken in."""
    statements, now = node.keeper.statements, time.time()
    members = [m for m in node.membership.view() if m.id != node.keeper.id and (m.usable or node.pool.get(m.id))]
    able = [m for m in members if (g := statements.grant(m.id, now)) is not None and "admin" in g.roles]
    random.shuffle(able)
    failure: MeshError = PeerLost(
        "no admin's node is reachable", hint="`meshnode admin list` shows whose they are; start one of them"
    )
    for member in able:
        try:
            link = await node.pool.link(member.id, member.addresses)
            speaking.check(link.peer, KEYS, "renews nobody's membership")
            received = await link.call(request, timeout_s=ASK_S)
            if not isinstance(received.message, Renewed):
                raise ProtocolError(f"{request.__class__.__name__} was answered otherwise than by a certificate")
            leaf, *told = batches.unpack_batch(received.body, item_bytes_max=STATEMENT_BYTES_MAX)
            if not isinstance(request, RotateAsk) and (new := node.keeper.merge(told)):
                node.trust.learnt(new)
        except MeshError as error:
            failure = error
        except ValueError as error:
            failure = ProtocolError(f"{member.name} sent no certificate: {error}")
        else:
            return [leaf, *told]
    raise failure


# --- as an admin ---


def for_peer(node: Node, request: RenewAsk | RotateAsk, peer: NodeId) -> Reply:
    """Answer a member. Raises PermissionDenied: it is not itself, or this node does not do that."""
    held = node.keeper.statements
    grant = (held.to_hand_over if isinstance(request, RotateAsk) else held.grant)(peer, time.time())
    if grant is None or grant.quarantine or identity.node_id(request.key) != peer:
        raise PermissionDenied(f"node {peer[:8]} has no membership that could be renewed")
    if not node.settings.trust.renew and renewing.grant_is_due(grant, time.time()):
        raise PermissionDenied(
            "renewing is switched off on this admin's node", hint=f"there, by hand: `meshnode renew {peer[:8]}`"
        )
    if isinstance(request, RotateAsk):
        leaf, said = office.rotate(node.keeper, grant, request.key, request.new, request.by_old, request.by_new)
    else:
        leaf, said = office.renew(node.keeper, request.key, grant)
    _say(node, said)
    return Reply(Renewed(), (batches.pack_batch([leaf, *(it.data for it in said)]),))


def _say(node: Node, said: Sequence[Statement]) -> None:
    if said:
        node.trust.publish([it.data for it in said])
        node.trust.learnt(list(said))


# --- what people ask for ---


async def _renew(node: Node, args: RenewFor) -> JSON:
    """Renew this node now, or another's grant as an admin."""
    statements = node.keeper.statements
    who = find_member(node.membership.view(), args.node).id if args.node else node.keeper.id
    if who == node.keeper.id and args.for_s is None and node.keeper.admin_key is None:
        await renew(node)
    else:
        grant = statements.grant(who)
        if grant is None or grant.quarantine:
            raise InvalidInput(f"node {who[:8]} is no member", hint="`meshnode members`; `meshnode accept` lets one in")
        if args.for_s is not None and not 1 <= args.for_s <= 3650 * 86400:
            raise InvalidInput("a membership lasts a second to ten years")
        ends = time.time() + (node.keeper.life_s if args.for_s is None else args.for_s)
        _say(node, [office.regrant(node.keeper, grant, "renew", expires_at=ends, final=args.for_s is not None)])
        if who == node.keeper.id:
            await renew(node)
    held = statements.grant(who)
    assert held is not None
    return {"id": who, "name": held.name, "expires_at": held.expires_at, "final": held.final}


async def _rotate(node: Node, _: Nothing) -> JSON:
    """Go on as another node: a new key with this one's name, roles and zones, while this one is revoked."""
    keeper = node.keeper
    grant = keeper.statements.to_hand_over(keeper.id, time.time())
    if grant is None or grant.quarantine:
        raise PermissionDenied("only a member of the mesh can go on with another key", hint="`meshnode members`")
    new = Ed25519PrivateKey.generate()
    spki = identity.public_der(new)
    message = office.hand_over(keeper.statements.mesh_id, keeper.id, spki)
    request = RotateAsk(key=keeper.spki, new=spki, by_old=keeper.key.sign(message), by_new=new.sign(message))
    if keeper.admin_key is not None:
        leaf, said = office.rotate(keeper, grant, keeper.spki, spki, request.by_old, request.by_new)
        told = [it.data for it in said]
        _say(node, said)
    else:
        leaf, *told = await _ask_admins(node, request)
    was, now = keeper.id, identity.node_id(spki)
    out = keeper.sign("revoke", form.revoke_node_body(was, f"it goes on as node {now[:8]}"), keeper.key)
    keeper.become(new, leaf, [*told, out])
    node.trust.publish([*told, out])
    asyncio.get_running_loop().call_later(AWAY_S, node.control.again)
    return {"was": was, "id": now, "name": grant.name}


VERBS: Verbs = {
    "renew": (RenewFor, _renew),
    "rotate": (Nothing, _rotate),
}


# --- telling ---


def document(node: Node) -> dict[str, Any] | None:
    """For `status`: when this node's membership ends, and why it was not renewed."""
    ahead = outlook(node)
    if ahead is None:
        return None
    return {
        "due_at": ahead.due_at if ahead.due_at != float("inf") else None,
        "ends_at": ahead.ends_at,
        "final": ahead.final,
        "late": time.time() >= ahead.urgent_at,
        "problem": node.renewal.problem or None,
    }


def findings(node: Node) -> list[Row]:
    """For `doctor`: how long the membership is good."""
    ahead, now = outlook(node), time.time()
    if ahead is None:
        return []
    text = f"this node is a member until {_day(ahead)}"
    if ahead.final:
        return [row("renewal", True if now < ahead.urgent_at else None, f"{text}, by an admin's word")]
    if now < ahead.due_at:
        return [row("renewal", True, f"{text}, and asks for more from {_date(ahead.due_at)}")]
    fix = "start an admin's node that this one reaches (`meshnode admin list`), then `meshnode renew`"
    why = f": {node.renewal.problem}" if node.renewal.problem else ""
    return [row("renewal", False if now >= ahead.urgent_at else None, f"{text}, and nobody has renewed it{why}", fix)]


def _own_name(node: Node) -> str:
    grant = node.keeper.statements.grant(node.keeper.id)
    return "" if grant is None else grant.name


def _day(ahead: Outlook | None) -> str:
    return "" if ahead is None else _date(ahead.ends_at)


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
