"""The node that a person means."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import InvalidInput
from meshnode.tasks.finding import ID_PREFIX_MIN, find_member
from meshnode.wire.messages import NodeId
from tests.tasks.around import ANN, BOB, CAT, member

VIEW = (member(ANN), member(BOB), member(CAT))


def test_a_node_is_found_by_name_by_id_and_by_the_beginning_of_its_id() -> None:
    """All three mean the same node."""
    assert {BOB} == {find_member(VIEW, wanted).id for wanted in ("bob", BOB, BOB[:ID_PREFIX_MIN], BOB[:20])}


def test_a_name_goes_before_the_beginning_of_an_id() -> None:
    """A node called `aaaa` is found by its name, although another's id begins so."""
    view = (*VIEW[:1], replace(member(BOB), name="aaaa"))
    assert BOB == find_member(view, "aaaa").id


@pytest.mark.parametrize("wanted", ["", "a", "aaa", "an", "Ann", "dora", "a" * 53])
def test_nobody_is_meant_by_a_stranger_s_name(wanted: str) -> None:
    """No guess is made from a few letters; the hint says where the names are."""
    with pytest.raises(InvalidInput, match="no node") as caught:
        find_member(VIEW, wanted)
    assert "meshnode status" in caught.value.hint


def test_two_of_one_name_must_be_told_apart() -> None:
    """The error names the ids, and the ids then work."""
    view = (member(ANN), replace(member(BOB), name="ann"))
    with pytest.raises(InvalidInput, match="2 nodes are called 'ann'") as caught:
        find_member(view, "ann")
    for node in (ANN, BOB):
        assert node[:8] in caught.value.hint
        assert node == find_member(view, node[:8]).id


def test_a_beginning_that_two_ids_share_is_refused() -> None:
    """Never one of the two at random."""
    view = (member(ANN), replace(member(BOB), id=NodeId(ANN[:10] + BOB[:42])))
    with pytest.raises(InvalidInput, match="2 nodes"):
        find_member(view, ANN[:8])


@given(st.text(max_size=60))
def test_any_text_finds_one_or_is_refused(wanted: str) -> None:
    """Whatever is typed, the answer is a member that fits or a typed error."""
    try:
        found = find_member(VIEW, wanted)
    except InvalidInput:
        return
    assert wanted in (found.id, found.name) or found.id.startswith(wanted)
