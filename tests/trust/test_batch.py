"""Batch invites in the statement set: who is a member, who is in quarantine, and that all agree about it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.errors import MeshError, PermissionDenied, ProtocolError
from meshnode.trust import batch, believing, form, identity
from meshnode.trust.batch import EARLY_S, OVER_MAX
from meshnode.trust.inviting import root_of
from meshnode.trust.statements import StatementSet
from tests.trust.cast import NOW, Person, Town, empty

TOWN = Town()
A, KEY, OTHER_KEY = TOWN.admin, Person(20), Person(21)
NODES = [Person(seed) for seed in range(30, 38)]
SERIAL, OTHER_SERIAL = bytes([1]) * 32, bytes([2]) * 32


def invites(key: Person = KEY, *, uses: int = 2, by: Person = A, hardware: tuple[bytes, ...] = ()) -> bytes:
    """An invite until NOW + 1000."""
    body = batch.invite_body(
        key.spki,
        root_of(key.key),
        roles=("worker", "submitter", "admin"),
        zones=("eu",),
        uses=uses,
        expires_at=NOW + 1000,
        hardware=hardware,
    )
    return by.says("invite_key", body, mesh=TOWN.mesh)


def redeems(invite: bytes, node: Person, *, at: float = NOW, by: Person = KEY, hardware: bytes = b"") -> bytes:
    body = batch.redeem_body(form.parse(invite).id, node.id, f"n{node.seed}", round(at * 1000), hardware)
    return by.says("redeem", body, mesh=TOWN.mesh)


def ends(held: StatementSet, invite: bytes, *, by: Person = A) -> bytes:
    """An end by somebody who knows what is held."""
    return by.says("invite_end", batch.end_body(held.invites()[form.parse(invite).id]), mesh=TOWN.mesh)


def standing(held: StatementSet) -> list[tuple[int, str]]:
    """Of each node that is in: its place in NODES, and why it is in quarantine."""
    grants = [(place, held.grant(node.id)) for place, node in enumerate(NODES)]
    return [(place, grant.quarantine) for place, grant in grants if grant is not None]


def test_a_redemption_gives_what_the_invite_says_and_never_admin() -> None:
    """Roles and zones are the token's, less `admin`; the grant names the admin's key and ends in a year."""
    invite = invites()
    grant = TOWN.set(invite, redeems(invite, NODES[0], at=NOW + 5)).grant(NODES[0].id)

    assert grant is not None
    assert ({"worker", "submitter"}, ("eu",), "") == (grant.roles, grant.zones, grant.quarantine)
    assert ("n30", A.id, NOW + 5) == (grant.name, grant.granted_by, grant.granted_at)
    assert NOW + 5 + 365 * 86400 == grant.expires_at
    assert form.parse(invite).id == grant.invite


def test_the_youngest_beyond_the_limit_are_in_quarantine() -> None:
    """By time and then by id; they are members without any role."""
    invite = invites()
    at = {0: NOW + 3, 1: NOW + 1, 2: NOW + 2}
    held = TOWN.set(invite, *(redeems(invite, NODES[place], at=when) for place, when in at.items()))

    full = "its token is for 2 machines, and as many had joined before"
    assert [(0, full), (1, ""), (2, "")] == standing(held)
    grant = held.grant(NODES[0].id)
    assert grant is not None
    assert frozenset() == grant.roles


def test_both_halves_of_a_split_mesh_quarantine_the_same_node() -> None:
    """Each half lets one in by the last use; after the heal they agree who of the two came second, though times tie."""
    invite = invites(uses=1)
    left, right = (TOWN.set(invite, redeems(invite, node)) for node in NODES[:2])
    assert [(0, "")] == standing(left)
    assert [(1, "")] == standing(right)

    left_data, right_data = ([data for _, data in held.items()] for held in (left, right))
    left.merge(right_data)
    right.merge(left_data)
    assert left.root_hash == right.root_hash
    assert standing(left) == standing(right)
    assert 1 == sum(bool(doubt) for _, doubt in standing(left))


def test_who_has_heard_of_others_comes_after_them_whatever_its_clock_says() -> None:
    """By a millisecond, within the token's time: a member is not put behind by a newcomer with a slow clock."""
    invite = invites()
    held = TOWN.set(invite, redeems(invite, NODES[0], at=NOW + 5.5))
    (known,) = held.invites().values()
    (late,) = TOWN.set(invite, redeems(invite, NODES[0], at=NOW + 1000)).invites().values()

    assert [(NOW + 5) * 1000 + 501] * 2 == [batch.time_to_join(known, now) for now in (NOW, NOW + 5.5)]
    assert (NOW + 6) * 1000 == batch.time_to_join(known, NOW + 6)
    assert (NOW + 1000) * 1000 == batch.time_to_join(late, NOW)


