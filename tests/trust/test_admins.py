"""Votes about admins: how many it takes, what is kept of a removed one's word, and that no order matters."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.errors import ProtocolError
from meshnode.trust import admins, form
from meshnode.trust.admins import KEPT_EACH
from meshnode.trust.form import KEPT_BYTES
from meshnode.trust.statements import StatementSet
from tests.trust.cast import NOW, Person, Town

TOWN = Town()
A, B, C, D = TOWN.admin, Person(2), Person(3), Person(4)
NODE, LATER = Person(7), Person(8)
THREE = Town(Person(1), (B, C), 2)
"""Two of three decide."""


def live(held: StatementSet) -> set[int]:
    """The seeds of the admins."""
    return {it.seed for it in (A, B, C, D) if it.spki in held.admins()}


def test_two_of_three_decide() -> None:
    """One vote to add or to remove is a proposal, which names who voted; two are the decision."""
    one = THREE.set(THREE.adds(D), THREE.removes(C, keeping=[]))
    both = THREE.set(THREE.adds(D), THREE.adds(D, by=B))

    assert {1, 2, 3} == live(one)
    assert [(True, D.spki, D.id, (A.spki,)), (False, C.spki, "", (A.spki,))] == [
        (it.adds, it.key, it.node, it.voters) for it in one.office().proposed
    ]
    assert ({1, 2, 3, 4}, ()) == (live(both), both.office().proposed)
    assert {1, 2, 4} == live(
        THREE.set(THREE.adds(D), THREE.adds(D, by=B), *(THREE.removes(C, by=by, keeping=[]) for by in (B, D)))
    )


def test_one_of_three_votes_as_often_as_it_likes() -> None:
    """A thief of one key of three adds nobody and removes nobody, by whichever clock."""
    said = [THREE.adds(D, by=C, at=NOW + i) for i in range(5)]
    said += [THREE.removes(it, by=C, keeping=[], at=NOW - i) for i in range(5) for it in (A, B)]

    assert {1, 2, 3} == live(THREE.set(*said))


def test_votes_for_a_key_are_for_one_certificate() -> None:
    """Two votes that name different certificates of a key are not two votes for either."""
    forged = C.says("admin_add", admins.add_body(D.spki, b"another", D.id), mesh=THREE.mesh)

    assert {1, 2, 3} == live(THREE.set(THREE.adds(D), forged))


def test_there_are_never_fewer_admins_than_it_takes() -> None:
    """With two left of a quorum of two nobody could ever add a third: the second removal does not count."""
    votes = [THREE.removes(C, by=by, keeping=[]) for by in (A, B)] + [
        THREE.removes(B, by=by, keeping=[]) for by in (A, C, B)
    ]

    assert 2 == len(live(THREE.set(*votes)))


@pytest.mark.parametrize("quorum", [0, 3, True, "2"])
def test_a_genesis_with_a_quorum_that_nobody_reaches_is_none(quorum: object) -> None:
    """It is refused as malformed, like any body that is wrong."""
    body = form.genesis_body("town", [(A.spki, A.root), (B.spki, B.root)], bytes(32)) | {"quorum": quorum}
    with pytest.raises(ProtocolError):
        A.says("genesis", body, mesh="")


def test_what_is_kept_of_a_removed_admins_word_holds_and_no_more() -> None:
    """Grants, revocations and admins that were named go on; what the key signs afterwards counts for nothing."""
    add, grant, out = TOWN.adds(C, by=B), TOWN.grants(NODE, by=B), TOWN.revokes(Person(6), by=B)
    removal = TOWN.removes(B, keeping=[add, grant, out])
    held = TOWN.set(TOWN.adds(B), add, grant, out, removal)

    assert {1, 3} == live(held)
    assert B.root == held.office().former[B.spki]
    assert held.grant(NODE.id) is not None
    assert held.revoked(Person(6).id) is not None

    held.merge([TOWN.grants(LATER, by=B, at=NOW - 9), TOWN.adds(D, by=B, at=NOW - 9), TOWN.revokes(NODE, by=B)])
    assert {1, 3} == live(held)
    assert held.grant(LATER.id) is None
    assert held.revoked(NODE.id) is None


def test_a_removed_admin_removes_nobody() -> None:
    """A thief's key answers its removal with votes against all the others: they stay, and so do its own helpers not."""
    thief = B
    held = TOWN.set(TOWN.adds(thief), TOWN.adds(C), TOWN.removes(thief, keeping=[]))
    add = TOWN.adds(D, by=thief)
    helper_keeps = TOWN.removes(thief, by=D, keeping=[add])
    held.merge([*(TOWN.removes(it, by=thief, keeping=[], at=NOW - 99) for it in (A, C)), add, helper_keeps])

    assert {1, 3} == live(held)


