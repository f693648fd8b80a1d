"""The peers of the last time: order, bounds, and bytes that are none."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.membership.remembered import Remembered, packed_peers
from meshnode.wire.messages import NodeId

PLACES = st.tuples(st.sampled_from(["10.0.0.1", "fe80::1%eth0"]), st.integers(1, 65535))
ROWS = st.lists(
    st.tuples(
        st.text(st.characters(codec="ascii", categories=("Ll",)), min_size=1, max_size=8).map(NodeId),
        st.lists(PLACES, min_size=1, max_size=8),
        st.integers(0, 2**40),
    ),
    max_size=30,
    unique_by=lambda row: row[0],
)


@given(ROWS)
def test_what_was_written_is_read(rows: list[tuple[NodeId, list[tuple[str, int]], int]]) -> None:
    """Bytes and back give the same rows in the same order, those seen last first."""
    before = Remembered(256)
    for node, addresses, seen in rows:
        before.note(node, addresses, seen)
    after = Remembered(256)
    after.unpack(before.pack())
    assert before.rows() == after.rows()
    ages = {node: seen for node, _, seen in rows}
    assert sorted(ages.values(), reverse=True) == [ages[node] for node, _ in after.rows()]


@given(st.binary(max_size=200))
def test_bytes_that_are_none_are_refused(data: bytes) -> None:
    """Whatever the file holds, it is rows or a ValueError."""
    remembered = Remembered(256)
    try:
        remembered.unpack(data)
    except ValueError:
        assert () == remembered.rows()


@pytest.mark.parametrize(
    "value", [None, 7, "x", [1], [["n", [["h", 0]], 1]], [["n", [["h", 70000]], 1]], [["", [], 0]]]
)
def test_values_that_are_no_rows_are_refused(value: object) -> None:
    """Right bytes, wrong shape."""
    with pytest.raises(ValueError, match=r"."):
        Remembered(256).unpack(msgpack.packb(value))


def test_a_row_of_the_version_before_is_read() -> None:
    """Rows had no time once."""
    remembered = Remembered(256)
    remembered.unpack(msgpack.packb([["n", [["10.0.0.1", 7433]]]]))
    assert (("n", (("10.0.0.1", 7433),)),) == remembered.rows()


def test_only_so_many_are_kept() -> None:
    """The limit holds, and those seen longest ago go first."""
    remembered = Remembered(3)
    for i in range(10):
        remembered.note(NodeId(f"n{i}"), [("h", 1)], i)
    assert ["n9", "n8", "n7"] == [node for node, _ in remembered.rows()]


def test_an_old_sighting_makes_nobody_younger() -> None:
    """A dead node's row in the view keeps the time at which it was last seen alive, and its place."""
    remembered = Remembered(2)
    for node, seen in (("a", 10), ("b", 20), ("a", 0)):
        remembered.note(NodeId(node), [("h", 1)], seen)
    assert ["b", "a"] == [node for node, _ in remembered.rows()]


def test_an_inviters_list_keeps_its_order() -> None:
    """The first peer of the list is the first to be tried."""
    remembered = Remembered(256)
    remembered.unpack(packed_peers([(NodeId("x"), [("h", 1)]), (NodeId("y"), [("h", 2)])]))
    assert ["x", "y"] == [node for node, _ in remembered.rows()]