def test_a_node_counts_once_however_often_it_says_that_it_joins() -> None:
    """Who lost its power between saying so and writing it down says it again, and takes no second place."""
    invite = invites()
    twice = [redeems(invite, NODES[0], at=NOW + i) for i in range(3)]

    assert [(0, ""), (1, "")] == standing(TOWN.set(invite, *twice, redeems(invite, NODES[1], at=NOW + 9)))


def test_an_admin_lets_a_node_out_of_quarantine_and_its_place_stays_taken() -> None:
    """The admin's own grant wins over the token; nobody else moves up."""
    invite = invites(uses=1)
    joined = [redeems(invite, NODES[i], at=NOW + i) for i in range(3)]
    held = TOWN.set(invite, *joined, TOWN.grants(NODES[1]), TOWN.grants(NODES[0], roles=("submitter",)))

    full = "its token is for 1 machines, and as many had joined before"
    assert [(0, ""), (1, ""), (2, full)] == standing(held)
    grant = held.grant(NODES[0].id)
    assert grant is not None
    assert {"submitter"} == grant.roles


def test_a_revoked_node_stays_out_and_its_place_taken() -> None:
    """Revocation wins over redemptions, later ones too, and frees no use."""
    invite = invites(uses=1)
    held = TOWN.set(
        invite,
        redeems(invite, NODES[0]),
        redeems(invite, NODES[1], at=NOW + 1),
        TOWN.revokes(NODES[0]),
        redeems(invite, NODES[0], at=NOW + 2),
    )
    assert held.grant(NODES[0].id) is None
    assert [1] == [place for place, doubt in standing(held) if doubt]


def test_an_ended_invite_keeps_whom_its_admin_knew_and_no_other() -> None:
    """Who comes later is in quarantine, whatever time it says that it joined; two admins keep what either knew."""
    invite = invites(uses=5)
    first, second, back_dated = (redeems(invite, NODES[i], at=NOW - i) for i in range(3))
    end = ends(TOWN.set(invite, first), invite)
    late = "its token had been revoked"
    assert [(0, ""), (1, late), (2, late)] == standing(TOWN.set(invite, first, end, second, back_dated))

    other = Person(4)
    also = ends(TOWN.set(TOWN.adds(other), invite, second), invite, by=other)
    held = TOWN.set(TOWN.adds(other), back_dated, also, second, end, first, invite)
    assert [(0, ""), (1, ""), (2, late)] == standing(held)


def test_an_end_counts_only_from_an_admin() -> None:
    """A member, and the token's holder, cannot end an invite, nor make another."""
    invite = invites()
    held = TOWN.set(invite, redeems(invite, NODES[0]))
    for by in (NODES[0], KEY):
        with pytest.raises(PermissionDenied, match="may make no invite_end"):
            held.add(ends(held, invite, by=by))
        with pytest.raises(PermissionDenied, match="may make no invite_key"):
            held.add(invites(by=by))
        with pytest.raises(PermissionDenied, match="may make no grant"):
            held.add(TOWN.grants(NODES[1], by=by))


def test_a_key_redeems_only_its_own_invite() -> None:
    """A redemption that another invite's key signed makes no member of this one."""
    mine, other = invites(), invites(OTHER_KEY)
    held = TOWN.set(mine, other, redeems(other, NODES[0], by=KEY))

    assert [] == standing(held)


