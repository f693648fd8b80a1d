"""Connections to the HTTP door of whoever has not shown the token yet: so many, for so long, and no more.

The server itself waits for ever for a request to begin, and for its bytes. Here each connection that no request with
the token came over ends after `ANONYMOUS_S`, and beyond `ANONYMOUS_MAX` of them the oldest goes of the address with
most (`porch`); TLS that does not come about counts as well. Whoever showed the token is not looked at any more.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, cast

from meshnode.accepting import Greeting, accept
from meshnode.links.sockets import listening
from meshnode.porch import Porch

log = logging.getLogger(__name__)

ANONYMOUS_MAX = 128
ANONYMOUS_S = 10.0
"""A browser that reads the pages without secrets connects anew after so long, and does not notice."""
HANDSHAKE_S = 5.0
BACKLOG = 128


class Doorstep:
    """See the module's docstring.

    Args:
        serve: makes the server's protocol for a connection.
    """

    def __init__(self, serve: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None) -> None:
        self._serve = serve
        self._tls = tls
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._porch = Porch[Greeting](ANONYMOUS_MAX)
        self._guests: dict[asyncio.BaseTransport, _Guest] = {}

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen on all addresses that the name has; the first of them, with its port. Raises ListenError."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError:
            found = []  # `listening` says what is wrong with it
        for address in dict.fromkeys(str(it[4][0]) for it in found) or {host: None}:
            listener = await listening(address, port, socket.SOCK_STREAM)
            self._listeners.append(listener)
            listener.listen(BACKLOG)
            port = int(listener.getsockname()[1])
            self._start(accept(listener, self._porch, self._arrived, "the HTTP door"))
        name = self._listeners[0].getsockname()
        return str(name[0]), int(name[1])

    def close(self) -> None:
        """Let nobody in any more, and those go who never came further."""
        for task in self._tasks:
            task.cancel()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def known(self, transport: asyncio.BaseTransport | None) -> None:
        """Whoever is at the other end has shown the token."""
        if transport is not None and (guest := self._guests.get(transport)) is not None:
            guest.known()

    def _arrived(self, connection: socket.socket, _source: str) -> Greeting:
        return self._start(self._greet(connection))

    async def _greet(self, connection: socket.socket) -> None:
        """Until it is known who this is, or it is gone, or has to go."""
        guest = _Guest(self._serve(), self._guests)
        try:
            async with asyncio.timeout(ANONYMOUS_S):
                connection.setblocking(False)
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: guest,
                    connection,
                    ssl=self._tls,
                    ssl_handshake_timeout=HANDSHAKE_S if self._tls is not None else None,
                )
                await guest.settled.wait()
        except (OSError, ssl.SSLError, TimeoutError, asyncio.CancelledError) as error:
            guest.turn_away(connection)
            if isinstance(error, asyncio.CancelledError):
                raise

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Guest(asyncio.Protocol):
    """Stands between a connection and the server's protocol until it is known who is there."""

    def __init__(self, server: asyncio.Protocol, guests: dict[asyncio.BaseTransport, _Guest]) -> None:
        self.settled = asyncio.Event()
        self._server = server
        self._guests = guests
        self._transport: asyncio.Transport | None = None

    def known(self) -> None:
        """The server is spoken to directly from now on."""
        transport = self._gone()
        if transport is not None:
            transport.set_protocol(self._server)

    def turn_away(self, connection: socket.socket) -> None:
        """Hang up."""
        transport = self._gone()
        if transport is not None:
            transport.abort()
        else:
            connection.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS has come about, if there is any."""
        self._transport = cast(asyncio.Transport, transport)
        self._guests[transport] = self
        self._server.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        self._gone()
        self._server.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """For the server."""
        self._server.data_received(data)

    def eof_received(self) -> bool | None:
        """Likewise."""
        return self._server.eof_received()

    def pause_writing(self) -> None:
        """Likewise."""
        self._server.pause_writing()

    def resume_writing(self) -> None:
        """Likewise."""
        self._server.resume_writing()

    def _gone(self) -> asyncio.Transport | None:
        transport = self._transport
        if transport is not None:
            self._guests.pop(transport, None)
        self.settled.set()
        return transport