def test_who_gave_up_its_office_has_no_say_however_old_it_is() -> None:
    """The founder's retired key cannot remove the one that took its place."""
    add = TOWN.adds(B)
    held = TOWN.set(add, TOWN.removes(A, by=B, keeping=[add]), TOWN.removes(A, keeping=[]))
    held.merge([TOWN.removes(B, keeping=[]), TOWN.grants(NODE)])

    assert {2} == live(held)
    assert held.grant(NODE.id) is None


def test_the_last_admin_cannot_give_up() -> None:
    """Not even one that took the place of another which gave up before."""
    add = TOWN.adds(B)
    held = TOWN.set(add, TOWN.removes(A, by=B, keeping=[add]), TOWN.removes(A, keeping=[]), TOWN.removes(B, by=B))

    assert {2} == live(held)


def test_a_word_of_any_length_is_kept() -> None:
    """What does not fit into one vote goes into several, which together keep all."""
    said = [form.parse(TOWN.grants(NODE, by=B, at=NOW + i)) for i in range(KEPT_EACH + 1)]
    bodies = admins.remove_bodies(B.spki, said)
    held = TOWN.set(
        TOWN.adds(B), *(it.data for it in said), *(A.says("admin_remove", b, mesh=TOWN.mesh) for b in bodies)
    )

    assert 2 == len(bodies)
    assert {it.id[:KEPT_BYTES] for it in said} == set(held.office().kept[B.spki])
    assert held.grant(NODE.id) is not None


# --- orders and splits ---

PEOPLE = (A, B, C, D)
votes = st.tuples(st.booleans(), st.sampled_from(PEOPLE), st.sampled_from(PEOPLE), st.integers(-3, 3))


def statements(town: Town, drawn: list[tuple[bool, Person, Person, int]], keep: list[int]) -> list[bytes]:
    """What was voted, with grants by everybody, some of which the removals keep."""
    grants = [town.grants(NODE, by=by, at=NOW + by.seed) for by in PEOPLE]
    adds = [town.adds(whom, by=by, at=NOW + at) for add, by, whom, at in drawn if add]
    kept = [data for i, data in enumerate([*adds, *grants]) if i in keep]
    removes = [town.removes(whom, by=by, at=NOW + at, keeping=kept) for add, by, whom, at in drawn if not add]
    return [*adds, *removes, *grants]


def outcome(held: StatementSet) -> object:
    office = held.office()
    return (
        list(office.live),
        list(office.former),
        dict(office.kept),
        office.proposed,
        held.grant(NODE.id),
        held.root_hash,
    )


@given(
    st.sampled_from((TOWN, THREE)),
    st.lists(votes, max_size=9),
    st.lists(st.integers(0, 12), max_size=6),
    st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_two_halves_of_a_split_mesh_agree_afterwards(
    town: Town, drawn: list[tuple[bool, Person, Person, int]], keep: list[int], seed: int
) -> None:
    """Whoever voted for what on which side, in whichever order it is heard: one outcome, and never too few admins."""
    rng = random.Random(seed)
    said = statements(town, drawn, keep)
    left, right, late = town.set(), town.set(), town.set()
    for data in said:
        rng.choice((left, right)).merge([data])
    while left.root_hash != right.root_hash:  # what waited on one side for its standing comes with the second exchange
        told = [data for half in (left, right) for _, data in half.items()]
        for half in (left, right):
            half.merge(rng.sample(told, len(told)))
    for _ in range(2):
        late.merge(data for _, data in left.items())

    assert outcome(left) == outcome(right) == outcome(late)
    assert len(left.admins()) >= town.quorum


@given(st.lists(votes, max_size=8), st.lists(st.integers(0, 12), max_size=6), st.lists(votes, max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_key_that_the_founder_removed_is_out_for_good(
    before: list[tuple[bool, Person, Person, int]],
    keep: list[int],
    after: list[tuple[bool, Person, Person, int]],
) -> None:
    """Whatever others said before or say afterwards, and whoever adds it again, the oldest admin's removal holds."""
    mine = [it for it in before if it[1] is not A and it[2] is not A]
    held = TOWN.set(TOWN.adds(B), TOWN.removes(B, keeping=[]), *statements(TOWN, mine, keep))
    held.merge(statements(TOWN, [it for it in after if it[2] is not A], []))

    assert B.spki not in held.admins()
    assert A.spki in held.admins()
