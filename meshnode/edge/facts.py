"""What the doctor found out, before anybody judges it. Plain values, so that a judgement can be tested by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from meshnode.links.address import Address
from meshnode.wire.looks import Try

Subnet = IPv4Network | IPv6Network
CONNECTS = ("answered", "stalled")


@dataclass(frozen=True, slots=True)
class Here:
    """This machine. `families` are those of its addresses that others can use; `subnets` its own, with the device.

    `listens` is what its agent takes, `wildcard` whether on all addresses; `company` is whether any member answers it.
    """

    port: int = 7433
    families: frozenset[int] = frozenset({4})
    listens: frozenset[int] = frozenset({4})
    wildcard: bool = True
    company: bool = True
    subnets: tuple[tuple[Subnet, str], ...] = ()

    def device(self, addresses: Iterable[Address]) -> str:
        """The device behind which one of these addresses is a neighbour; empty when none is."""
        for host, _ in addresses:
            plain, _, scope = host.partition("%")
            try:
                it = ip_address(plain)
            except ValueError:
                continue
            if it.version == 6 and it.is_link_local:
                if scope:
                    return scope
                continue
            for subnet, device in self.subnets:
                if it in subnet:
                    return device
        return ""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """One peer as seen from here, and what it says about us. None = not known, or not asked.

    Args:
        link_error: why there is no link, with what its error advises.
        tries: what came of its addresses; `back` what came of ours when it tried them.
        keyed: whether a datagram could be sealed for it.
        datagram_s: round trip of a datagram to it; `datagram_there` whether ours arrived there.
        offset_s: its clock minus ours, `wall` its clock.
        hears_us: whether our multicast arrives there; `heard_here` whether its own arrives here.
        next_hop: the device that the way to it begins with.
    """

    id: str
    name: str
    state: str = "alive"
    reason: str = ""
    found_by: str = "gossip"
    addresses: tuple[Address, ...] = ()
    path: str = "none"
    rtt_s: float | None = None
    link_error: str = ""
    link_hint: str = ""
    tries: tuple[Try, ...] = ()
    back: tuple[Try, ...] | None = None
    back_error: str = ""
    keyed: bool = True
    datagram_s: float | None = None
    datagram_there: bool | None = None
    offset_s: float | None = None
    wall: float | None = None
    hears_us: bool | None = None
    heard_here: bool | None = None
    next_hop: str = ""

    @property
    def port(self) -> int:
        """Its agent's."""
        return next((port for _, port in self.addresses), 7433)

    @property
    def families(self) -> frozenset[int]:
        """Of its addresses."""
        return frozenset(6 if ":" in host else 4 for host, _ in self.addresses)

    @property
    def connects(self) -> bool:
        """Whether TCP to one of its addresses works."""
        return any(it.outcome in CONNECTS for it in self.tries)

    @property
    def dials_us(self) -> bool:
        """Whether it could connect to one of ours."""
        return any(it.outcome in CONNECTS for it in self.back or ())

    @property
    def vanishes(self) -> bool:
        """Whether nothing that is sent to it comes back: neither a yes nor a no, by TCP nor by UDP."""
        outcomes = {it.outcome for it in self.tries} - {"no_route"}  # nothing was sent there
        return bool(outcomes) and outcomes <= {"timeout", "unreachable"} and self.datagram_s is None

    @property
    def present(self) -> bool:
        """Whether it lives all the same: it answers through a member, or members hear it."""
        return self.path.startswith("relay") or self.state in ("alive", "suspect")


@dataclass(frozen=True, slots=True)
class Disk:
    """What came of writing in the home: bytes that are free, and the error's number and text."""

    home: str
    free: int
    reserve: int
    errno: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Clock:
    """This machine's, and when the newest grant of the mesh was signed; seconds since 1970."""

    now: float
    newest_grant: float


@dataclass(frozen=True, slots=True)
class Hearing:
    """Multicast at this machine."""

    on: bool
    error: str = ""
    used: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    heard: int = 0
    own_heard: int = 0
    found: int = 0
    silent: bool = False
    """Withdrawn in a crowd, so that nobody can hear it."""
