"""From facts to findings: each fault of a network has its name and its fix, and what is well has none."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from meshnode.edge import judging, peerjudging
from meshnode.edge.facts import Clock, Disk, Hearing, Here, PeerFacts
from meshnode.wire.looks import Try

HERE = Here(port=7433, subnets=((ip_network("10.0.0.0/24"), "wlan0"), (ip_network("fe80::/64"), "wlan0")))
GOOD = Try("10.0.0.2", 7433, "answered", 0.001, True)
BOB = PeerFacts(
    id="b" * 52,
    name="bob",
    found_by="mdns",
    addresses=(("10.0.0.2", 7433),),
    path="direct",
    rtt_s=0.001,
    tries=(GOOD,),
    back=(Try("10.0.0.1", 7433, "answered", 0.001, True),),
    datagram_s=0.001,
    datagram_there=True,
    offset_s=0.1,
    wall=1.75e9,
    hears_us=True,
    heard_here=True,
    next_hop="wlan0",
)
LOST = Try("10.0.0.2", 7433, "timeout", 4.0)
AWAY = replace(BOB, path="none", rtt_s=None, link_error="no answer", tries=(LOST,), back=None, datagram_s=None)
NOW = Clock(now=1.75e9, newest_grant=1.7e9)
EARS = Hearing(on=True, used=("wlan0",), heard=3, own_heard=2, found=1)


def rows(peer: PeerFacts, here: Here = HERE) -> dict[str, dict[str, Any]]:
    """The findings about a peer, by check; every fault has a fix and nothing that is well has one."""
    found = [*peerjudging.judge(here, peer), peerjudging.summary(here, peer)]
    for row in found:
        assert (row["ok"] is not False) or row["fix"], row
        assert (row["ok"] is not True) or not row["fix"], row
    return {row["check"]: row for row in found}


def faults(peer: PeerFacts, here: Here = HERE) -> set[str]:
    return {check for check, row in rows(peer, here).items() if row["ok"] is False}


def test_a_good_peer_has_no_fault() -> None:
    """Every step says yes."""
    assert set() == faults(BOB)
    assert {True} == {row["ok"] for row in rows(BOB).values()}


@pytest.mark.parametrize(
    ("outcome", "detail", "fix"),
    [
        ("refused", "port 7433 is closed: bob is there and refuses", "`meshnode up` on bob"),
        ("timeout", "a firewall drops it", "sudo ufw allow 7433"),
        ("rejected", "rejected by a firewall", "firewall-cmd --add-port=7433/tcp --add-port=7433/udp"),
        ("unreachable", "nobody answers for 10.0.0.2", "is bob switched on and on this network"),
        ("mute", "connects, and no TLS comes", "restart its agent"),
        ("strange", "cannot be tried: strange", "meshnode logs"),
    ],
)
def test_each_way_in_which_an_address_fails(outcome: str, detail: str, fix: str) -> None:
    """Also an outcome of a later version has its row."""
    row = rows(replace(AWAY, tries=(replace_try(LOST, outcome),)))["tcp 10.0.0.2"]
    assert (False, True, True) == (row["ok"], detail in row["detail"], fix in row["fix"]), row


def replace_try(it: Try, outcome: str) -> Try:
    return Try(it.host, it.port, outcome, it.seconds)


def test_one_address_that_fails_beside_one_that_works_is_no_fault() -> None:
    """It is told, for it may explain a slow start."""
    row = rows(replace(BOB, tries=(LOST, Try("10.9.0.2", 7433, "answered", 0.01, True))))["tcp 10.0.0.2"]
    assert None is row["ok"]


def test_a_peer_of_another_family() -> None:
    """IPv6 only there and IPv4 only here: no firewall is blamed."""
    no_way = Try("fd00::2", 7433, "no_route")
    six = replace(AWAY, addresses=(("fd00::2", 7433),), tries=(no_way,))
    row = rows(six)["found"]
    assert "it has IPv6 only (fd00::2 port 7433), and this machine has IPv4 only" in row["detail"]
    assert "give this machine an IPv6 address, or bob an IPv4 one" in row["fix"]
    assert {"found", "link", "peer bob"} == faults(six)
    assert "IPv6 only" in rows(six)["peer bob"]["detail"]


def test_a_machine_that_cannot_be_reached_for_its_family() -> None:
    """IPv6 only, and the default of listening on 0.0.0.0: the option that takes both is named."""
    row = judging.address(replace(HERE, families=frozenset({6})), "0.0.0.0", [])
    assert (False, "start it with --listen '[::]:7433', which takes both") == (row["ok"], row["fix"])
    assert True is judging.address(HERE, "0.0.0.0", ["10.0.0.1"])["ok"]
    assert None is judging.address(replace(HERE, wildcard=False), "127.0.0.1", ["127.0.0.1"])["ok"]


def test_datagrams_that_do_not_pass() -> None:
    """Which direction is blocked follows from what the peer heard; without TCP nothing is said of UDP."""
    row = rows(replace(BOB, datagram_s=None, datagram_there=False))["udp"]
    assert "TCP passes, UDP does not: ours do not arrive at bob" == row["detail"]
    assert "sudo ufw allow 7433/udp" in row["fix"]
    assert "its answers do not come back" in rows(replace(BOB, datagram_s=None))["udp"]["detail"]
    assert False is rows(replace(BOB, datagram_s=None, datagram_there=None))["udp"]["ok"]
    assert None is rows(replace(BOB, datagram_s=None, keyed=False))["udp"]["ok"]
    assert None is rows(AWAY)["udp"]["ok"]


@pytest.mark.parametrize(
    ("it", "mtu"),
    [
        (Try("10.0.0.2", 7433, "answered", 0.0, False, 1240), 1280),
        (Try("fd00::2", 7433, "answered", 0.0, False, 1220), 1280),
        (Try("10.0.0.2", 7433, "answered", 0.0, False, 0), 1280),
    ],
)
def test_a_black_hole_of_the_mtu(it: Try, mtu: int) -> None:
    """The size that passes stands in the fix, of whichever side has to send less."""
    row = rows(replace(BOB, tries=(it,)))["mtu"]
    assert "MTU black hole: small packets from this machine" in row["detail"]
    assert f"sudo ip link set dev wlan0 mtu {mtu}" in row["fix"]
    row = rows(replace(BOB, back=(it,)))["mtu"]
    assert "on bob: `sudo ip link set dev IFACE" in row["fix"]


def test_a_black_hole_that_swallows_the_answer() -> None:
    """Even the first greeting stalls: it is the side that answers whose packets vanish, and no firewall is blamed."""
    stalled = Try("10.0.0.2", 7433, "stalled", 2.0, mss=1240)
    assert "small packets from bob to this machine pass" in rows(replace(BOB, tries=(stalled,)))["mtu"]["detail"]
    row = rows(replace(BOB, back=(stalled,)))["mtu"]
    assert "small packets from this machine to bob pass" in row["detail"]
    assert "dev wlan0 mtu 1280" in row["fix"]
    assert {"mtu", "peer bob"} == faults(replace(BOB, back=(stalled,)))
    assert True is judging.inbound(HERE, [replace(BOB, back=(stalled,))])[0]["ok"]


def test_a_peer_that_cannot_dial_back() -> None:
    """It is this machine's firewall, and no fault when the peer could not be asked."""
    row = rows(replace(BOB, back=(Try("10.0.0.1", 7433, "timeout"),)))["back"]
    assert "in this machine's firewall, let TCP and UDP port 7433 in" in row["fix"]
    assert "--listen 0.0.0.0:7433" in rows(replace(BOB, back=()))["back"]["fix"]
    assert None is rows(replace(BOB, back=None, back_error="it is old"))["back"]["ok"]
    assert "back" not in rows(replace(BOB, back=None))


