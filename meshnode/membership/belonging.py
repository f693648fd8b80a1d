"""Be in a mesh: the one from last time, the token's, or a new one. `meshnode join` needs no more of an agent."""

from __future__ import annotations

import logging
import socket
import time

from meshnode.config import Settings
from meshnode.errors import PermissionDenied
from meshnode.links.address import Address
from meshnode.trust import invites
from meshnode.trust.homefiles import is_lost
from meshnode.trust.invites import Invite
from meshnode.trust.keeper import Keeper
from meshnode.trust.redeeming import Applicant, Newcomer, redeem
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

Peers = tuple[tuple[NodeId, tuple[Address, ...]], ...]


def node_name(settings: Settings) -> str:
    """The name that is shown: the setting, or the host's."""
    return (settings.name or socket.gethostname().partition(".")[0] or "node")[:128]


async def belong(keeper: Keeper, settings: Settings, token: str | None, *, anew: bool = False) -> Peers:
    """Be in a mesh: the one from last time, the token's, or a new mesh of one. Returns peers to try first.

    `anew`: also where a mesh was lost. Raises HomeError without it, TokenRefused, Revoked without a token for a node
    that is out, PermissionDenied, PeerLost.
    """
    name = node_name(settings)
    if token is not None:
        if keeper.belongs:
            # Also when it has expired: a member that is started again with its old token is no joiner.
            invite = invites.parse(token, now=0.0)
            if keeper.out is None and keeper.statements.mesh_id.startswith(invite.mesh_prefix):
                log.info("already in the mesh of this token")
                return ()
            if keeper.out is None and len(keeper.statements.members()) > 1:
                raise PermissionDenied(
                    f"this home is already in the mesh {keeper.statements.mesh_name!r}",
                    hint="`meshnode leave` first, or use another --home",
                )
        return await enter(keeper, settings, token, name)
    if keeper.out is not None:
        raise keeper.out
    if not keeper.belongs:
        if anew and is_lost(keeper.home):
            keeper.begin_anew()
        keeper.life_s = settings.trust.valid_days * 86400
        keeper.found(f"{name}'s mesh", name, settings.zone)
    return ()


async def enter(keeper: Keeper, settings: Settings, token: str, name: str) -> Peers:
    """Join with a token; a node that was revoked as a new node, with a new key. Returns peers to try first.

    Raises what `redeem`, `arrive` and `Keeper.adopt` raise; then the home is as it was.
    """
    invite = invites.parse(token, now=time.time())
    newcomer = Newcomer() if keeper.out is not None else None
    applicant: Applicant = keeper if newcomer is None else newcomer
    if isinstance(invite, Invite):
        joined = await redeem(applicant, token, name)
    else:
        from meshnode.membership.arriving import arrive  # links, multicast: who has the other kind needs none of it

        joined = await arrive(applicant, invite, name, settings)
    keeper.adopt(joined.membership, None if newcomer is None else newcomer.key)
    return joined.peers
