"""The patch between two documents."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshnode.edge.dashboard.patching import difference, pruned

KEYS = st.sampled_from(["a", "b", "c", "nodes", ""])
VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(0, 3), st.floats(0, 2), st.text(max_size=2)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=5)


def applied(target: Any, patch: Any) -> Any:
    """RFC 7396, written as its section 2 has it."""
    if not isinstance(patch, dict):
        return patch
    whole = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            whole.pop(key, None)
        else:
            whole[key] = applied(whole.get(key), value)
    return whole


@given(DOCUMENTS, DOCUMENTS)
def test_a_patch_makes_one_of_the_other(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Whatever the two are; and there is none between equal ones."""
    assert now == applied(before, difference(before, now))
    assert {} == difference(now, now)


def test_only_what_changed_is_sent() -> None:
    """Of one row, one field; what is gone is null; lists go whole."""
    before = {"nodes": {"ann": {"load": 0.1, "name": "ann"}, "bob": {"load": 0.5}}, "list": [1, 2]}
    now = {"nodes": {"ann": {"load": 0.2, "name": "ann"}}, "list": [1, 3]}
    assert {"nodes": {"ann": {"load": 0.2}, "bob": None}, "list": [1, 3]} == difference(before, now)


def test_true_is_not_one() -> None:
    """In Python they are equal, in JSON they are not."""
    assert {"a": True} == difference({"a": 1}, {"a": True})


def test_what_is_not_known_is_not_there() -> None:
    """Null has a meaning of its own in a patch."""
    assert {"a": {"c": [{}]}} == pruned({"a": {"b": None, "c": [{"d": None}]}, "e": None})
