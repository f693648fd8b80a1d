"""What a relay carries and refuses, and the order at the ends: cores, told the time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import KIB, MIB, Links
from meshnode.errors import ProtocolError, Refused
from meshnode.links.ledger import CHUNK_BYTES, WINDOW, Ledger, Step
from meshnode.links.turns import Turns
from meshnode.wire.messages import NodeId

A, B, C, D = (NodeId(letter * 52) for letter in "abcd")
LIMITS = replace(Links(), relay_circuits_max=3, relay_circuits_peer=2, relay_bytes_s=1.0 * MIB)


def ledger(limits: Links = LIMITS) -> Ledger:
    it = Ledger(limits, 0.0)
    it.open(0.0, "1", A, B)
    return it


def test_what_one_end_sends_goes_to_the_other() -> None:
    """Both directions, and nobody else has a say."""
    it = ledger()

    assert Step(B, 0.0) == it.carry(0.0, "1", A, 100)
    assert Step(A, 0.0) == it.carry(0.0, "1", B, 100)
    with pytest.raises(Refused, match="no such circuit"):
        it.carry(0.0, "1", C, 100)
    assert (A, B) == it.close("1")
    assert () == it.close("1")
    with pytest.raises(Refused, match="no such circuit"):
        it.carry(0.0, "1", A, 100)


def test_circuits_are_counted_in_all_and_for_each_node() -> None:
    """A refusal says which limit was reached; a circuit that ended makes room."""
    it = ledger()
    it.open(0.0, "2", C, B)
    with pytest.raises(Refused, match=f"2 circuits of node {B[:8]}"):
        it.open(0.0, "3", D, B)
    with pytest.raises(Refused, match="of that name"):
        it.open(0.0, "1", C, D)
    it.open(0.0, "3", C, D)
    with pytest.raises(Refused, match="3 circuits are open here"):
        it.open(0.0, "4", A, D)
    it.close("2")
    it.open(0.0, "4", A, D)
    assert 3 == len(it)


def test_a_window_bounds_what_is_held() -> None:
    """A fifth chunk without an answer is against the protocol, and so is one of no or too many bytes."""
    it = ledger()
    for _ in range(WINDOW):
        it.carry(0.0, "1", A, 10)
    with pytest.raises(ProtocolError, match="unanswered"):
        it.carry(0.0, "1", A, 10)
    it.carried("1", A)
    it.carry(0.0, "1", A, 10)
    for nbytes in (0, CHUNK_BYTES + 1):
        with pytest.raises(ProtocolError, match="1 to"):
            it.carry(0.0, "1", B, nbytes)


def test_a_circuit_has_a_rate_and_so_have_all_together() -> None:
    """A second's worth passes at once; then each chunk waits until it fits the rate, its own or the total."""
    it = ledger()
    for _ in range(32):
        assert 0.0 == it.carry(0.0, "1", A, 32 * KIB).wait_s
        it.carried("1", A)
    assert pytest.approx(1 / 32) == it.carry(0.0, "1", A, 32 * KIB).wait_s
    assert pytest.approx(2 / 32) == it.carry(0.0, "1", B, 32 * KIB).wait_s

    total = ledger(replace(LIMITS, relay_bytes_s=0.0, relay_total_bytes_s=32.0 * KIB))
    total.open(0.0, "2", C, D)
    assert 0.0 == total.carry(0.0, "1", A, 32 * KIB).wait_s
    assert pytest.approx(1.0) == total.carry(0.0, "2", C, 32 * KIB).wait_s


def test_a_circuit_has_a_life() -> None:
    """After so many bytes it is refused, and says so."""
    it = ledger(replace(LIMITS, relay_circuit_bytes=100))
    it.carry(0.0, "1", A, 60)
    with pytest.raises(Refused, match="open a new one"):
        it.carry(0.0, "1", B, 60)


@given(
    st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, CHUNK_BYTES)), min_size=1, max_size=200),
    st.sampled_from([64.0 * KIB, 1.0 * MIB]),
)
def test_the_rate_holds_for_any_arrivals(arrivals: list[tuple[float, int]], rate: float) -> None:
    """Whenever chunks come, never more than a second's worth and the rate since the start has been let through."""
    it = ledger(replace(LIMITS, relay_bytes_s=rate, relay_total_bytes_s=0.0))
    now, passed = 0.0, 0
    for pause_s, nbytes in arrivals:
        now += pause_s
        step = it.carry(now, "1", A, nbytes)
        it.carried("1", A)
        passed += nbytes
        assert passed <= rate * (1.0 + now + step.wait_s) + 1e-3


@given(st.data(), st.integers(0, 60))
def test_chunks_are_taken_in_order_whatever_order_they_come_in(data: st.DataObject, n: int) -> None:
    """Within the window any order of arrival is taken as 0, 1, 2 …, each once."""
    turns, taken, sent, there = Turns(), [], 0, []
    while len(taken) < n:
        while sent < n and sent < len(taken) + WINDOW:
            there.append(sent)
            sent += 1
        seq = there.pop(data.draw(st.integers(0, len(there) - 1)))
        if turns.claim(seq):
            following: int | None = seq
            while following is not None:
                taken.append(following)
                following = turns.done()
    assert list(range(n)) == taken


def test_a_chunk_comes_once_and_not_too_early() -> None:
    """What was taken, is here already, or is beyond the window is against the protocol."""
    turns = Turns()
    assert turns.claim(0)
    assert not turns.claim(1)
    for seq in (0, 1, WINDOW):
        with pytest.raises(ProtocolError, match=f"chunk {seq}"):
            turns.claim(seq)
    assert 1 == turns.done()
    assert turns.done() is None
    with pytest.raises(ProtocolError, match="chunk 0"):
        turns.claim(0)