def test_nobody_can_dial_this_machine() -> None:
    """All that tried failed; one that succeeded proves that the port is open."""
    shut = replace(BOB, back=(Try("10.0.0.1", 7433, "timeout"),))
    (row,) = judging.inbound(HERE, [shut, replace(shut, name="carol")])
    assert (False, True) == (row["ok"], "bob, carol tried (10.0.0.1: timeout)" in row["detail"])
    assert True is judging.inbound(HERE, [shut, BOB])[0]["ok"]
    assert [] == judging.inbound(HERE, [AWAY])


def test_clients_that_are_isolated() -> None:
    """Neighbours that live for others, and to which nothing passes; one that says no, or is elsewhere, is not."""
    relayed = replace(AWAY, path="relay via carol", link_error="")
    (row,) = judging.isolation(HERE, [relayed])
    assert "client isolation, or a firewall at both ends (for now: relay via carol)" in row["detail"]
    (row,) = judging.isolation(HERE, [relayed, replace(relayed, name="dave"), BOB])
    assert "bob, dave" in row["detail"]
    assert "between them and this machine: client isolation (for now" in row["detail"]
    assert "switch off client isolation" in row["fix"]
    assert "relay via carol" in rows(relayed)["link"]["detail"]
    assert [] == judging.isolation(replace(HERE, company=False), [AWAY]), "nobody says that it is alive"
    assert (None, "what `isolation` says") == (rows(relayed)["peer bob"]["ok"], rows(relayed)["peer bob"]["fix"])
    assert False is rows(AWAY)["peer bob"]["ok"]
    six = Try("fd00::2", 7433, "no_route")
    assert [] != judging.isolation(HERE, [replace(relayed, tries=(LOST, six))]), "nothing was sent to the other address"
    for other in (
        replace(relayed, tries=(replace_try(LOST, "refused"),)),
        replace(relayed, addresses=(("192.168.7.2", 7433),)),
        replace(relayed, datagram_s=0.001),
        replace(relayed, back=BOB.back),
        replace(AWAY, state="dead"),
        BOB,
    ):
        assert [] == judging.isolation(HERE, [other]), other


