"""Discovery on real sockets: loss, liars, interfaces that flap, seeds, and the file of remembered peers."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import zeroconf._core
import zeroconf._utils.net
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from meshnode.config import Discovery as Ways
from meshnode.config import Membership
from meshnode.links.address import Address, Datagrams, plain, scoped
from meshnode.membership import candidates, discovery, reading
from meshnode.membership.candidates import Gone, Heard
from meshnode.membership.discovery import Discovery
from meshnode.membership.multicast import SERVICE, Multicast, mesh_tag, today, usable
from meshnode.membership.remembered import packed_peers
from meshnode.membership.view import FoundBy
from meshnode.trust.files import read_checked, write_checked
from meshnode.wire.messages import NodeId
from tests.membership import nets
from tests.membership.nets import Net, ip

MESH = "ab" * 32
WITHIN_S = 20.0


class Looking:
    """A Discovery whose dials are answered by whoever is in `there`."""

    def __init__(self, home: Path, port: int = 7433, there: tuple[int, ...] = (), **ways: Any) -> None:
        self.tried: list[tuple[Address, FoundBy]] = []
        self.there = there
        self.linked = False
        home.mkdir(exist_ok=True)
        self.port = port
        self.it = Discovery(
            home,
            MESH,
            Ways(**{"poll_s": 0.05, **ways}),
            Membership(),
            random.Random(port),
            attempt=self.attempt,
            alone=lambda: not self.linked,
        )

    async def attempt(self, address: Address, peer: NodeId | None, found_by: FoundBy) -> bool:
        self.tried.append((address, found_by))
        self.linked = self.linked or address[1] in self.there
        return address[1] in self.there

    async def start(self, host: str = "0.0.0.0") -> None:
        self.it.survey((host, self.port))
        await self.it.start()


async def wait_for(what: Callable[[], object], why: str) -> None:
    end = time.monotonic() + WITHIN_S
    while not what():
        assert time.monotonic() < end, f"not within {WITHIN_S} s: {why}"
        await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """zeroconf announces three times in half a second; tests have less patience."""
    monkeypatch.setattr(zeroconf._core, "_REGISTER_TIME", 60)
    monkeypatch.setattr(discovery, "REOPEN_S", 0.3)


@pytest.fixture
def machine() -> Iterator[str]:
    """A namespace with one interface on a switch."""
    if nets.needed():
        pytest.skip(nets.needed())
    net = Net()
    try:
        name = net.machine("a")
        net.cable(name, "10.9.0.1/24")
        yield name
    finally:
        net.stop()


def in_machine(name: str, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a story whose sockets belong to the namespace."""
    with nets.inside(name):
        asyncio.run(story())


def lossy(share: float) -> Callable[..., socket.socket | None]:
    """zeroconf's maker of sockets, with a kernel filter that drops that share of what comes."""
    make = zeroconf._utils.net.new_socket
    keep = struct.pack("HBBI", 0x06, 0, 0, 0xFFFF)
    program = (
        struct.pack("HBBI", 0x20, 0, 0, 0xFFFFF000 + 56)  # a random number
        + struct.pack("HBBI", 0x35, 1, 0, int(share * 2**32))
        + struct.pack("HBBI", 0x06, 0, 0, 0)
        + keep
    )
    code = ctypes.create_string_buffer(program)

    def new_socket(*args: Any, **kwargs: Any) -> socket.socket | None:
        made = make(*args, **kwargs)
        if made is not None:
            made.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 4, ctypes.addressof(code)))
        return made

    return new_socket


