"""Making and ending invites at a node that holds the admin key: what is asked for is checked, signed and minted.

Single-use tokens are opened in `joining`; here are batch tokens, and what an admin says of those who came by one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.errors import InvalidInput
from meshnode.trust import batch, form, identity, invites
from meshnode.trust.batch import BatchInvite
from meshnode.trust.form import EMPTY_ROLES, HARDWARE_MAX, USES_MAX, ZONE_CHARS_MAX
from meshnode.trust.grants import Grant
from meshnode.trust.invites import BatchToken
from meshnode.trust.keeper import Keeper
from meshnode.trust.statements import DEFAULT_ROLES, ROLES, Statement

SINGLE_MAX_S = 7 * 86400
BATCH_MAX_S = 365 * 86400


def check(*, expires_s: float, roles: Sequence[str] | None, zones: Sequence[str], longest_s: int) -> list[str]:
    """The roles that an invite gives. Raises InvalidInput for one that is none, a bad zone, a life out of bounds."""
    chosen = list(DEFAULT_ROLES if roles is None else roles)
    roles_are = f"roles are {', '.join(sorted(ROLES - EMPTY_ROLES))}"
    if unknown := sorted(set(chosen) - ROLES):
        raise InvalidInput(f"unknown role {unknown[0]!r}", hint=roles_are)
    if empty := sorted(set(chosen) & EMPTY_ROLES):
        raise InvalidInput(f"the role {empty[0]!r} allows nothing, and is given to nobody", hint=roles_are)
    if not 1 <= expires_s <= longest_s:
        raise InvalidInput(f"an invite lasts 1 s to {longest_s // 86400} days, not {expires_s:g} s")
    if bad := [zone for zone in zones if not (0 < len(zone) <= ZONE_CHARS_MAX and zone.isprintable())]:
        raise InvalidInput(f"a zone's name has 1 to {ZONE_CHARS_MAX} printable characters, not {bad[0][:80]!r}")
    return chosen


def root_of(key: Ed25519PrivateKey) -> bytes:
    """The certificate of an invite's key, DER. Its name follows from the key, which is all that a joiner has."""
    return identity.make_root(key, f"invite {identity.node_id(identity.public_der(key))[:16]}")


def make(
    keeper: Keeper,
    *,
    uses: int,
    expires_s: float,
    roles: Sequence[str] | None,
    zones: Sequence[str],
    hardware: Sequence[bytes],
    hints: Sequence[tuple[str, int]],
) -> tuple[Statement, str]:
    """A new batch invite and its token. Its key is nowhere but in the token.

    Raises PermissionDenied without the admin key, InvalidInput for what is out of bounds, HomeError.
    """
    admin = keeper.admin("invite machines")
    chosen = check(expires_s=expires_s, roles=roles, zones=zones, longest_s=BATCH_MAX_S)
    if "admin" in chosen:
        raise InvalidInput("a batch token makes no admins", hint="leave the role out")
    if not 1 <= uses <= USES_MAX:
        raise InvalidInput(f"a batch token is for 1 to {USES_MAX} machines, not {uses}", hint="make several")
    if len(set(hardware)) > HARDWARE_MAX:
        raise InvalidInput(f"a batch token names {HARDWARE_MAX} machines at most", hint="make several")
    key = Ed25519PrivateKey.generate()
    now = int(time.time())
    expires_at = now + max(1, int(expires_s))
    body = batch.invite_body(
        identity.public_der(key),
        root_of(key),
        roles=chosen,
        zones=zones,
        uses=uses,
        expires_at=expires_at,
        hardware=hardware,
    )
    statement = keeper.state("invite_key", body, admin, identity.public_der(admin))
    seed = identity.seed_of(key)
    return statement, invites.mint_batch(
        BatchToken(keeper.statements.mesh_id, seed, now, expires_at, tuple(hints)[: invites.BATCH_HINTS_MAX])
    )


def end(keeper: Keeper, invite: BatchInvite) -> Statement:
    """Nobody joins by it any more; who is known here to have joined stays. Raises PermissionDenied, HomeError."""
    admin = keeper.admin("revoke an invite")
    return keeper.state("invite_end", batch.end_body(invite), admin, identity.public_der(admin))


def accept(keeper: Keeper, grant: Grant) -> Statement:
    """Take a node out of quarantine, with the roles and zones of its invite. Raises PermissionDenied, HomeError."""
    admin = keeper.admin("accept a node")
    invite = keeper.statements.invites()[grant.invite]
    body = form.grant_body(grant.node, grant.name, invite.roles, invite.zones, int(time.time() + keeper.life_s))
    return keeper.state("grant", body, admin, identity.public_der(admin))
