"""Whose certificate is believed: an admin of the mesh signed it, or the key of a batch invite that an admin certified.

Both are roots of TLS, so that a certificate of a stranger never completes a handshake. Who shows one that an invite's
key signed is a member already, or is about to become one: then the invite must still be open. Who shows one of an admin
that is none any more must be a member: certificates say who somebody is, which follows from the key, and a machine that
slept while an admin was replaced is not to be lost; what it may do says its grant.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from meshnode.errors import PermissionDenied
from meshnode.trust import identity
from meshnode.trust.statements import BatchInvite, StatementSet
from meshnode.wire.messages import NodeId


def roots(held: StatementSet) -> list[bytes]:
    """The certificates (DER) that TLS between agents starts from."""
    office = held.office()
    former = [
        root for key, root in office.former.items() if office.kept[key]
    ]  # where nothing is kept, nobody came by it
    return [*office.live.values(), *former, *(invite.root for invite in held.invites().values())]


def check_peer(
    held: StatementSet,
    leaf: bytes | None,
    expected: NodeId | None,
    revoked: Callable[[NodeId], PermissionDenied | None],
    now: datetime,
) -> NodeId:
    """Who a TLS peer is, after the handshake. Raises PermissionDenied with the reason."""
    node = identity.peer_identity(
        leaf, mesh_id=held.mesh_id, roots=roots(held), expected=expected, revoked=revoked, now=now
    )
    assert leaf is not None
    if held.grant(node) is None and not identity.signed_by_any(leaf, held.admins().values()):
        invites = [it for it in held.invites().values() if identity.signed_by_any(leaf, [it.root])]
        if not invites:
            raise PermissionDenied(
                f"the certificate of node {node[:8]} was signed by an admin that is none any more, and it has no grant",
                hint="invite it again: `meshnode invite`",
            )
        if not any(closed(invite, now.timestamp()) == "" for invite in invites):
            why = closed(invites[0], now.timestamp())
            raise PermissionDenied(
                f"the token with which node {node[:8]} wants to join {why}", hint="ask for a new one"
            )
    return node


def closed(invite: BatchInvite, now: float) -> str:
    """Why nobody joins by an invite any more; empty while it is open."""
    if invite.ended_at is not None:
        return f"was revoked on {_day(invite.ended_at)}"
    if now >= invite.expires_at:
        return f"expired on {_day(invite.expires_at)}, by the clock of the node that was asked"
    return ""


def _day(at: int) -> str:
    return f"{datetime.fromtimestamp(min(at, 2**37), UTC):%Y-%m-%d %H:%M} UTC"
