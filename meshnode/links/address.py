"""Addresses as the mesh writes them: a host in its shortest form, a link-local one with the name of its interface.

An IPv6 link-local address means something only together with the link it belongs to. It is written `fe80::1%eth0`
here, is never put into an advert or a token, and every socket gets the number of the interface from its name.
"""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import Any

Address = tuple[str, int]


def plain(name: tuple[Any, ...]) -> Address:
    """What a socket says about one of its ends: IPv4 not in IPv6's clothes, a link-local host with its interface."""
    host, port = str(name[0]), int(name[1])
    if host.startswith("::ffff:") and "." in host:
        return host.removeprefix("::ffff:"), port
    return scoped(host, int(name[3]) if len(name) > 3 else 0), port


def scoped(host: str, index: int) -> str:
    """A link-local host with the interface of that number; any other as it is."""
    if ":" not in host or "%" in host or not index or not ipaddress.IPv6Address(host).is_link_local:
        return host
    with suppress(OSError):  # an interface that has just gone has a number and no name
        return f"{host}%{socket.if_indextoname(index)}"
    return f"{host}%{index}"


class Datagrams(socket.socket):
    """A UDP socket whose `sendto` takes addresses as the mesh writes them.

    Python's own loses the interface of `fe80::1%eth0` unless its number is given as the fourth part of the address.
    """

    def sendto(self, data: Any, address: Any) -> int:  # type: ignore[override]  # nobody here uses the flags
        """As `socket.socket.sendto`, without flags."""
        host, _, scope = str(address[0]).partition("%")
        if scope and len(address) == 2 and self.family == socket.AF_INET6:
            index = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
            address = (host, address[1], 0, index)
        return super().sendto(data, address)
