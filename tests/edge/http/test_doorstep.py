"""Strangers at the HTTP door that say next to nothing, or much: they go, and whoever has the token is served."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from meshnode.agent import Agent
from meshnode.doors import Http
from meshnode.edge.http import doorstep
from tests.edge.clients import bearer
from tests.edge.living import founder
from tests.waiting import until

HALF = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"
LISTEN = {"plain": "127.0.0.1:0", "TLS": "0.0.0.0:0"}


@pytest.fixture(params=LISTEN)
async def agent(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Agent]:
    """With the door open; strangers are suffered for half a second."""
    monkeypatch.setattr(doorstep, "ANONYMOUS_S", 0.5)
    async with founder(tmp_path / "ann", http=Http(listen=LISTEN[request.param])) as it:
        yield it


def place(agent: Agent) -> tuple[str, int]:
    return "127.0.0.1", int(str(agent.ready()["http"]).rpartition(":")[2])


def url(agent: Agent) -> str:
    tls = not str(agent.ready()["http"]).startswith("127.")
    return f"http{'s' if tls else ''}://127.0.0.1:{place(agent)[1]}"


async def over(reader: asyncio.StreamReader) -> bool:
    """Wait for the end."""
    async with asyncio.timeout(20):
        with suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
    return True


async def test_who_shows_no_token_does_not_stay(agent: Agent) -> None:
    """Silence, half a head, a head that grows by the byte: each ends by itself, and nothing is kept of it."""
    for said in (b"", HALF, HALF + b"X-Slow: "):
        reader, writer = await asyncio.open_connection(*place(agent))
        writer.write(said)
        dripping = asyncio.ensure_future(_drip(writer)) if said.endswith(b" ") else None
        assert await over(reader)
        if dripping is not None:
            dripping.cancel()
        writer.close()


async def _drip(writer: asyncio.StreamWriter) -> None:
    while True:
        with suppress(ConnectionError):
            writer.write(b"x")
            await writer.drain()
        await asyncio.sleep(0.02)


async def test_who_shows_it_may_be_silent_and_slow(agent: Agent) -> None:
    """The same connection, long after strangers had to go; also in the middle of a body."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if url(agent).startswith("https") else None
    if tls is not None:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(*place(agent), ssl=tls)
    token = f"Host: localhost\r\nAuthorization: {bearer(agent.node)['Authorization']}\r\n"

    async def answered() -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        assert head.startswith(b"HTTP/1.1 200")
        return await reader.readexactly(length)

    async with asyncio.timeout(30):
        for _ in range(2):
            writer.write(f"GET /v2/health/live HTTP/1.1\r\n{token}\r\n".encode())
            assert b'{"live":true}' == await answered()
            await asyncio.sleep(1.2)
        writer.write(f"POST /v2/repository/index HTTP/1.1\r\n{token}Content-Length: 16\r\n\r\n".encode())
        writer.write(b'{"ready": ')
        await asyncio.sleep(1.2)
        writer.write(b"false}")
        assert b"[]" == await answered()
    writer.close()


async def test_a_crowd_of_strangers_keeps_nobody_out(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the room their oldest go at once; the owner's request comes through, and is not among those that go."""
    monkeypatch.setattr(doorstep, "ANONYMOUS_S", 30.0)
    crowd = [await asyncio.open_connection(*place(agent)) for _ in range(doorstep.ANONYMOUS_MAX + 8)]
    for _, writer in crowd:
        writer.write(HALF)
    assert all([await over(reader) for reader, _ in crowd[:8]])
    async with aiohttp.ClientSession(headers=bearer(agent.node)) as web:
        for _ in range(3):
            async with web.get(f"{url(agent)}/v2/health/live", ssl=False) as answer:
                assert 200 == answer.status
    for _, writer in crowd:
        writer.close()


async def test_an_agent_that_stops_lets_strangers_go(tmp_path: Path) -> None:
    """It waits for none of them."""
    async with founder(tmp_path / "ann", http=Http(listen="127.0.0.1:0")) as agent:
        reader, writer = await asyncio.open_connection(*place(agent))
        writer.write(HALF)
        await until(lambda: writer.transport.get_write_buffer_size() == 0, "it is said")
    assert await over(reader)
    writer.close()
