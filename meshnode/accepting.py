"""At a TCP port, whoever comes: nobody waits for the silence of others, and `porch` says who has to go for it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from functools import partial

from meshnode.porch import Porch

log = logging.getLogger(__name__)

Greeting = asyncio.Task[None]
"""What is done about a connection until it is known who this is."""
HELLO_BYTES = 64
"""The least that a TLS client says first."""


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
    """Wait until a TLS client has begun to speak: before, it costs us a timer, and who says a byte a second no more.

    The kernel counts (SO_RCVLOWAT); where it cannot wake us so, nobody waits. Raises OSError when the other side hung
    up, and its TimeoutError.
    """
    if sys.platform == "win32":
        return
    loop = asyncio.get_running_loop()
    there = loop.create_future()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, HELLO_BYTES)

    def wake() -> None:
        if not there.done():
            there.set_result(None)

    loop.add_reader(connection, wake)
    try:
        async with asyncio.timeout(within_s):
            await there
    finally:
        loop.remove_reader(connection)
    if len(connection.recv(HELLO_BYTES, socket.MSG_PEEK)) < HELLO_BYTES:
        raise ConnectionAbortedError("it hung up before it spoke")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
