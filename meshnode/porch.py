"""Whose handshake is given up when too many are under way at once. A core.

Nobody waits for the handshakes of others: a thousand strangers that say a byte a second would make members wait for
as long as these are suffered. Whoever comes is let in, and beyond the room the oldest goes of the source that has most.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Generic, TypeVar

Guest = TypeVar("Guest")
NETWORK_BITS = 64
"""Of an IPv6 address: within them everybody has as many addresses as they like, and neighbours share them."""


def network_of(source: str) -> str:
    """An address's network where one machine may have any address of it, else the source itself."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return source
    if isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped is not None:
        return source
    return str(ipaddress.ip_network((address, NETWORK_BITS), strict=False))


class Porch(Generic[Guest]):
    """Guests in the order in which they came, by where they come from.

    Who has most is first asked of networks, then of the sources in it: neither many addresses of one machine nor one
    machine among many neighbours keeps others out.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._count = 0
        self._by_source: dict[str, dict[Guest, None]] = {}
        self._of_network = Counter[str]()

    def __len__(self) -> int:
        return self._count

    def enter(self, guest: Guest, source: str) -> Guest | None:
        """Somebody came; who has to go for it."""
        self._by_source.setdefault(source, {})[guest] = None
        self._count += 1
        self._of_network[network_of(source)] += 1
        if self._count <= self._room:
            return None
        most = max(self._by_source, key=lambda it: (self._of_network[network_of(it)], len(self._by_source[it])))
        goes = next(iter(self._by_source[most]))
        self.leave(goes, most)
        return goes

    def leave(self, guest: Guest, source: str) -> None:
        """Its handshake is over; or it had to go before."""
        guests = self._by_source.get(source, {})
        if guest in guests:
            del guests[guest]
            self._count -= 1
            self._of_network[network_of(source)] -= 1
            self._of_network += Counter()  # without those of whom nobody is there
        if not guests:
            self._by_source.pop(source, None)