@pytest.mark.parametrize(
    ("at", "doubted"),
    [(NOW - EARLY_S, False), (NOW - EARLY_S - 0.001, True), (NOW + 1000, False), (NOW + 1000.001, True)],
)
def test_a_redemption_outside_of_the_tokens_time_is_in_quarantine(at: float, doubted: bool) -> None:
    """A clock may be a day behind, as for certificates; after the token's end is after its end."""
    invite = invites()
    ((_, doubt),) = standing(TOWN.set(invite, redeems(invite, NODES[0], at=at)))

    assert doubted == bool(doubt)
    assert doubt in ("", "it joined outside of its token's time")


def test_a_token_for_some_machines_is_for_each_of_them_once() -> None:
    """Another machine is in quarantine, the same machine again too, until the node that it was is revoked."""
    invite = invites(uses=5, hardware=(SERIAL, OTHER_SERIAL))
    said = [
        invite,
        redeems(invite, NODES[0], hardware=SERIAL),
        redeems(invite, NODES[1], at=NOW + 1, hardware=SERIAL),
        redeems(invite, NODES[2], at=NOW + 2, hardware=OTHER_SERIAL),
        redeems(invite, NODES[3], at=NOW + 3, hardware=bytes(32)),
        redeems(invite, NODES[4], at=NOW + 4),
    ]
    wrong, again = "its token is not for this machine", "another node has joined as this machine"

    assert [(0, ""), (1, again), (2, ""), (3, wrong), (4, wrong)] == standing(TOWN.set(*said))
    assert [(1, ""), (2, ""), (3, wrong), (4, wrong)] == standing(TOWN.set(*said, TOWN.revokes(NODES[0])))


def test_a_removed_admins_invites_end_with_it() -> None:
    """As its grants do: they do not hold, and their keys are no roots of TLS any more."""
    other = Person(4)
    invite = invites(by=other)
    held = TOWN.set(TOWN.adds(other), invite, redeems(invite, NODES[0]))
    assert [(0, "")] == standing(held)
    assert 3 == len(believing.roots(held))
    held.merge([TOWN.removes(other)])

    assert [] == standing(held)
    assert 1 == len(believing.roots(held))


def test_a_second_token_lets_a_node_out_of_quarantine() -> None:
    """What one invite doubts another can give."""
    full, good = invites(uses=1), invites(OTHER_KEY)
    held = TOWN.set(full, good, redeems(full, NODES[0]), redeems(full, NODES[1], at=NOW + 1))
    assert 1 == sum(bool(doubt) for _, doubt in standing(held))
    held.merge([redeems(good, NODES[1], by=OTHER_KEY)])

    assert [(0, ""), (1, "")] == standing(held)


def test_whoever_has_a_token_cannot_fill_the_set() -> None:
    """So many more than its uses are taken in, to be seen; no more."""
    invite = invites(uses=1)
    held = TOWN.set(invite)
    body = batch.redeem_body(form.parse(invite).id, NODES[0].id, "n", NOW, b"")
    for _ in range(1 + OVER_MAX):
        held.add(KEY.says("redeem", body, mesh=TOWN.mesh))

    with pytest.raises(ProtocolError, match=r"invite \w+ has made 101 statements, the limit"):
        held.add(KEY.says("redeem", body, mesh=TOWN.mesh))


BIG, SMALL = invites(uses=3, hardware=(SERIAL, OTHER_SERIAL)), invites(OTHER_KEY, uses=1)
SAID = (
    BIG,
    SMALL,
    *(redeems(BIG, node, at=NOW + i % 3, hardware=SERIAL if i % 2 else OTHER_SERIAL) for i, node in enumerate(NODES)),
    *(redeems(SMALL, node, at=NOW - i % 2, by=OTHER_KEY) for i, node in enumerate(NODES[:4])),
    TOWN.revokes(NODES[1]),
    TOWN.revokes(NODES[2], by=NODES[2], reason="left"),
    TOWN.grants(NODES[5]),
    TOWN.adds(Person(4)),
    ends(TOWN.set(SMALL, redeems(SMALL, NODES[6], by=OTHER_KEY)), SMALL, by=Person(4)),
)


def seen(held: StatementSet) -> object:
    return held.root_hash, held.members(), [held.grant(node.id) for node in NODES], dict(held.invites()), held.models()


