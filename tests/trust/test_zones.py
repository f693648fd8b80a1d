"""Zones are paths: what is bound to one stays below it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.trust.zones import in_zone

parts = st.lists(st.text("abc-é", min_size=1, max_size=3), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("zone", "wanted", "may"),
    [
        ("eu", "eu", True),
        ("eu/berlin/store-12", "eu", True),
        ("eu/berlin/store-12", "eu/berlin", True),
        ("eu", "eu/berlin", False),
        ("europe", "eu", False),
        ("eu-west", "eu", False),
        ("eu/berlin-2", "eu/berlin", False),
        ("us/eu", "eu", False),
        ("", "eu", False),
        ("EU", "eu", False),
    ],
)
def test_a_zone_contains_itself_and_what_lies_below(zone: str, wanted: str, may: bool) -> None:
    """Only whole path parts count: `europe` is not in `eu`, and a node without a zone is in none."""
    assert may == in_zone(zone, wanted)


@given(parts, parts)
def test_containment_is_that_of_paths(zone: list[str], wanted: list[str]) -> None:
    """A node may run what is bound to a zone exactly when that zone is the beginning of its own."""
    assert (zone[: len(wanted)] == wanted) == in_zone("/".join(zone), "/".join(wanted))


@given(parts, st.lists(st.text("abc", min_size=1, max_size=3), max_size=3))
def test_who_is_below_is_in_all_above(top: list[str], below: list[str]) -> None:
    """Whatever holds for a zone holds for every zone that contains it."""
    zone = "/".join(top + below)
    assert all(in_zone(zone, "/".join(top[: count + 1])) for count in range(len(top)))
