"""What the wires do to frames is what they were told, and the same for the same seed."""

from __future__ import annotations

import itertools

import pytest

from tests.rig.wires import ANY, Kind, Wires, kind_of

UDP4 = bytes.fromhex("01005e0000fb") + bytes(6) + b"\x08\x00" + b"\x45" + bytes(8) + b"\x11" + bytes(40)
SYN4 = bytes(6) + bytes(6) + b"\x08\x00" + b"\x45" + bytes(8) + b"\x06" + bytes(10) + bytes(13) + b"\x02" + bytes(20)
ARP = b"\xff" * 6 + bytes(6) + b"\x08\x06" + bytes(28)


def test_frames_are_told_apart() -> None:
    """UDP, multicast, and the first packet of a connection; ARP is none of them."""
    assert Kind(udp=True, multicast=True) == kind_of(UDP4)
    assert Kind(syn=True) == kind_of(SYN4)
    assert Kind() == kind_of(ARP) == kind_of(b"short")


def test_loss_is_what_was_asked_for_and_the_same_for_a_seed() -> None:
    """A third of ten thousand, within chance; twice the same frames."""
    runs = []
    for _ in range(2):
        wires = Wires(7)
        wires.set(ANY, ANY, loss=0.3)
        runs.append([bool(wires.carry(0.0, 0, 1, ARP)) for _ in range(10_000)])
    assert runs[0] == runs[1]
    assert 6_800 < sum(runs[0]) < 7_200


def test_a_cut_is_one_way_and_the_more_exact_policy_counts() -> None:
    """From a to b nothing, from b to a everything; and a pair is excepted from the rule for all."""
    wires = Wires(1)
    wires.set(0, 1, cut=True)
    assert [] == wires.carry(0.0, 0, 1, ARP)
    assert [0.0] == wires.carry(0.0, 1, 0, ARP)
    wires.set(ANY, ANY, delay=0.5)
    assert [0.5] == wires.carry(0.0, 1, 0, ARP)
    assert [] == wires.carry(0.0, 0, 1, ARP)
    wires.heal()
    assert [0.0] == wires.carry(0.0, 0, 1, ARP)


def test_kinds_can_be_stopped_alone() -> None:
    """No UDP, no multicast, no new connections: each stops its own and nothing else."""
    for policy, stopped in (("no_udp", UDP4), ("no_multicast", UDP4), ("no_dial", SYN4)):
        wires = Wires(1)
        wires.set(0, 1, **{policy: True})
        assert [] == wires.carry(0.0, 0, 1, stopped)
        assert [0.0] == wires.carry(0.0, 0, 1, ARP)


def test_rate_delay_and_size() -> None:
    """A slow wire takes one frame after the other; a large frame vanishes."""
    wires = Wires(1)
    wires.set(0, 1, rate=8_000.0, delay=0.1, mtu=500)
    frame = bytes(100)
    assert [pytest.approx(0.1), pytest.approx(0.2)] == [wires.carry(0.0, 0, 1, frame)[0] for _ in range(2)]
    assert [] == wires.carry(0.0, 0, 1, bytes(600))


def test_what_is_no_policy_is_refused() -> None:
    """By name, with what there is."""
    with pytest.raises(ValueError, match="no 'los'"):
        Wires(1).set(0, 1, los=0.1)


def test_jitter_keeps_the_order_and_reorder_does_not() -> None:
    """A wire whose delay varies lets nothing overtake, unless it is told to."""
    wires = Wires(3)
    wires.set(0, 1, delay=0.3, jitter=0.1)
    times = [wires.carry(n * 0.001, 0, 1, ARP)[0] for n in range(1000)]
    assert times == sorted(times)
    wires.set(0, 1, reorder=0.1)
    times = [wires.carry(2 + n * 0.001, 0, 1, ARP)[0] for n in range(1000)]
    assert 50 < sum(later < earlier for earlier, later in itertools.pairwise(times))


def test_connections_that_are_begun_are_counted() -> None:
    """Also those that get nowhere."""
    wires = Wires(1)
    wires.set(0, 1, cut=True)
    for frame in (SYN4, UDP4, ARP):
        wires.carry(0.0, 0, 1, frame)
    assert 1 == wires.dials
