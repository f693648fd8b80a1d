"""Who has to speak before anything is done for them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from meshnode.accepting import HELLO_BYTES, spoken
from tests.waiting import WITHIN_S

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    """Of one TCP connection: the stranger's, and ours."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as theirs:
        ours, _ = listener.accept()
        with ours:
            ours.setblocking(False)
            yield theirs, ours


async def test_who_speaks_is_heard_and_nothing_of_it_is_lost(ends: Ends) -> None:
    """Once there is as much as a TLS client says at least, however it comes; it is all still there to be read."""
    theirs, ours = ends
    waiting = asyncio.ensure_future(spoken(ours, WITHIN_S))
    for _ in range(HELLO_BYTES):
        assert not waiting.done()
        theirs.send(b"x")
        await asyncio.sleep(0)
    await waiting
    assert HELLO_BYTES * b"x" == ours.recv(1000)
    theirs.send(b"y")
    assert b"y" == await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 10), WITHIN_S), "bytes count again"


async def test_who_says_next_to_nothing_is_not_waited_for(ends: Ends) -> None:
    """The time is up, and nobody was woken by each byte."""
    theirs, ours = ends
    theirs.send(b"x" * (HELLO_BYTES - 1))
    with pytest.raises(TimeoutError):
        await spoken(ours, 0.05)
    assert not asyncio.get_running_loop().remove_reader(ours), "nothing is left with the event loop"


async def test_who_hangs_up_is_gone_at_once(ends: Ends) -> None:
    """Without the time that it would have had."""
    theirs, ours = ends
    theirs.send(b"x")
    theirs.close()
    with pytest.raises(ConnectionAbortedError):
        await asyncio.wait_for(spoken(ours, 1000.0), WITHIN_S)


async def test_who_is_cancelled_leaves_nothing(ends: Ends) -> None:
    """As when too many are there."""
    _, ours = ends
    waiting = asyncio.ensure_future(spoken(ours, 1000.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not asyncio.get_running_loop().remove_reader(ours)
