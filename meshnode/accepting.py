"""At a TCP port, whoever comes: nobody waits for the silence of others, and `porch` says who has to go for it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from functools import partial

from meshnode.config import KIB
from meshnode.porch import Porch

log = logging.getLogger(__name__)

Greeting = asyncio.Task[None]
"""What is done about a connection until it is known who this is."""
RECORD_BYTES, HANDSHAKE = 5, 22
"""The head of a TLS record: type, version, length (RFC 8446, 5.1); and the type of a ClientHello's."""
HELLO_BYTES_MAX = 16 * KIB


async def accept(
    listener: socket.socket, porch: Porch[Greeting], greet: Callable[[socket.socket, str], Greeting], what: str
) -> None:
    """One by one, for as long as the listener is open. `greet` gets a connection and where it is from."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, address = await loop.sock_accept(listener)
        except OSError as error:
            log.warning("a connection to %s could not be accepted: %s", what, error)
            await asyncio.sleep(0.1)  # out of file descriptors: let some close
            continue
        greeting = greet(connection, str(address[0]))
        await asyncio.sleep(0)  # it begins: one that is cancelled before would not close what it was given
        suffer(porch, greeting, str(address[0]))


def suffer(porch: Porch[Greeting], greeting: Greeting, source: str) -> None:
    """Have it on the porch until it ends; who has to go for it is cancelled."""
    greeting.add_done_callback(partial(porch.leave, source=source))
    if (goes := porch.enter(greeting, source)) is not None:
        goes.cancel()


async def spoken(connection: socket.socket, within_s: float) -> None:
    """Wait for the whole of what a TLS client says first: until then it costs us a timer, however it drips.

    The kernel counts (SO_RCVLOWAT); where it cannot wake us so, nobody waits. What is no such thing is TLS's to refuse.
    Raises OSError when the other side hung up, and its TimeoutError.
    """
    if sys.platform == "win32":
        return
    async with asyncio.timeout(within_s):
        head = await _peek(connection, RECORD_BYTES)
        if head[0] == HANDSHAKE:
            await _peek(connection, RECORD_BYTES + min(int.from_bytes(head[3:5]), HELLO_BYTES_MAX))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


async def _peek(connection: socket.socket, nbytes: int) -> bytes:
    """What has come when it is so much, or all that will; it can still be read."""
    loop = asyncio.get_running_loop()
    there = loop.create_future()

    def wake() -> None:
        if not there.done():
            there.set_result(None)

    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, nbytes)
    loop.add_reader(connection, wake)
    try:
        await there
    finally:
        loop.remove_reader(connection)
    if not (data := connection.recv(nbytes, socket.MSG_PEEK)):
        raise ConnectionAbortedError("it hung up before it spoke")
    return data
