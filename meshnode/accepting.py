"""At a TCP port, whoever comes: nobody waits for the silence of others, and `porch` says who has to go for it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial

from meshnode.porch import Porch

log = logging.getLogger(__name__)

Greeting = asyncio.Task[None]
"""What is done about a connection until it is known who this is."""


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
