"""Sockets as links want them: bound where they were told, and quick."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import sys
from contextlib import suppress

from meshnode.errors import ListenError
from meshnode.links.address import Datagrams

if sys.platform.startswith("linux"):
    import fcntl
    import termios

USER_TIMEOUT_MS = 20_000


def tune(connection: socket.socket | None) -> None:
    """Send small frames at once, and let the kernel give up unacknowledged data sooner than its quarter of an hour."""
    if connection is not None and connection.family != socket.AF_UNIX:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


def give_way(connection: socket.socket | None) -> None:
    """Send bulk without filling the queues on the way, in which small frames of other connections would stand.

    BBR paces by what arrives, where the default fills each queue until it drops. Where the system has it not, or keeps
    it for itself, nothing changes.
    """
    if connection is not None and hasattr(socket, "TCP_CONGESTION") and connection.family != socket.AF_UNIX:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")


def unacknowledged(connection: socket.socket | None) -> int:
    """Bytes that were given to the kernel and that the other machine has not acknowledged; 0 where nobody can tell."""
    if connection is None or not sys.platform.startswith("linux"):
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):
        return 0


async def listening(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A bound socket; `::` takes IPv4 as well. Raises ListenError, naming the address."""
    try:
        (family, _, proto, _, address), *_ = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=kind, flags=socket.AI_PASSIVE
        )
        bound = (Datagrams if kind is socket.SOCK_DGRAM else socket.socket)(family, kind, proto)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    try:
        bound.setblocking(False)
        if kind is socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not ipaddress.ip_address(host).is_unspecified)
            )
        bound.bind(address)
    except (OSError, ValueError) as error:
        bound.close()
        hint = "another program has this port: choose one with --listen HOST:PORT (port 0 = any free)"
        if isinstance(error, OSError) and error.errno != errno.EADDRINUSE:
            hint = "--listen wants an address of this machine, or 0.0.0.0 for all, and a port above 1023"
        raise ListenError(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', error)}", hint=hint) from error
    return bound
