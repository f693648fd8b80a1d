"""Submitters that ask for places and take none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshnode.tasks.habits import SEEN_MAX, SEEN_MIN, SUBMITTERS_MAX, Habits
from meshnode.wire.messages import NodeId

ANN, BOB = NodeId("a" * 52), NodeId("b" * 52)


def test_who_never_takes_a_place_is_kept_none() -> None:
    """After fifty questions for nothing; others are not concerned, and whoever takes places again is kept them."""
    habits = Habits()
    assert all(habits.asked(ANN) for _ in range(SEEN_MIN))
    assert not any(habits.asked(ANN) for _ in range(500))
    assert habits.asked(BOB)
    for _ in range(SEEN_MAX):
        habits.asked(ANN)
        habits.took(ANN)
    assert habits.asked(ANN)


@given(st.integers(1, 12))
def test_who_takes_one_place_in_twelve_is_always_kept_them(each: int) -> None:
    """Two rounds of six."""
    habits = Habits()
    for i in range(1000):
        assert habits.asked(ANN)
        if i % each == each - 1:
            habits.took(ANN)


def test_the_table_is_bounded() -> None:
    """Whoever asked longest ago is forgotten."""
    habits = Habits()
    for i in range(SUBMITTERS_MAX + 10):
        habits.asked(NodeId(f"{i:052d}"))
    assert SUBMITTERS_MAX == len(habits._counts)
    habits.took(NodeId("z" * 52))
    assert SUBMITTERS_MAX == len(habits._counts)
