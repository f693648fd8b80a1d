"""What an admin's node does about memberships and admins: renewing, handing over to another key, voting.

Whether it may follows from the admin key that its keeper holds; what it means for everybody, from the statements.
"""

from __future__ import annotations

import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.errors import InvalidInput, PermissionDenied
from meshnode.trust import adminkey, admins, form, identity, renewing
from meshnode.trust.adminkey import Holding
from meshnode.trust.files import move_aside, write_atomic
from meshnode.trust.grants import Grant
from meshnode.trust.keeper import Keeper
from meshnode.trust.statements import Statement
from meshnode.wire.messages import NodeId

HAND_OVER = b"meshnode/rotate/1\0"


def regrant(
    keeper: Keeper,
    grant: Grant,
    what: str,
    *,
    node: NodeId | None = None,
    roles: frozenset[str] | None = None,
    expires_at: float | None = None,
    final: bool | None = None,
) -> Statement:
    """Grant the same again, but for what is given. Raises PermissionDenied without the admin key, HomeError."""
    body = form.grant_body(
        node or grant.node,
        grant.name,
        grant.roles if roles is None else roles,
        grant.zones,
        grant.expires_at if expires_at is None else int(expires_at),
        final=grant.final if final is None else final,
        was=grant.was if node is None else grant.node,
    )
    # Of a node's grants, and of those that take one place, the latest counts: also within a second, and where this
    # clock is behind the one of who gave the last.
    before = [grant] if node is None else [it for it in keeper.statements.members() if it.was == grant.node]
    after = max((it.granted_at + 1 for it in before), default=0)
    return keeper.take([keeper.sign("grant", body, keeper.admin(what), at=after)])[0]


def renew(keeper: Keeper, spki: bytes, grant: Grant) -> tuple[bytes, list[Statement]]:
    """A new certificate for a member, and a grant when its last third has begun. Raises as `regrant`."""
    said = []
    if renewing.grant_is_due(grant, time.time()):
        said.append(regrant(keeper, grant, "renew a membership", expires_at=time.time() + keeper.life_s))
    until = grant.expires_at if grant.final else float("inf")
    return keeper.issue(spki, "renew a membership", until=until), said


def hand_over(mesh_id: str, old: NodeId, spki: bytes) -> bytes:
    """What both keys of a node sign when the second takes over."""
    return HAND_OVER + bytes.fromhex(mesh_id) + identity.id_bytes(old) + spki


def rotate(
    keeper: Keeper, grant: Grant, old: bytes, new: bytes, by_old: bytes, by_new: bytes
) -> tuple[bytes, list[Statement]]:
    """Certificate and grant for the key that takes a member's place, with its name, roles, zones and end.

    Raises PermissionDenied when not both keys signed that, or the new one is known already; and as `regrant`.
    """
    message = hand_over(keeper.statements.mesh_id, grant.node, new)
    node = identity.node_id(new)
    if not (identity.verify(old, message, by_old) and identity.verify(new, message, by_new)):
        raise PermissionDenied("not both keys signed that one takes the place of the other")
    if any(it.node == node for it in keeper.statements.members()) or keeper.statements.revoked(node):
        raise PermissionDenied("the new key is a member's already, or was one's")
    leaf = keeper.issue(new, "give a node another key", until=grant.expires_at if grant.final else float("inf"))
    return leaf, [regrant(keeper, grant, "give a node another key", node=node)]


# --- admins ---


def candidate(keeper: Keeper) -> tuple[bytes, bytes]:
    """The admin key that this node holds or would hold, and its certificate; made when there is none.

    Raises PermissionDenied when it is sealed, HomeError.
    """
    holding, path = keeper.holding, keeper.home / adminkey.NAME
    if holding is not None and holding.spki in keeper.statements.office().former:
        move_aside(path, "removed")  # a key that was removed stays out
        holding = None
    if holding is None:
        holding = adminkey.plain(identity.load_or_create_key(path))
    if holding.key is None:
        raise PermissionDenied("the admin key of that node is sealed", hint="there: `meshnode admin unlock`")
    keeper.holding = holding
    return holding.spki, identity.make_root(holding.key, keeper.statements.mesh_name)


def vote_add(keeper: Keeper, key: bytes, root: bytes, node: NodeId) -> list[Statement]:
    """Vote for one more admin. Raises InvalidInput when it is one, PermissionDenied, HomeError."""
    admin, office = keeper.admin("add an admin"), keeper.statements.office()
    if key in office.live:
        raise InvalidInput("it is an admin already", hint="`meshnode admin list`")
    mine = identity.public_der(admin)
    if any(it.adds and it.key == key and it.root == root and mine in it.voters for it in office.proposed):
        return []
    return keeper.state_all([("admin_add", admins.add_body(key, root, node), admin)])


