"""What the machine says about its network at this moment."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase

import psutil

from meshnode.membership.interfaces import VIRTUAL, Interface, Network, Reading, network


def read() -> Reading:
    """All interfaces. Costs about 0.15 ms for a handful of them."""
    stats = psutil.net_if_stats()
    found = []
    for name, rows in psutil.net_if_addrs().items():
        stat = stats.get(name)
        flags = set(getattr(stat, "flags", "").split(",")) - {""}
        addresses = [text for row in rows if (text := _address(row.address, name))]
        index = 0
        with suppress(OSError):  # it has gone since
            index = socket.if_nametoindex(name)
        found.append(
            Interface(
                name=name,
                index=index,
                up=stat is not None and stat.isup,
                loopback="loopback" in flags or any(ipaddress.ip_address(a).is_loopback for a in addresses),
                multicast="multicast" in flags or not flags,  # Windows tells no flags
                tunnel="pointopoint" in flags,
                addresses=tuple(sorted(addresses)),
            )
        )
    return tuple(found)


def _address(text: str, name: str) -> str:
    """An IP address as the mesh writes it; empty for anything else (a MAC address is a row as well)."""
    host = text.partition("%")[0]
    try:
        it = ipaddress.ip_address(host)
    except ValueError:
        return ""
    return f"{it}%{name}" if it.version == 6 and it.is_link_local else str(it)


def now(host: str, wanted: tuple[str, ...] = ()) -> Network:
    """What counts of the machine's network for an agent that listens on `host`."""
    return network(read(), host=host, wanted=wanted)


def subnets() -> Iterator[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]]:
    """The subnets of this machine's addresses, each with its interface; not the loopback and networks inside it."""
    for name, rows in psutil.net_if_addrs().items():
        if any(fnmatchcase(name, pattern) for pattern in VIRTUAL):
            continue
        for row in rows:
            with suppress(ValueError):  # a MAC address is a row as well; Windows tells no IPv6 netmasks
                it = ipaddress.ip_address(row.address.partition("%")[0])
                if not it.is_loopback:
                    bits = int(ipaddress.ip_address(row.netmask or "")).bit_count()
                    yield ipaddress.ip_network((it, bits), strict=False), name