def test_a_machine_that_is_cut_off() -> None:
    """Several that all vanish, and nobody who answers: it is this machine; one alone may be the other's fault."""
    alone = replace(HERE, company=False)
    (row,) = judging.network(False, alone, [AWAY, replace(AWAY, name="carol")])
    assert "nothing comes back from any of 2 peers" == row["detail"]
    assert "`ip addr`" in row["fix"]
    assert "nobody in the mesh is heard" in judging.network(True, HERE, [])[0]["detail"]
    assert [] == judging.network(False, alone, [AWAY])
    assert [] == judging.network(False, alone, [AWAY, BOB])
    assert [] == judging.network(False, HERE, [AWAY, AWAY])


def test_clocks() -> None:
    """The majority is right; of two nobody knows; a grant from tomorrow needs no peer."""
    late = replace(BOB, offset_s=-3600.0, wall=1.75e9 - 3600)
    assert True is judging.clock(NOW, [])["ok"]
    assert True is judging.clock(NOW, [BOB])["ok"]
    row = judging.clock(NOW, [late])
    assert "2025-06-15 15:06:40 UTC here, 2025-06-15 14:06:40 UTC at bob: one of the two is wrong" == row["detail"]
    assert "timedatectl set-ntp true" in row["fix"]
    assert "set the clock of this machine" in judging.clock(NOW, [late, replace(late, name="carol")])["fix"]
    assert "set the clock of bob" in judging.clock(NOW, [late, BOB, BOB])["fix"]
    assert "behind the mesh's" in judging.clock(Clock(1.75e9, 1.75e9 + 90_000), [])["fix"]
    assert False is judging.clock(NOW, [replace(BOB, offset_s=9e11, wall=9e11)])["ok"]
    row = rows(late)["clock"]
    assert (False, True) == (row["ok"], "3600.0 s behind this one's" in row["detail"])


