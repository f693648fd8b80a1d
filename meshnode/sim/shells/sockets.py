"""The other two sockets that exist only in memory: one for datagrams, and one that listens for streams."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from meshnode.links.address import Address
from meshnode.sim.shells.streams import Ends, StreamEnd, joined

DATAGRAMS_MAX = 256
"""Of a socket that nobody reads."""


class UdpEnd:
    """A datagram socket, as far as `Datagrams` uses one."""

    family = socket.AF_INET

    def __init__(self, send: Callable[[bytes, Address], None], closed: Callable[[], object]) -> None:
        self._send = send
        self._closed = closed
        self._here: deque[tuple[bytes, Address]] = deque()
        self._ring: Callable[[], object] | None = None

    def sendto(self, data: bytes, address: Address) -> int:
        """Send one."""
        self._send(data, address)
        return len(data)

    def recvfrom(self, _: int) -> tuple[bytes, Address]:
        """The next one. Raises BlockingIOError."""
        if not self._here:
            raise BlockingIOError
        return self._here.popleft()

    def watch(self, ring: Callable[[], object] | None) -> None:
        """Who is told that something is here."""
        self._ring = ring

    def arrive(self, data: bytes, source: Address) -> None:
        """One came."""
        if len(self._here) < DATAGRAMS_MAX:
            self._here.append((data, source))
        if len(self._here) == 1 and self._ring is not None:
            self._ring()

    def still_here(self) -> None:
        """The reader has had its turn, and may have left something."""
        if self._here and self._ring is not None:
            self._ring()

    def close(self) -> None:
        """No more."""
        self._ring = None
        self._closed()


class Listener:
    """A listening socket."""

    family = socket.AF_INET

    def __init__(self, ends: Ends, address: Address, closed: Callable[[], object]) -> None:
        self._ends = ends
        self._address = address
        self._closed = closed
        self._backlog_max = 0
        self._backlog: deque[StreamEnd] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def listen(self, backlog: int) -> None:
        """Begin."""
        self._backlog_max = backlog

    def getsockname(self) -> Address:
        """Where."""
        return self._address

    def take(self, source: Ends) -> StreamEnd | None:
        """The kernel takes a connection, whether or not the process looks; returns the dialler's end."""
        if len(self._backlog) >= self._backlog_max:
            return None
        there, here = joined(source, self._ends, socket.AF_INET)
        there.peername = here.sockname = self.getsockname()
        here.peername = there.sockname = source.address
        self._backlog.append(here)
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break
        return there

    async def accept(self) -> StreamEnd:
        """The next one."""
        while not self._backlog:
            waiter = self._ends.wire.loop.create_future()
            self._waiting.append(waiter)
            await waiter
        return self._backlog.popleft()

    def close(self) -> None:
        """Nobody is let in any more; who waits is turned away."""
        self._closed()
        while self._backlog:
            self._backlog.popleft().abort()
