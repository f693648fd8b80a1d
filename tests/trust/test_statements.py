"""The statement set: the same for everybody, whatever came first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.errors import PermissionDenied, ProtocolError
from meshnode.trust import form, policy, statements
from meshnode.trust.statements import StatementSet
from tests.trust.cast import NOW, Person, Town, empty

TOWN = Town()
ADMIN, B, C, SECOND, STRANGER = TOWN.admin, Person(2), Person(3), Person(4), Person(9)
MODEL = TOWN.publishes(B)
EVERYTHING = (
    TOWN.grants(B),
    TOWN.grants(C),
    MODEL,
    TOWN.publishes(C, "slow"),
    TOWN.takes_back(MODEL, by=B),
    TOWN.revokes(C, by=C, reason="left"),
    TOWN.revokes(B, at=NOW + 5),
    TOWN.adds(SECOND),
    TOWN.grants(Person(5), by=SECOND),
    TOWN.revokes(Person(6), by=SECOND),
    TOWN.removes(SECOND),
    TOWN.grants(B, at=NOW + 9, roles=("worker",)),
)
ROOT = TOWN.set(*EVERYTHING).root_hash


def told(batches: Sequence[Sequence[bytes]]) -> StatementSet:
    held = empty()
    held.merge([TOWN.genesis])
    for batch in batches:
        held.merge(batch)
    return held


def view(held: StatementSet) -> object:
    nodes = [p.id for p in (B, C, Person(5), Person(6))]
    return (
        held.root_hash,
        sorted(held.ids()),
        list(held.admins()),
        held.members(),
        [held.grant(node) for node in nodes],
        [held.revoked(node) for node in nodes],
        held.models(),
    )


@given(st.permutations(EVERYTHING))
@settings(max_examples=60, deadline=None)
def test_order_does_not_matter(order: list[bytes]) -> None:
    """However the statements arrive one by one, the set and all that follows from it are the same (commutative)."""
    assert view(told([EVERYTHING])) == view(told([[data] for data in order]))


@given(st.lists(st.sampled_from(EVERYTHING), max_size=20))
@settings(max_examples=40, deadline=None)
def test_hearing_it_again_changes_nothing(heard: list[bytes]) -> None:
    """A set is not changed by what it holds (idempotent)."""
    held = told([heard])
    before = view(held)

    assert [] == held.merge([data for _, data in held.items()])[0]
    assert before == view(held)


@given(st.lists(st.integers(0, 2), min_size=len(EVERYTHING), max_size=len(EVERYTHING)))
@settings(max_examples=40, deadline=None)
def test_who_merges_with_whom_first_does_not_matter(parts: list[int]) -> None:
    """Three nodes that each know a part agree whichever pair meets first (associative)."""
    a, b, c = ([data for data, part in zip(EVERYTHING, parts, strict=True) if part == i] for i in range(3))

    assert view(told([[*a, *b], c])) == view(told([a, [*b, *c]]))


def test_a_set_can_be_read_back_in_the_order_it_is_given() -> None:
    """`items` tells the genesis first and nothing before what gives it standing."""
    held = TOWN.set(*EVERYTHING)
    copy = empty()

    assert all(copy.add(data) is not None for data in [data for _, data in held.items()])
    assert held.root_hash == copy.root_hash == ROOT


def test_different_sets_have_different_roots() -> None:
    """One statement more or less shows in the root."""
    less = TOWN.set(*EVERYTHING[:-1])

    assert ROOT != less.root_hash


def test_revocation_wins_over_any_grant() -> None:
    """A revoked node stays out, also when it is granted again later."""
    held = TOWN.set(TOWN.revokes(B), TOWN.grants(B), TOWN.grants(B, at=NOW + 100))

    assert held.grant(B.id) is None
    revocation = held.revoked(B.id)
    assert revocation is not None
    assert ("lost", ADMIN.id, NOW) == (revocation.reason, revocation.by, revocation.at)
    assert [B.id] == [grant.node for grant in held.members()]


@pytest.mark.parametrize(("final", "late_s"), [(True, 0), (False, 30 * 86400)])
def test_a_grant_ends_when_it_says(final: bool, late_s: int) -> None:
    """Expiry is asked with a time and counts from that second; one that may be renewed is good for thirty days more."""
    body = form.grant_body(B.id, "b", ("worker",), (), NOW + 1000, final=final)
    held = TOWN.set(ADMIN.says("grant", body, mesh=TOWN.mesh))

    assert held.grant(B.id, NOW + 999 + late_s) is not None
    assert held.grant(B.id, NOW + 1000 + late_s) is None
    assert held.grant(B.id) is not None


def test_the_latest_grant_of_a_node_counts() -> None:
    """Roles can be narrowed by granting again."""
    held = TOWN.set(TOWN.grants(B, at=NOW + 1, roles=("worker",)), TOWN.grants(B, roles=("publisher",)))

    grant = held.grant(B.id)
    assert grant is not None
    assert frozenset({"worker"}) == grant.roles
    assert ("ward-3",) == grant.zones


def test_roles_that_nobody_knows_are_not_given() -> None:
    """A newer version's role is left out, and the rest of the grant holds."""
    grant = TOWN.set(TOWN.grants(B, roles=("worker", "emperor"))).grant(B.id)

    assert grant is not None
    assert frozenset({"worker"}) == grant.roles


