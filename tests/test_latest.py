"""A mapping that forgets."""

from __future__ import annotations

from meshnode.latest import Latest


def test_what_was_set_longest_ago_goes_when_there_is_no_room() -> None:
    """Setting a key again makes it the newest; reading does not."""
    held: Latest[str, int] = Latest(2)
    held["a"], held["b"] = 1, 2
    held["a"] = 3
    assert 3 == held["a"]
    held["c"] = 4
    assert [("a", 3), ("c", 4)] == list(held.items())