def test_neighbours_hear_each_other_through_loss(machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all multicast packets 30 % are lost on their way in: both find the other within seconds."""
    monkeypatch.setattr(zeroconf._utils.net, "new_socket", lossy(0.3))

    async def story() -> None:
        one, other = Looking(tmp_path / "a", 7001), Looking(tmp_path / "b", 7002)
        await one.start()
        await other.start()
        await wait_for(lambda: (("10.9.0.1", 7002), "mdns") in one.tried, "one hears the other")
        await wait_for(lambda: (("10.9.0.1", 7001), "mdns") in other.tried, "the other hears the one")
        await one.it.stop()
        await other.it.stop()

    in_machine(machine, story)


def test_an_interface_that_flaps_leaves_nothing_behind(machine: str, tmp_path: Path) -> None:
    """Twenty times down and up: multicast works afterwards, and no socket and no task is left over."""

    async def story() -> None:
        one = Looking(tmp_path / "a", 7001)
        await one.start()
        await wait_for(lambda: one.it.own_packets_heard, "it announces itself")
        files, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
        for _ in range(20):
            ip("link set eth0 down")
            await wait_for(lambda: not one.it.interfaces_used, "down is seen")
            ip("link set eth0 up")
            await wait_for(lambda: one.it.interfaces_used, "up is seen")
        before = one.it.own_packets_heard
        await wait_for(lambda: one.it.own_packets_heard > before, "it announces itself again")
        await wait_for(lambda: len(os.listdir("/proc/self/fd")) <= files, "all sockets of the past are closed")
        assert tasks >= len(asyncio.all_tasks())
        assert "" == one.it.multicast_error
        await one.it.stop()
        assert 1 == len(asyncio.all_tasks())

    in_machine(machine, story)


def test_two_hundred_liars_cost_little(machine: str, tmp_path: Path) -> None:
    """Two hundred made-up services with a tag of this mesh: a handful of dials, and the seed is tried all the same."""

    async def story() -> None:
        one = Looking(tmp_path / "a", 7001, seeds=("10.9.0.5",))
        await one.start()
        liar = AsyncZeroconf(interfaces=["10.9.0.1"])
        await liar.zeroconf.async_wait_for_start()
        await wait_for(lambda: one.it.own_packets_heard, "it listens")
        for i in range(200):
            info = AsyncServiceInfo(
                SERVICE,
                f"{i:016x}.{SERVICE}",
                port=7433,
                properties={"v": "1", "t": mesh_tag(MESH, today())},
                parsed_addresses=[f"10.66.0.{i}", "127.0.0.1", "224.0.0.1"],
                server=f"{i:016x}.local.",
            )
            liar.zeroconf.async_send(liar.zeroconf.generate_service_broadcast(info, None))
            await asyncio.sleep(0.001)
        await wait_for(lambda: one.it.packets_heard >= 150, "they are heard")
        await wait_for(lambda: (("10.9.0.5", 7433), "seed") in one.tried, "the seed is tried")
        lies = [address for address, found_by in one.tried if found_by == "mdns"]
        assert 0 < len(lies) <= candidates.HEARD_BURST + 2
        assert all(host.startswith("10.66.") for host, _ in lies), "never the loopback, never a group"
        await liar.async_close()
        await one.it.stop()

    in_machine(machine, story)


def test_who_claims_every_name_keeps_nobody_quiet(machine: str, tmp_path: Path) -> None:
    """Somebody says of every name that it is theirs: a node announces itself all the same, and is found."""

    async def story() -> None:
        liar = AsyncZeroconf(interfaces=["10.9.0.1"])
        await liar.zeroconf.async_wait_for_start()
        receive = liar.zeroconf.engine.protocols[0]
        group = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        group.bind(("224.0.0.251", 5353))
        group.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + socket.inet_aton("10.9.0.1")
        )
        group.setblocking(False)
        assert receive is not None

        lied = set[bytes]()

        def answer() -> None:
            data = group.recv(9000)
            for label in set(re.findall(rb"\x10([0-9a-f]{16})", data)) - lied:
                lied.add(label)
                name = f"{label.decode()}.{SERVICE}"
                info = AsyncServiceInfo(SERVICE, name, port=9, server="x.local.", parsed_addresses=["10.9.0.1"])
                liar.zeroconf.async_send(liar.zeroconf.generate_service_broadcast(info, None))

        loop = asyncio.get_running_loop()
        loop.add_reader(group, answer)
        one, other = Looking(tmp_path / "a", 7001), Looking(tmp_path / "b", 7002, there=(7001,))
        await other.start()
        await one.start()
        await wait_for(lambda: one.it.own_packets_heard, "it announces itself")
        await wait_for(lambda: (("10.9.0.1", 7001), "mdns") in other.tried, "it is found")
        assert "" == one.it.multicast_error
        loop.remove_reader(group)
        group.close()
        await liar.async_close()
        await one.it.stop()
        await other.it.stop()

    in_machine(machine, story)


def test_waking_announces_anew(machine: str, tmp_path: Path) -> None:
    """After a sleep the node announces itself under a new label and asks, although no address changed."""

    async def story() -> None:
        one, other = Looking(tmp_path / "a", 7001), Looking(tmp_path / "b", 7002, there=(7001,))
        await other.start()
        await one.start()
        await wait_for(lambda: one.it.own_packets_heard, "it announces itself")
        before, heard = one.it.own_packets_heard, other.it.packets_heard
        one.it.woke()
        await wait_for(lambda: one.it.own_packets_heard > before, "it announces itself again")
        await wait_for(lambda: other.it.packets_heard > heard, "and is heard")
        await one.it.stop()
        await other.it.stop()

    in_machine(machine, story)


def test_an_announcement_is_taken_back_and_made_again(machine: str) -> None:
    """What a node does in a crowd: its goodbye is heard, it answers no question, and it returns under its label."""

    async def story() -> None:
        heard: list[Heard | Gone] = []
        network = reading.now("0.0.0.0")
        speaker = Multicast(MESH, network, 7001, heard=lambda event: None)
        listener = Multicast(MESH, network, 7002, heard=heard.append)
        await listener.open()
        await speaker.open()
        here = Heard(speaker.label, (("10.9.0.1", 7001),))
        await wait_for(lambda: here in heard, "it is heard")
        speaker.withdraw()
        await wait_for(lambda: Gone(speaker.label) in heard, "its goodbye is heard")
        heard.clear()
        listener.ask()
        await speaker.announce_anew(speaker.label)
        assert here.label == speaker.label
        # The same bytes within a second are taken for one packet that came twice: say it until it is heard.
        await wait_for(lambda: speaker.announce() or here in heard, "it is heard again")
        await speaker.close()
        third = Multicast(MESH, network, 7003, heard=lambda event: None)
        await third.open()
        await wait_for(lambda: Heard(third.label, (("10.9.0.1", 7003),)) in heard, "another one is heard")
        await third.close()
        await wait_for(lambda: Gone(third.label) in heard, "it says goodbye when it ends")
        await listener.close()

    in_machine(machine, story)


async def test_a_node_without_a_network_only_waits(tmp_path: Path) -> None:
    """An agent that listens on the loopback has nobody to ask: no socket, no error, and the reason is told."""
    one = Looking(tmp_path / "a", 7001)
    await one.start("127.0.0.1")
    await asyncio.sleep(0)
    assert ("", ()) == (one.it.multicast_error, one.it.interfaces_used)
    assert "lo" in dict(one.it.interfaces_skipped)
    assert ("127.0.0.1",) == one.it.addresses
    await one.it.stop()


async def test_all_addresses_of_a_name_are_tried(tmp_path: Path) -> None:
    """A seed's name may have several addresses, of both kinds; those after the first have their turn."""
    one = Looking(
        tmp_path / "a", seeds=("localhost:7500", "[::1]:7501", "127.0.0.7", "no-such-name.invalid"), mdns=False
    )
    await one.start("127.0.0.1")
    expected = {("127.0.0.1", 7500), ("::1", 7501), ("127.0.0.7", 7433)}
    await wait_for(lambda: expected <= {address for address, _ in one.tried}, "every seed is tried")
    await one.it.stop()


async def test_the_first_answer_ends_the_tries(tmp_path: Path) -> None:
    """Addresses are tried a little after each other; who answers spares the rest, and an address that hangs does
    not hold up the next."""
    asked: list[Address] = []

    async def attempt(address: Address, peer: NodeId | None, found_by: FoundBy) -> bool:
        asked.append(address)
        if address[1] == 1:
            await asyncio.Event().wait()
        return address[1] == 2

    it = Discovery(
        tmp_path, MESH, Ways(mdns=False), Membership(), random.Random(1), attempt=attempt, alone=lambda: True
    )
    it.survey(("127.0.0.1", 7433))
    it.introduce([(NodeId("n"), (("h", 1), ("h", 2), ("h", 3)))])
    await it.start()
    await wait_for(lambda: ("h", 2) in asked, "the second address is tried")
    await asyncio.sleep(0)
    assert [("h", 1), ("h", 2)] == asked
    await it.stop()


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"", lambda data: b"\x00" * 200])
async def test_a_damaged_file_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    """Peers that cannot be read are forgotten with a word, and the start goes on."""
    write_checked(tmp_path / "peers", packed_peers([(NodeId("n"), [("10.0.0.1", 7433)])]))
    (tmp_path / "peers").write_bytes(damage((tmp_path / "peers").read_bytes()))
    with caplog.at_level(logging.WARNING):
        one = Looking(tmp_path, mdns=False)
        await one.start("127.0.0.1")
        await one.it.stop()
    assert 1 == len(caplog.records)


