"""Who has to speak before anything is done for them, on the event loops that agents run on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from meshnode.accepting import spoken
from tests.rig.intruders import client_hello
from tests.waiting import WITHIN_S

Run = Callable[[Coroutine[Any, Any, None]], None]
Story = Callable[[socket.socket, socket.socket], Coroutine[Any, Any, None]]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """An event loop's."""
    return request.param


def told(run: Run, story: Story) -> None:
    """Run a story with the two ends of a TCP connection: the stranger's, and ours."""

    async def within() -> None:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with theirs, ours:
            theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ours.setblocking(False)
            await story(theirs, ours)
            assert not asyncio.get_running_loop().remove_reader(ours), "nothing is left with the event loop"

    with socket.create_server(("127.0.0.1", 0)) as listener:
        run(within())


def test_who_speaks_is_heard_and_nothing_of_it_is_lost(run: Run) -> None:
    """Once a whole hello is there, however it comes; it can still be read, and after it bytes count again."""

    async def story(theirs: socket.socket, ours: socket.socket) -> None:
        said = client_hello()
        waiting = asyncio.ensure_future(spoken(ours, WITHIN_S))
        for at in range(len(said)):
            assert not waiting.done()
            theirs.send(said[at : at + 1])
            await asyncio.sleep(0)
        await waiting
        assert said == ours.recv(10_000)
        theirs.send(b"y")
        assert b"y" == await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 10), WITHIN_S)

    told(run, story)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00" + bytes(400)])
def test_who_does_not_say_all_of_it_is_not_waited_for(run: Run, said: bytes) -> None:
    """The time is up for nothing, half of a record's head, and a record that wants more."""

    async def story(theirs: socket.socket, ours: socket.socket) -> None:
        theirs.send(said)
        with pytest.raises(TimeoutError):
            await spoken(ours, 0.1)

    told(run, story)


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.0\r\n\r\n", b"\x15\x03\x01\x00\x02\x01\x00", b"\x16\x03\x01\xff\xff" + bytes(16 * 1024)]
)
def test_who_says_something_else_is_for_tls_to_refuse(run: Run, said: bytes) -> None:
    """At once: another protocol, an alert, a record that is larger than any may be."""

    async def story(theirs: socket.socket, ours: socket.socket) -> None:
        theirs.sendall(said)
        await asyncio.wait_for(spoken(ours, 1000.0), WITHIN_S)

    told(run, story)


def test_who_hangs_up_is_gone_at_once(run: Run) -> None:
    """Without the time that it would have had; what it had said is for TLS, which finds its end."""

    async def silent(theirs: socket.socket, ours: socket.socket) -> None:
        theirs.close()
        with pytest.raises(ConnectionAbortedError):
            await asyncio.wait_for(spoken(ours, 1000.0), WITHIN_S)

    async def halfway(theirs: socket.socket, ours: socket.socket) -> None:
        theirs.send(client_hello()[:50])
        theirs.close()
        await asyncio.wait_for(spoken(ours, 1000.0), WITHIN_S)
        assert 50 == len(ours.recv(100))
        assert b"" == ours.recv(100)

    told(run, silent)
    told(run, halfway)


def test_who_is_cancelled_leaves_nothing(run: Run) -> None:
    """As when too many are there."""

    async def story(_: socket.socket, ours: socket.socket) -> None:
        waiting = asyncio.ensure_future(spoken(ours, 1000.0))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    told(run, story)
