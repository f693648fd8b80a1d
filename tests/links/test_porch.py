"""Too many handshakes at once: who has to go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshnode.links.porch import Porch


def test_there_is_room_for_so_many() -> None:
    """Nobody goes before it is full; who left makes room."""
    porch = Porch[int](2)
    assert [None, None] == [porch.enter(1, "a"), porch.enter(2, "a")]
    porch.leave(1, "a")
    assert None is porch.enter(3, "b")
    assert 2 == len(porch)


def test_the_oldest_of_the_one_with_most_goes() -> None:
    """A crowd from one address pushes out its own, and never the one that came from elsewhere before all of them."""
    porch = Porch[int](3)
    porch.enter(0, "member")
    assert [None, None, 1, 2, 3] == [porch.enter(n, "crowd") for n in range(1, 6)]
    assert 4 == porch.enter(6, "other")


def test_who_goes_may_be_the_one_that_came() -> None:
    """With room for none nobody stays, and nothing is kept of anybody."""
    porch = Porch[int](0)
    assert 1 == porch.enter(1, "a")
    porch.leave(1, "a")
    assert 0 == len(porch)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.sampled_from("abc"))))
def test_it_never_holds_more_than_its_room(steps: list[tuple[bool, int, str]]) -> None:
    """Whoever comes and goes in any order, twice too: the count is that of those who are there."""
    porch, there = Porch[tuple[int, str]](4), set[tuple[int, str]]()
    for comes, number, source in steps:
        guest = (number, source)
        if not comes:
            porch.leave(guest, source)
            there.discard(guest)
        elif guest not in there:
            there.add(guest)
            there.discard(porch.enter(guest, source))  # type: ignore[arg-type]
        assert len(there) == len(porch) <= 4