async def test_rows_that_are_none_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same for a file whose checksum holds and whose content does not."""
    write_checked(tmp_path / "peers", b"\xc1")
    with caplog.at_level(logging.WARNING):
        one = Looking(tmp_path, mdns=False)
        await one.start("127.0.0.1")
        await one.it.stop()
    assert ["the remembered peers are ignored"] == [r.message.partition(":")[0] for r in caplog.records]


async def test_whom_the_inviter_named_is_written_down_at_once(tmp_path: Path) -> None:
    """A newcomer that loses its power before it saw anybody finds its mesh again without a token."""
    one = Looking(tmp_path, mdns=False)
    await one.start("127.0.0.1")
    one.it.introduce([(NodeId("inviter"), (("10.0.0.1", 7433),))])
    await wait_for((tmp_path / "peers").exists, "it is written")
    assert b"inviter" in (tmp_path / "peers").read_bytes()
    await one.it.stop()


async def test_the_file_is_not_written_at_every_change(tmp_path: Path) -> None:
    """The first change is written, those of the next minute at the end; nothing is lost."""
    one = Looking(tmp_path, mdns=False)
    await one.start("127.0.0.1")
    one.it.forget(NodeId("nobody"))
    await wait_for((tmp_path / "peers").exists, "the first change is written")
    first = (tmp_path / "peers").stat().st_mtime_ns
    for i in range(50):
        one.it.introduce([(NodeId(f"n{i}"), (("10.0.0.1", 7000 + i),))])
        one.it.forget(NodeId("nobody"))
    await asyncio.sleep(0.05)
    assert first == (tmp_path / "peers").stat().st_mtime_ns
    await one.it.stop()
    written = read_checked(tmp_path / "peers")
    assert written is not None
    assert b"n49" in written


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["10.0.0.1"], ["10.0.0.1"]),
        (["fe80::1%1", "10.0.0.1"], ["10.0.0.1", "fe80::1%lo"]),
        (["fe80::1"], []),
        (["127.0.0.1", "::1", "0.0.0.0", "224.0.0.5", "ff02::1"], []),
        (["nonsense", "fd00::1"], ["fd00::1"]),
        ([f"10.0.0.{i}" for i in range(20)], [f"10.0.0.{i}" for i in range(8)]),
    ],
)
def test_which_announced_addresses_are_dialled(hosts: list[str], expected: list[str]) -> None:
    """Link-local ones need the interface on which they were heard and come last; eight at most."""
    assert expected == [host for host, _ in usable(hosts, 7433)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (("10.0.0.1", 5), ("10.0.0.1", 5)),
        (("::ffff:10.0.0.1", 5, 0, 0), ("10.0.0.1", 5)),
        (("fd00::1", 5, 0, 0), ("fd00::1", 5)),
        (("fe80::1", 5, 0, 1), ("fe80::1%lo", 5)),
        (("fe80::1%lo", 5, 0, 1), ("fe80::1%lo", 5)),
        (("fe80::1", 5, 0, 99999), ("fe80::1%99999", 5)),
    ],
)
def test_addresses_are_written_in_one_way(name: tuple[Any, ...], expected: Address) -> None:
    """What sockets say becomes the form that is dialled, compared and shown."""
    assert expected == plain(name)


def test_a_datagram_goes_out_of_the_interface_that_is_named(machine: str) -> None:
    """With a second interface, a link-local address is reached through the one that its name says."""
    switch = machine.removesuffix("a") + "switch"
    ip(f"link add name eth1 netns {machine} type veth peer name far netns {switch}")
    ip(f"-n {machine} addr add fe80::1/64 dev eth1 nodad")
    ip(f"-n {switch} addr add fe80::99/64 dev far nodad")
    ip(f"-n {machine} link set eth1 up")
    ip(f"-n {switch} link set far up")
    with nets.inside(switch):
        there = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        there.bind(("::", 0))
        there.settimeout(5)
    with there, nets.inside(machine), Datagrams(socket.AF_INET6, socket.SOCK_DGRAM) as here:
        address = (scoped("fe80::99", socket.if_nametoindex("eth1")), there.getsockname()[1])
        assert "fe80::99%eth1" == address[0]
        here.sendto(b"x", address)
        data, sender = there.recvfrom(10)
        assert (b"x", "fe80::1") == (data, sender[0])