def vote_remove(keeper: Keeper, key: bytes) -> list[Statement]:
    """Vote against an admin, keeping all of its word that is known here. Raises as `vote_add`."""
    admin, office = keeper.admin("remove an admin"), keeper.statements.office()
    if key not in office.live:
        raise InvalidInput("it is no admin", hint="`meshnode admin list`")
    if len(office.live) <= office.quorum:
        why = "is the last admin" if office.quorum == 1 else f"is one of {office.quorum}, and as many must agree here"
        raise InvalidInput(f"it {why}: it cannot be removed", hint="`meshnode admin add NODE` first")
    if identity.public_der(admin) == key:
        raise InvalidInput(
            "an admin is removed by another, which keeps what it had signed",
            hint="do it on another admin's machine; `meshnode admin rotate` gives this one another key",
        )
    bodies = admins.remove_bodies(key, word_of(keeper, key))
    return keeper.state_all([("admin_remove", body, admin) for body in bodies])


def word_of(keeper: Keeper, key: bytes) -> list[Statement]:
    """What an admin said and still matters: all but grants that others have replaced."""
    replaced = {it.statement for it in keeper.statements.members()}
    return [it for it in keeper.statements.said_by(key) if it.kind != "grant" or it.id in replaced]


def rotate_admin(keeper: Keeper, new: Ed25519PrivateKey, text: str) -> list[Statement]:
    """Put another key in the place of this node's admin key, which gives up its office for good.

    All that it had signed goes on counting. `text` is the new key's file, sealed if the old one's is.
    Raises PermissionDenied, InvalidInput where others must agree, HomeError.
    """
    old = check_may_rotate(keeper)
    assert keeper.holding is not None
    if keeper.holding.sealed and not adminkey.is_sealed(text):
        raise InvalidInput("the admin key is sealed, and the next one would not be", hint="give a passphrase")
    write_atomic(keeper.home / adminkey.NEXT, text.encode("ascii"))  # before anybody hears of it
    statements = keeper.statements
    key, spki = identity.public_der(old), identity.public_der(new)
    root = identity.make_root(new, statements.mesh_name)
    add = keeper.sign("admin_add", admins.add_body(spki, root, keeper.id), old)
    word = [*word_of(keeper, key), form.parse(add)]
    removal = [keeper.sign("admin_remove", body, new) for body in admins.remove_bodies(key, word)]
    resignation = keeper.sign("admin_remove", admins.remove_bodies(key, [])[0], old)
    said = keeper.take([add, *removal, resignation])
    keeper.holding = adminkey.settle(keeper.home, set(statements.admins()))
    keeper.open_admin(new)
    return said


def check_may_rotate(keeper: Keeper) -> Ed25519PrivateKey:
    """The admin key of this node, when it alone decides. Raises PermissionDenied, InvalidInput."""
    if (quorum := keeper.statements.office().quorum) > 1:
        raise InvalidInput(
            f"{quorum} admins must agree about every admin key of this mesh",
            hint="on their machines `meshnode admin remove` this node, then `meshnode admin add` it: with a new key",
        )
    return keeper.admin("rotate its key")


def lock(keeper: Keeper, text: str | None) -> None:
    """Forget the admin key, of whose file `text` is the sealed form unless it has that. Raises HomeError."""
    if text is not None:
        adminkey.write(keeper.home / adminkey.NAME, text)
    keeper.holding = adminkey.load(keeper.home / adminkey.NAME)


def check_holds(keeper: Keeper) -> Holding:
    """The admin key that is here, open or not. Raises PermissionDenied."""
    if keeper.holding is None or not keeper.is_admin:
        raise PermissionDenied("this node holds no admin key", hint="`meshnode admin list` shows who does")
    return keeper.holding


def take(keeper: Keeper, text: str, key: Ed25519PrivateKey) -> None:
    """Hold the admin key of a sealed text, sealed as it is, and open until the agent ends.

    Raises InvalidInput for a key that is no admin's, or when another is here; HomeError.
    """
    spki, here = identity.public_der(key), keeper.holding
    if spki not in keeper.statements.admins():
        raise InvalidInput("the key is no admin's of this mesh", hint="`meshnode admin list` shows whose keys are")
    if here is not None and here.spki != spki:
        if keeper.is_admin:
            raise InvalidInput("this node holds another admin key", hint="`meshnode admin export --move FILE` first")
        move_aside(keeper.home / adminkey.NAME, "unused")
    adminkey.write(keeper.home / adminkey.NAME, text)
    keeper.holding = adminkey.load(keeper.home / adminkey.NAME)
    keeper.open_admin(key)


def forget(keeper: Keeper) -> None:
    """Hold the admin key no more: a copy of it is elsewhere. Raises HomeError."""
    (keeper.home / adminkey.NAME).unlink(missing_ok=True)
    keeper.holding = None
