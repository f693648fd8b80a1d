"""Which network interfaces and addresses count, and when a change of them is one.

Pure: a reading of the machine goes in (see `reading`), a choice with its reasons comes out. Docker and its like come
and go all day; what they do is no change, and their addresses reach nobody.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from fnmatch import fnmatchcase

VIRTUAL = (
    *("docker*", "br-*", "veth*", "podman*", "cni*", "flannel*", "cali*", "cilium*", "kube*", "nerdctl*", "lxc*"),
    *("lxdbr*", "virbr*", "vmnet*", "vboxnet*", "vEthernet (WSL*", "vEthernet (Default Switch)", "awdl*", "llw*"),
)
"""Networks inside this machine: containers, virtual machines; and Apple's own radio links."""
TUNNELS = ("tun*", "utun*", "wg*", "tailscale*", "ppp*", "ipsec*", "gif*", "stf*")
ADDRESSES_MAX = 8
POLL_S, CONFIRM_S, POLL_MIN_S = 5.0, 1.0, 0.05
PATIENCE_S = 30.0
"""A network that never settles is taken as it is after so long."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface as the machine describes it; IPv6 link-local addresses carry `%name`."""

    name: str
    index: int
    up: bool = True
    loopback: bool = False
    multicast: bool = True
    tunnel: bool = False
    addresses: tuple[str, ...] = ()


Reading = tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """What counts of a reading.

    `used` are the interfaces for multicast, `skipped` the others with the reason. `reach` are the addresses that others
    may be told, best first; `announced` those for a neighbour on the same link. `own` are all addresses that are up.
    """

    used: tuple[Interface, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    reach: tuple[str, ...] = ()
    announced: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()

    def same(self, other: Network) -> bool:
        """Whether nothing that matters differs."""
        return (self.used, self.reach, self.announced) == (other.used, other.reach, other.announced)


def network(reading: Reading, *, host: str, wanted: tuple[str, ...] = ()) -> Network:
    """What counts for an agent that listens on `host`; `wanted` are patterns of the interfaces to use, none = all."""
    used: list[Interface] = []
    skipped: list[tuple[str, str]] = []
    reach: list[str] = []
    tunnels: list[str] = []
    inner: list[str] = []
    for it in sorted(reading, key=lambda i: (i.index, i.name)):
        addresses = tuple(a for a in it.addresses if _listens(host, a))
        seen = Interface(it.name, it.index, it.up, it.loopback, it.multicast, it.tunnel, addresses)
        reason = _against(seen, wanted)
        if reason:
            skipped.append((it.name, reason))
        else:
            used.append(seen)
        if it.up:
            told = not it.loopback and (_named(it.name, wanted) if wanted else not _named(it.name, VIRTUAL))
            through = it.tunnel or _named(it.name, TUNNELS)
            (inner if not told else tunnels if through else reach).extend(addresses)
    announced = sorted({a for it in used for a in it.addresses}, key=rank)[:ADDRESSES_MAX]
    telling = (*_told(reach), *_told(tunnels))[:ADDRESSES_MAX]
    if not telling and not announced:  # no network: agents of this machine still find each other
        telling = _told([a for a in inner if ":" not in a]) or _told(inner)
    if not telling and not ipaddress.ip_address(host).is_unspecified:
        telling = (host,) if "%" not in host else ()  # it may be on no interface, as 127.0.0.9 is
    own = frozenset(a for it in reading if it.up for a in it.addresses)
    return Network(used=tuple(used), skipped=tuple(skipped), reach=telling, announced=tuple(announced), own=own)


def _listens(host: str, address: str) -> bool:
    """Whether an agent that listens on `host` is reached at this address of its machine."""
    bound = ipaddress.ip_address(host)
    if not bound.is_unspecified:
        return ipaddress.ip_address(address.partition("%")[0]) == ipaddress.ip_address(host.partition("%")[0])
    return bound.version == 6 or ":" not in address


def _against(it: Interface, wanted: tuple[str, ...]) -> str:
    """Why multicast does not use this interface; empty when it does."""
    if it.loopback:
        return "it is the loopback"
    if wanted and not _named(it.name, wanted):
        return "it is not in discovery.interfaces"
    if not wanted and _named(it.name, VIRTUAL):
        return "it is a network inside this machine (containers or virtual machines)"
    if not wanted and (it.tunnel or _named(it.name, TUNNELS)):
        return "it is a tunnel; name it in discovery.interfaces to use it"
    if not it.up:
        return "it is down"
    if not it.multicast:
        return "it cannot multicast"
    if not it.addresses:
        return "it has no address that the agent listens on"
    return ""


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _told(addresses: list[str]) -> tuple[str, ...]:
    """Those that mean the same to everybody, best first: IPv6 link-local ones stay out, IPv4 ones come last."""
    return tuple(sorted({a for a in addresses if "%" not in a}, key=rank)[:ADDRESSES_MAX])


def rank(address: str) -> tuple[bool, bool, bool, str]:
    """The order in which addresses are best tried."""
    it = ipaddress.ip_address(address)
    return it.is_link_local, not it.is_private, it.version == 6, address


# --- when a change is one ---


@dataclass(frozen=True, slots=True)
class Changed:
    """The network is another one, and has been for two readings."""

    now: Network
    before: Network


class Watcher:
    """Core: takes readings, says when a stable change happened. `next_deadline` is when to read again.

    A change is believed when two readings in a row agree on it, the second a moment after the first; a network that
    never settles is taken as it is after `PATIENCE_S`.
    """

    def __init__(self, now: float, first: Network, poll_s: float = POLL_S) -> None:
        self.network = first
        self._poll_s = max(poll_s, POLL_MIN_S)
        self._candidate: Network | None = None
        self._unstable_since: float | None = None
        self._due = now + self._poll_s

    def next_deadline(self) -> float:
        """When to take the next reading."""
        return self._due

    def handle(self, now: float, seen: Network) -> list[Changed]:
        """A reading."""
        before, candidate = self.network, self._candidate
        if seen.same(before):
            self.network = seen  # reasons and addresses of skipped interfaces may be new
            self._candidate = self._unstable_since = None
            self._due = now + self._poll_s
            return []
        if self._unstable_since is None:
            self._unstable_since = now
        settled = candidate is not None and seen.same(candidate)
        if not settled and now - self._unstable_since < PATIENCE_S:
            self._candidate = seen
            self._due = now + min(CONFIRM_S, self._poll_s)
            return []
        self.network = seen
        self._candidate = self._unstable_since = None
        self._due = now + self._poll_s
        return [Changed(now=seen, before=before)]