def test_a_role_that_is_given_no_more_stands_in_grants_of_before() -> None:
    """They hold, with all of their roles, and a policy that names the role means them."""
    grant = TOWN.set(TOWN.grants(B, roles=("operator", "submitter"))).grant(B.id)

    assert grant is not None
    assert frozenset({"operator", "submitter"}) == grant.roles
    rules = policy.stricter(policy.read('submit.roles = ["operator"]'), policy.Policy())
    assert "" == rules.refuses_submitter(policy.Node(B.id, "b", grant.roles, ""))
    assert "" != rules.refuses_submitter(policy.Node(C.id, "c", frozenset(form.DEFAULT_ROLES), ""))


def test_a_stranger_has_nothing_to_say() -> None:
    """Statements signed by a key without standing are refused and change nothing."""
    held = TOWN.set(TOWN.grants(B))
    root = held.root_hash

    for data in (TOWN.publishes(STRANGER), TOWN.revokes(B, by=STRANGER), TOWN.grants(STRANGER, by=STRANGER)):
        with pytest.raises(PermissionDenied, match="may make no"):
            held.add(data)
    assert root == held.root_hash


def test_a_member_may_not_do_what_admins_do() -> None:
    """A member cannot admit, add admins, or throw out anybody but itself."""
    held = TOWN.set(TOWN.grants(B), TOWN.grants(C))

    for data in (TOWN.grants(STRANGER, by=B), TOWN.adds(B, by=B), TOWN.removes(ADMIN, by=B)):
        with pytest.raises(PermissionDenied):
            held.add(data)
    held.merge([TOWN.revokes(C, by=B)])
    assert held.revoked(C.id) is None
    assert held.grant(C.id) is not None


def test_a_node_may_leave() -> None:
    """A node's own revocation counts, and an admin's word on it is told instead when there is one."""
    held = TOWN.set(TOWN.grants(B), TOWN.revokes(B, by=B, reason="left"))
    left = held.revoked(B.id)
    assert left is not None
    assert ("left", B.id) == (left.reason, left.by)

    held.merge([TOWN.revokes(B, reason="stolen", at=NOW + 50)])
    thrown_out = held.revoked(B.id)
    assert thrown_out is not None
    assert ("stolen", ADMIN.id) == (thrown_out.reason, thrown_out.by)


def test_a_statement_waits_for_what_gives_it_standing() -> None:
    """A publisher's model that comes before its grant is held as soon as the grant is."""
    held = TOWN.set()
    model, grant = TOWN.publishes(B), TOWN.grants(B)

    with pytest.raises(PermissionDenied):
        held.add(model)
    assert [] == held.models()
    new, _ = held.merge([grant])
    assert [grant, model] == [statement.data for statement in new]
    assert [model] == [statement.data for statement in held.models()]