@given(st.permutations(SAID), st.integers(0, len(SAID)))
@settings(max_examples=80, deadline=None)
def test_all_agree_whatever_came_first(order: list[bytes], cut: int) -> None:
    """One by one in any order, or as two halves that meet, the same nodes are members and the same in quarantine."""
    expected = seen(TOWN.set(*SAID))
    one_by_one, left, right = (empty() for _ in range(3))
    for held in (one_by_one, left, right):
        held.merge([TOWN.genesis])
    for data in order:
        one_by_one.merge([data])
    left.merge(order[:cut])
    right.merge(order[cut:])
    left.merge([data for _, data in right.items()] + order)
    right.merge([data for _, data in left.items()])

    assert expected == seen(one_by_one) == seen(left) == seen(right)


@pytest.mark.parametrize(
    "change",
    [
        {"uses": 0},
        {"uses": 2001},
        {"uses": True},
        {"hardware": [bytes(31)]},
        {"hardware": [bytes(32)] * 1001},
        {"roles": "worker"},
        {"zones": [""]},
        {"expires_at": -1},
        {"key": "text"},
        {"root": None},
    ],
)
def test_a_malformed_invite_is_refused(change: dict[str, object]) -> None:
    """Each field of the body has its form."""
    body = {**form.parse(invites()).body, **change}
    with pytest.raises(ProtocolError, match=r"malformed|are allowed"):
        A.says("invite_key", body, mesh=TOWN.mesh)


def test_the_largest_invite_and_the_largest_end_fit() -> None:
    """A thousand machines by their ids, and an end that keeps all that the set can hold."""
    machines = tuple(i.to_bytes(32, "big") for i in range(form.HARDWARE_MAX))
    invite = form.parse(invites(uses=form.USES_MAX, hardware=machines))
    kept = bytes(form.KEPT_BYTES * (form.USES_MAX + OVER_MAX))

    assert form.HARDWARE_MAX == len(invite.body["hardware"])
    assert A.says("invite_end", {"invite": invite.id, "kept": kept}, mesh=TOWN.mesh)


# --- certificates ---

WHEN = datetime.fromtimestamp(NOW, UTC)


def leaf(node: Person, by: Person) -> bytes:
    return identity.issue_leaf(by.key, root_of(by.key), node.spki, TOWN.mesh, now=WHEN)


def checked(held: StatementSet, shown: bytes, *, at: int = NOW) -> str:
    """The node, or why not."""
    try:
        return believing.check_peer(held, shown, None, lambda _: None, datetime.fromtimestamp(at, UTC))
    except MeshError as error:
        return str(error)


def test_a_certificate_by_an_invites_key_is_believed_while_it_is_open_and_of_members_for_good() -> None:
    """A newcomer only before the end, its own or an admin's; who joined, also in quarantine, afterwards too."""
    invite = invites(uses=1)
    held = TOWN.set(invite)
    member, doubted, newcomer = NODES[:3]
    assert newcomer.id == checked(held, leaf(newcomer, KEY))
    assert "expired on" in checked(held, leaf(newcomer, KEY), at=NOW + 1000)
    held.merge([redeems(invite, member), redeems(invite, doubted, at=NOW + 1)])
    held.merge([ends(held, invite)])

    assert member.id == checked(held, leaf(member, KEY), at=NOW + 5000)
    assert doubted.id == checked(held, leaf(doubted, KEY), at=NOW + 5000)
    assert "wants to join was revoked on" in checked(held, leaf(newcomer, KEY))


def test_a_certificate_by_a_key_that_nobody_certified_is_not_believed() -> None:
    """Nor is one by a member's own key, or by an invite's key that another mesh certified."""
    held = TOWN.set(invites(), TOWN.grants(NODES[0]))
    for by in (OTHER_KEY, NODES[0]):
        assert "is not signed by an admin" in checked(held, leaf(NODES[1], by))
    elsewhere = identity.issue_leaf(KEY.key, root_of(KEY.key), NODES[1].spki, "ab" * 32, now=WHEN)
    assert "names" in checked(held, elsewhere)
