"""Which interfaces and addresses count, and when a change is one: tables and simulated readings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.membership import reading
from meshnode.membership.interfaces import Interface, Network, Watcher, network

INSIDE = "it is a network inside this machine (containers or virtual machines)"
A_TUNNEL = "it is a tunnel; name it in discovery.interfaces to use it"
LAN = Interface("eth0", 2, addresses=("192.168.1.5", "fd00::5", "fe80::5%eth0"))
WIFI = Interface("wlan0", 3, addresses=("192.168.1.9", "fe80::9%wlan0"))
LO = Interface("lo", 1, loopback=True, multicast=False, addresses=("127.0.0.1", "::1"))
DOCKER = Interface("docker0", 4, addresses=("172.17.0.1",))
BRIDGE = Interface("br-0123456789ab", 5, addresses=("172.18.0.1",))
VETH = Interface("veth12ab34", 6, addresses=("fe80::77%veth12ab34",))
VIRT = Interface("virbr0", 7, addresses=("192.168.122.1",))
TUNNEL = Interface("wg0", 8, tunnel=True, multicast=False, addresses=("10.99.0.2",))
TUNNEL_MC = Interface("tailscale0", 9, addresses=("100.64.0.3",))


@pytest.mark.parametrize(
    ("interface", "reason"),
    [
        (LAN, None),
        (WIFI, None),
        (Interface("br0", 3, addresses=("192.168.1.7",)), None),
        (Interface("enp3s0.10", 3, addresses=("192.168.1.7",)), None),
        (LO, "it is the loopback"),
        (DOCKER, INSIDE),
        (BRIDGE, INSIDE),
        (VETH, INSIDE),
        (VIRT, INSIDE),
        (Interface("vmnet8", 3, addresses=("1.2.3.4",)), INSIDE),
        (Interface("cni0", 3, addresses=("1.2.3.4",)), INSIDE),
        (TUNNEL, A_TUNNEL),
        (TUNNEL_MC, A_TUNNEL),
        (Interface("eth1", 3, up=False, addresses=("1.2.3.4",)), "it is down"),
        (Interface("eth1", 3, multicast=False, addresses=("1.2.3.4",)), "it cannot multicast"),
        (Interface("eth1", 3), "it has no address that the agent listens on"),
    ],
    ids=lambda value: value.name if isinstance(value, Interface) else "",
)
def test_multicast_uses_networks_that_lead_somewhere(interface: Interface, reason: str | None) -> None:
    """Real interfaces are used, the others are left out with the reason that the doctor shows."""
    seen = network((interface,), host="::")
    if reason is None:
        assert (interface,) == seen.used
    else:
        assert ((interface.name, reason),) == seen.skipped


def test_the_owner_may_name_the_interfaces() -> None:
    """With `discovery.interfaces` exactly those are used, tunnels and container networks too, and told."""
    seen = network((LO, LAN, WIFI, DOCKER, TUNNEL_MC), host="0.0.0.0", wanted=("tailscale*", "docker0"))
    assert ["docker0", "tailscale0"] == [it.name for it in seen.used]
    assert {"172.17.0.1", "100.64.0.3"} == set(seen.reach)
    assert ("eth0", "it is not in discovery.interfaces") in seen.skipped


@pytest.mark.parametrize(
    ("host", "interfaces", "reach", "announced"),
    [
        ("0.0.0.0", (LO, LAN, DOCKER), ("192.168.1.5",), ("192.168.1.5",)),
        ("::", (LO, LAN, DOCKER), ("192.168.1.5", "fd00::5"), ("192.168.1.5", "fd00::5", "fe80::5%eth0")),
        ("192.168.1.9", (LO, LAN, WIFI), ("192.168.1.9",), ("192.168.1.9",)),
        ("127.0.0.1", (LO, LAN), ("127.0.0.1",), ()),
        ("127.0.0.9", (LO, LAN), ("127.0.0.9",), ()),
        ("0.0.0.0", (LO,), ("127.0.0.1",), ()),
        ("0.0.0.0", (LO, DOCKER), ("127.0.0.1", "172.17.0.1"), ()),
        ("0.0.0.0", (LAN, TUNNEL), ("192.168.1.5", "10.99.0.2"), ("192.168.1.5",)),
        ("0.0.0.0", (Interface("eth0", 2, addresses=("169.254.7.7",)),), ("169.254.7.7",), ("169.254.7.7",)),
        ("::", (LO, Interface("eth0", 2, addresses=("fe80::5%eth0",))), (), ("fe80::5%eth0",)),
        ("0.0.0.0", (), (), ()),
    ],
)
def test_what_others_are_told(
    host: str, interfaces: tuple[Interface, ...], reach: tuple[str, ...], announced: tuple[str, ...]
) -> None:
    """Adverts carry what means the same to everybody; IPv6 link-local addresses only go to neighbours, by multicast."""
    seen = network(interfaces, host=host)
    assert (reach, announced) == (seen.reach, seen.announced)


def test_containers_that_come_and_go_are_no_change() -> None:
    """Docker starts and stops: what counts stays the same."""
    before = network((LO, LAN), host="::")
    assert before.same(network((LO, LAN, DOCKER, BRIDGE, VETH), host="::"))


@pytest.mark.parametrize(
    "after",
    [
        (Interface("eth0", 2, addresses=("192.168.1.6", "fd00::5", "fe80::5%eth0")),),
        (Interface("eth0", 2, up=False, addresses=LAN.addresses),),
        (Interface("eth0", 11, addresses=LAN.addresses),),
        (LAN, WIFI),
        (),
    ],
    ids=["another address", "down", "made anew with the same address", "one more", "none"],
)
def test_what_is_a_change(after: tuple[Interface, ...]) -> None:
    """An address, the state, a new interface; also one made anew, for its multicast membership is lost."""
    assert not network((LAN,), host="::").same(network(after, host="::"))


def seen(*interfaces: Interface) -> Network:
    return network(interfaces, host="::")


def test_a_change_is_believed_when_it_is_confirmed() -> None:
    """Two readings in a row, the second a second after the first."""
    watcher = Watcher(0.0, seen(LAN))
    assert 5.0 == watcher.next_deadline()
    assert [] == watcher.handle(5.0, seen(WIFI))
    assert 6.0 == watcher.next_deadline()
    change = watcher.handle(6.0, seen(WIFI))
    assert [("eth0", "wlan0")] == [(c.before.used[0].name, c.now.used[0].name) for c in change]
    assert 11.0 == watcher.next_deadline()


def test_a_blink_is_none() -> None:
    """An address that is back at the next reading was never away."""
    watcher = Watcher(0.0, seen(LAN))
    assert [] == watcher.handle(5.0, seen())
    assert [] == watcher.handle(6.0, seen(LAN))
    assert [] == watcher.handle(11.0, seen(LAN))


def test_a_network_that_never_settles_is_taken_as_it_is() -> None:
    """Another address at every reading: after half a minute the latest one counts."""
    watcher = Watcher(0.0, seen(LAN))
    now, changes = 5.0, []
    for i in range(60):
        changes += watcher.handle(now, seen(Interface("eth0", 2, addresses=(f"10.0.0.{i}",))))
        now = watcher.next_deadline()
    assert 1 <= len(changes) <= 3


@given(st.lists(st.sampled_from([(LAN,), (WIFI,), (LAN, WIFI), (), (LAN, DOCKER)]), max_size=50))
def test_the_watcher_ends_where_the_machine_is(readings: list[tuple[Interface, ...]]) -> None:
    """However it flapped: after two equal readings the watcher and the machine agree, and each change is a real one."""
    watcher = Watcher(0.0, seen(LAN))
    now = 0.0
    for interfaces in [*readings, *readings[-1:], *readings[-1:]]:
        now = watcher.next_deadline()
        for change in watcher.handle(now, seen(*interfaces)):
            assert not change.now.same(change.before)
    if readings:
        assert watcher.network.same(seen(*readings[-1]))


def test_this_machine_can_be_read() -> None:
    """The loopback of the machine that runs this is seen as one, with its number and its address."""
    loopbacks = [it for it in reading.read() if it.loopback]
    assert loopbacks
    assert loopbacks[0].index > 0
    assert "127.0.0.1" in loopbacks[0].addresses
    assert ("127.0.0.1",) == reading.now("127.0.0.1").reach
