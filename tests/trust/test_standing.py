"""Who is admin: added by admins, removed by admins, never nobody."""

from __future__ import annotations

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