def test_multicast() -> None:
    """Each direction is told apart, and whose it is; nothing is concluded from those who are elsewhere."""

    def judged(*peers: PeerFacts, ears: Hearing = EARS) -> dict[str, Any]:
        row = judging.multicast(ears, HERE, peers)
        assert row["ok"] is not True or not row["fix"]
        return row

    mute, deaf = replace(BOB, hears_us=False), replace(BOB, heard_here=False)
    assert True is judged(BOB)["ok"]
    assert "what this machine sends does not arrive at bob, whose own arrives here" in judged(mute)["detail"]
    assert "UDP port 5353 out here" in judged(mute)["fix"]
    assert "nothing that bob sends arrives here, though ours arrives there" in judged(deaf)["detail"]
    assert "UDP port 5353 in here" in judged(deaf)["fix"]
    assert "passes neither way" in judged(replace(BOB, hears_us=False, heard_here=False))["detail"]
    assert "it passes, but not to bob" in judged(mute, replace(BOB, name="carol"))["detail"]
    assert "from bob" in judged(deaf, replace(BOB, name="carol"))["detail"]
    away = replace(BOB, addresses=(("192.168.7.2", 7433),), hears_us=False, heard_here=False)
    assert True is judged(away)["ok"]
    assert "another network" in rows(away)["multicast"]["detail"]
    assert "5353" in judged(ears=replace(EARS, own_heard=0))["fix"]
    assert (None, "") == (judged(ears=Hearing(on=False))["ok"], judged(ears=Hearing(on=False))["fix"])
    assert "--seed" in judged(ears=replace(EARS, error="no socket"))["fix"]
    assert "--seed" in judged(ears=Hearing(on=True, skipped=(("docker0", "inside"),)))["fix"]
    assert "out here" in rows(mute)["multicast"]["fix"]
    assert "out at bob" in rows(deaf)["multicast"]["fix"]
    assert "multicast" not in rows(replace(BOB, hears_us=None, heard_here=None))


def test_disks() -> None:
    """Little room is a fault, and so is a file that cannot be written, whatever the reason."""
    room = Disk("/home/ann", 10**12, 10**9)
    assert True is judging.disk(room)["ok"]
    assert "make room" in judging.disk(replace(room, free=10**9))["fix"]
    for number, fix in ((errno.ENOSPC, "df -i"), (errno.EROFS, "fsck"), (errno.EDQUOT, "quota"), (99, "can write")):
        row = judging.disk(replace(room, errno=number, error="no"))
        assert (False, True) == (row["ok"], fix in row["fix"])


def test_peers_that_are_not_there() -> None:
    """One that left is no fault; one without addresses, one that is refused, and one that only has no link are."""
    left = replace(AWAY, state="left", reason="it left: stop", tries=(), addresses=())
    assert (None, "it left: stop") == (rows(left)["peer bob"]["ok"], rows(left)["peer bob"]["detail"])
    assert set() == faults(left)
    nowhere = replace(AWAY, tries=(), addresses=())
    assert "--listen 0.0.0.0:7433" in rows(nowhere)["found"]["fix"]
    barred = replace(
        AWAY, tries=(GOOD,), datagram_s=0.1, link_error="its certificate is old", link_hint="set the clock"
    )
    assert ("its certificate is old", "set the clock") == (
        rows(barred)["peer bob"]["detail"].removeprefix("no link: "),
        rows(barred)["peer bob"]["fix"],
    )
    assert "a direct way works by now" in rows(replace(BOB, path="relay via carol"))["link"]["detail"]


def test_neighbours_by_link_local_addresses() -> None:
    """The interface is in the address; without one it says nothing. What is no address is nobody's neighbour."""
    assert "wlan1" == HERE.device([("fe80::1%wlan1", 7433)])
    assert "" == HERE.device([("fe80::1", 7433), ("a name", 7433)])
    assert "wlan0" == HERE.device([("192.168.9.9", 7433), ("10.0.0.9", 7433)])
