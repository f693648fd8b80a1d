"""Too many handshakes at once: who has to go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshnode.porch import Porch, network_of


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


def test_a_machine_with_many_addresses_pushes_out_its_own() -> None:
    """Of IPv6 a machine has as many as it likes: its network has most, whatever each of them has."""
    porch = Porch[int](4)
    porch.enter(0, "10.0.0.1")
    porch.enter(1, "10.0.0.1")
    assert [None, None, 2, 3] == [porch.enter(n, f"2001:db8::{n}") for n in range(2, 6)]
    assert "10.0.0.1" == network_of("10.0.0.1")
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth0") != network_of("fe80:0:0:1::2")


def test_a_crowd_among_neighbours_pushes_out_its_own() -> None:
    """All of a LAN are one network of IPv6: within it the address with most goes, and its neighbours stay."""
    porch = Porch[int](4)
    assert [None, None] == [porch.enter(n, f"2001:db8::{n}") for n in range(2)]
    assert [None, None, 2, 3] == [porch.enter(n, "2001:db8::bad") for n in range(2, 6)]
    assert [4, None] == [porch.enter(6, "10.0.0.1"), porch.leave(0, "2001:db8::0")]
