"""Who is admin: added by admins, removed by admins, never nobody. Which models do harm, and who says so."""

from __future__ import annotations

import pytest

from meshnode.errors import PermissionDenied
from meshnode.trust.statements import Flag
from tests.trust.cast import NOW, Person, Town

TOWN = Town()
A, B, C = TOWN.admin, Person(4), Person(5)


def test_an_admin_adds_another_who_adds_another() -> None:
    """A chain of admins holds also when their clocks disagree about who came first."""
    held = TOWN.set(TOWN.adds(B, at=NOW + 100), TOWN.adds(C, by=B, at=NOW - 100))

    assert {A.spki, B.spki, C.spki} == set(held.admins())
    assert C.root == held.admins()[C.spki]


def test_an_admin_is_replaced_by_the_one_it_added() -> None:
    """Rotation: the old key adds the new one, which removes the old; what only the old granted no longer holds."""
    held = TOWN.set(TOWN.grants(Person(7)), TOWN.adds(B), TOWN.removes(A, by=B), TOWN.grants(Person(8), by=B))

    assert [B.spki] == list(held.admins())
    assert held.grant(Person(7).id) is None
    assert held.grant(Person(8).id) is not None


def test_two_admins_that_remove_each_other_leave_the_older() -> None:
    """Whoever's removal carries the earlier time, there is always an admin, and all agree which."""
    for first in (A, B):
        times = {A.seed: NOW + 1, B.seed: NOW + 1, first.seed: NOW}
        held = TOWN.set(
            TOWN.adds(B, at=NOW - 1), TOWN.removes(B, by=A, at=times[A.seed]), TOWN.removes(A, by=B, at=times[B.seed])
        )
        assert [A.spki] == list(held.admins())


def test_the_last_admin_cannot_be_removed() -> None:
    """A mesh that nobody could ever change again is not made by a slip."""
    assert [A.spki] == list(TOWN.set(TOWN.removes(A)).admins())


DIGEST = "89abcdef" * 8


def reported(*statements: bytes) -> Flag | None:
    return TOWN.set(TOWN.grants(B), TOWN.grants(C), *statements).flag(DIGEST)


def test_two_workers_flag_a_model_and_one_does_not() -> None:
    """One may be broken, or lie; it is told and keeps nobody else from running the model."""
    first, second = TOWN.reports(B, DIGEST), TOWN.reports(C, DIGEST)
    one, both = reported(first), reported(second, first)

    assert one is not None
    assert both is not None
    assert ((B.id,), False) == (one.reporters, one.holds)
    assert ({B.id, C.id}, True) == (set(both.reporters), both.holds)
    assert reported() is None
    assert TOWN.set(TOWN.grants(B), first).flag("0" * 64) is None


def test_a_node_that_reports_twice_counts_once() -> None:
    """Whatever it says, it is one node."""
    flag = reported(*(TOWN.reports(B, DIGEST, reason=str(i)) for i in range(5)))

    assert flag is not None
    assert (B.id,) == flag.reporters
    assert not flag.holds


def test_only_workers_that_are_in_count() -> None:
    """Not one that was thrown out or left, not a member that never runs anything."""
    reports = TOWN.reports(B, DIGEST), TOWN.reports(C, DIGEST)
    for out in (TOWN.revokes(C), TOWN.revokes(C, by=C), TOWN.grants(C, roles=("submitter",), at=NOW + 1)):
        flag = reported(*reports, out)
        assert flag is not None
        assert (B.id,) == flag.reporters
        assert not flag.holds


def test_an_admin_flags_alone_and_clears_by_taking_back() -> None:
    """Its word holds at once; a report that is taken back, by an admin or its node, does not count any more."""
    own, first, second = TOWN.reports(A, DIGEST), TOWN.reports(B, DIGEST), TOWN.reports(C, DIGEST)
    by_admin = reported(own)
    assert by_admin is not None
    assert by_admin.holds
    assert reported(own, TOWN.takes_back(own)) is None
    assert reported(first, second, TOWN.takes_back(first), TOWN.takes_back(second)) is None
    left = reported(first, second, TOWN.takes_back(first, by=B))
    assert left is not None
    assert (C.id,) == left.reporters
    meddled = reported(first, second, TOWN.takes_back(first, by=C))
    assert meddled is not None
    assert meddled.holds


def test_strangers_report_nothing() -> None:
    """A report needs the standing of a member, as a model does."""
    held = TOWN.set(TOWN.grants(B))
    with pytest.raises(PermissionDenied):
        held.add(TOWN.reports(C, DIGEST))
    assert held.flag(DIGEST) is None
