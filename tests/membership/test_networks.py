"""Agents on real networks: interfaces that come and go, one-way multicast, IPv6 only, other subnets."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.membership import nets
from tests.membership.nets import Living, Net, ip, wait_for

FOUND_S = 12.0


@pytest.fixture
def net() -> Iterator[Net]:
    """A switch with nobody on it."""
    if nets.needed():
        pytest.skip(nets.needed())
    it = Net()
    try:
        yield it
    finally:
        for agent in it.agents:
            print(f"--- {agent.home.name} ---\n{agent.log()[-4000:]}")
        it.stop()


def linked(one: Living, other: Living) -> bool:
    """Both hold each other alive and linked, and one TCP connection stands that is the same at both ends."""
    rows = (one.peer(other.home.name), other.peer(one.home.name))
    if any(("direct", "alive") != (row.get("path"), row.get("state")) for row in rows):
        return False
    theirs = other.connections()
    return any((there, here) in theirs for here, there in one.connections())


def test_neighbours_meet_and_follow_each_others_addresses(net: Net, tmp_path: Path) -> None:
    """Two nodes that know nothing of each other meet by multicast beside a docker bridge; an address that changes is
    followed, and so is an interface that went and came back."""
    home_a, home_b = asyncio.run(nets.members(tmp_path, "a", "b"))
    a, b = net.machine("a"), net.machine("b")
    net.cable(a, "10.9.0.1/24")
    net.cable(b, "10.9.0.2/24")
    ip(f"-n {b} link add name docker0 type bridge")
    ip(f"-n {b} addr add 172.17.0.1/16 dev docker0")
    ip(f"-n {b} link set docker0 up")
    ip(f"-n {b} link add name veth99 type veth peer name eth7")
    ip(f"-n {b} link set veth99 up master docker0")
    one, other = net.start(a, home_a), net.start(b, home_b)
    one.ready(), other.ready()
    wait_for(lambda: linked(one, other), within_s=FOUND_S, why="they meet")
    assert "10.9.0.2:7433" == one.peer("b")["address"]

    def multicast() -> str:
        return str(next(row for row in other.ask("doctor") if row["check"] == "multicast")["detail"])

    assert "on eth0" in multicast()
    assert "docker0 (it is a network inside this machine" in multicast()
    wait_for(
        lambda: re.search(r"heard [1-9]\d* responses", multicast()), within_s=FOUND_S, why="b counts what it hears"
    )

    ip(f"-n {b} addr del 10.9.0.2/24 dev eth0")
    ip(f"-n {b} addr add 10.9.0.77/24 dev eth0")

    def moved(host: str) -> bool:
        return linked(one, other) and other.connected_from(host)

    wait_for(lambda: moved("10.9.0.77"), within_s=FOUND_S, why="they are linked over the new address")

    net.unplug(b)
    net.cable(b, "10.9.0.78/24")
    wait_for(lambda: moved("10.9.0.78"), within_s=FOUND_S, why="they are linked over the interface that was made anew")
    assert "10.9.0.78" in next(row for row in other.ask("doctor") if row["check"] == "address")["detail"]


def test_one_way_multicast_is_enough(net: Net, tmp_path: Path) -> None:
    """No multicast reaches b, whose own reaches a: a hears b's announcement and dials, and the pair is linked."""
    home_a, home_b = asyncio.run(nets.members(tmp_path, "a", "b"))
    a, b = net.machine("a"), net.machine("b")
    net.cable(a, "10.9.0.1/24")
    net.cable(b, "10.9.0.2/24")
    ip(f"-n {net.switch} link set {net.port(b)} type bridge_slave mcast_flood off")
    one, other = net.start(a, home_a), net.start(b, home_b)
    one.ready(), other.ready()
    wait_for(lambda: linked(one, other), within_s=FOUND_S, why="they meet")


def test_a_link_with_nothing_but_link_local_addresses(net: Net, tmp_path: Path) -> None:
    """IPv6 only, no router, no address but fe80::: they meet, and both links and datagrams name the interface."""
    home_a, home_b = asyncio.run(nets.members(tmp_path, "a", "b"))
    a, b = net.machine("a"), net.machine("b")
    net.cable(a)
    net.cable(b)
    one, other = net.start(a, home_a, listen="[::]:7433"), net.start(b, home_b, listen="[::]:7433")
    with nets.sniffer(net.switch, net.port(a)) as frames:
        one.ready(), other.ready()
        wait_for(lambda: linked(one, other), within_s=FOUND_S, why="they meet")
        assert re.fullmatch(r"\[fe80::[0-9a-f:]+%eth0\]:7433", one.peer("b")["address"])

        senders: set[bytes] = set()

        def datagrams_both_ways() -> bool:
            try:
                while True:
                    frame = frames.recv(2048)
                    udp = frame[12:14] == b"\x86\xdd" and frame[20] == 17
                    if udp and frame[56:58] == (7433).to_bytes(2, "big"):
                        senders.add(frame[6:12])
            except BlockingIOError:
                return len(senders) == 2

        wait_for(datagrams_both_ways, within_s=FOUND_S, why="datagrams go both ways")


def test_other_subnets_are_joined_by_seed_and_by_token(net: Net, tmp_path: Path) -> None:
    """Behind a router no multicast passes. A seed's name that also has a dead address, and the address in a token,
    lead across; and a node that starts again without either finds its mesh by what it remembers."""
    home_a, home_b = asyncio.run(nets.members(tmp_path, "a", "b"))
    a, b, c = net.machine("a"), net.machine("b"), net.machine("c")
    for machine, subnet in ((a, 1), (b, 2), (c, 2)):
        lan = f"lan{subnet}"
        if machine != c:
            ip(f"-n {net.switch} link add name {lan} type bridge mcast_snooping 0")
            ip(f"-n {net.switch} addr add 10.{subnet}.0.254/24 dev {lan}")
            ip(f"-n {net.switch} link set {lan} up")
        net.cable(machine, f"10.{subnet}.0.{5 if machine != c else 6}/24", lan=lan)
        ip(f"-n {machine} route add default via 10.{subnet}.0.254")
    ip(f"netns exec {net.switch} sysctl -qw net.ipv4.ip_forward=1")
    names = Path(f"/etc/netns/{b}")
    names.mkdir(parents=True)
    (names / "hosts").write_text("10.1.0.99 mesh.example\n10.1.0.5 mesh.example\n127.0.0.1 localhost\n")
    one, other = net.start(a, home_a), net.start(b, home_b, "--seed", "mesh.example")
    one.ready(), other.ready()
    wait_for(lambda: linked(one, other), within_s=FOUND_S, why="the seed's second address answers")
    assert {"seed", "inbound"} == {one.peer("b")["found_by"], other.peer("a")["found_by"]}

    wait_for((home_b / "peers").exists, within_s=FOUND_S, why="b remembers a")
    token = one.ask("invite")["token"]
    other.stop()
    again = net.start(b, home_b)
    again.ready()
    wait_for(lambda: linked(again, one), within_s=FOUND_S, why="the remembered peer is found")
    assert again.peer("a")["found_by"] in ("remembered", "inbound")
    third = net.start(c, tmp_path / "c", token)
    third.ready()
    wait_for(lambda: linked(one, third), within_s=FOUND_S, why="the token's address leads across")
    shutil.rmtree(names)