def test_a_model_needs_a_publisher() -> None:
    """Models of a member without the role are known but do not hold."""
    held = TOWN.set(TOWN.grants(B, roles=("worker",)), TOWN.publishes(B), TOWN.publishes(ADMIN, "by admin"))

    assert ["by admin"] == [statement.body["name"] for statement in held.models()]


def test_a_model_is_taken_back_by_its_publisher_or_an_admin() -> None:
    """Another publisher's revocation of it does nothing."""
    first, second = TOWN.publishes(B, "first"), TOWN.publishes(B, "second")
    members = (TOWN.grants(B), TOWN.grants(C))

    assert 2 == len(TOWN.set(*members, first, second, TOWN.takes_back(first, by=C)).models())
    for who in (B, ADMIN):
        held = TOWN.set(*members, first, second, TOWN.takes_back(first, by=who))
        assert ["second"] == [statement.body["name"] for statement in held.models()]


def test_models_of_a_node_that_an_admin_threw_out_do_not_hold() -> None:
    """A stolen machine's models go with it; those of a node that left by itself stay."""
    members = (TOWN.grants(B), TOWN.publishes(B))

    assert 0 == len(TOWN.set(*members, TOWN.revokes(B)).models())
    assert 1 == len(TOWN.set(*members, TOWN.revokes(B, by=B)).models())
    assert 0 == len(TOWN.set(*members, TOWN.revokes(B, by=B), TOWN.revokes(B)).models())


def test_another_meshs_statements_are_refused() -> None:
    """Neither its genesis nor what its admin says gets in, and nothing does before a genesis."""
    elsewhere = Town(Person(8))
    held = TOWN.set()

    for data in (elsewhere.genesis, elsewhere.grants(B)):
        with pytest.raises(PermissionDenied, match="of mesh"):
            held.add(data)
    with pytest.raises(PermissionDenied, match="genesis"):
        empty().add(TOWN.grants(B))
    with pytest.raises(PermissionDenied, match="of mesh"):
        StatementSet(lambda *_: True, lambda _: B.id, mesh_id=TOWN.mesh).add(elsewhere.genesis)


def test_a_set_that_knows_nothing_grants_nothing() -> None:
    """Without a genesis there is no member, no admin, and asking for the mesh is an error."""
    held = empty()

    assert (None, None, [], {}, []) == (
        held.grant(B.id),
        held.revoked(B.id),
        held.members(),
        held.admins(),
        held.models(),
    )
    with pytest.raises(PermissionDenied, match="no mesh"):
        _ = held.mesh_id
    with pytest.raises(PermissionDenied, match="genesis"):
        _ = StatementSet(lambda *_: True, lambda _: B.id, mesh_id=TOWN.mesh).mesh_name


def test_a_member_cannot_fill_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flooding member meets its limit, and the admin's revocation of it still fits a full set."""
    monkeypatch.setattr(statements, "MEMBER_STATEMENTS_MAX", 3)
    held = TOWN.set(TOWN.grants(B), TOWN.grants(C))
    for _ in range(3):
        held.add(TOWN.publishes(B))
    with pytest.raises(ProtocolError, match="3 statements, the limit"):
        held.add(TOWN.publishes(B))

    monkeypatch.setattr(statements, "STATEMENTS_MAX", len(held))
    with pytest.raises(ProtocolError, match="are held, the limit"):
        held.add(TOWN.publishes(C))
    held.add(TOWN.revokes(B))
    assert held.revoked(B.id) is not None


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers' statements push each other out, nothing else."""
    monkeypatch.setattr(statements, "WAITING_MAX", 2)
    held = TOWN.set()
    models = [TOWN.publishes(B, f"m{i}") for i in range(4)]
    held.merge(models)

    new, _ = held.merge([TOWN.grants(B)])
    assert ["m2", "m3"] == [statement.body["name"] for statement in new if statement.kind == "model"]
