"""The HTTP server of a real agent: what reaches no part of the door."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from meshnode.agent import Agent
from meshnode.doors import Http
from meshnode.edge.http.certificate import CHAIN
from meshnode.edge.http.server import TOKEN, HttpServer, token
from meshnode.errors import ConfigError, ListenError
from tests.edge.living import founder


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    """With the door open on loopback."""
    async with founder(tmp_path / "ann", http=Http(listen="127.0.0.1:0")) as it:
        yield it


def address(agent: Agent) -> str:
    return str(agent.ready()["http"])


def bearer(home: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {(home / TOKEN).read_text().strip()}"}


async def test_without_the_token_nothing_is_told(agent: Agent) -> None:
    """Not even which paths there are."""
    async with aiohttp.ClientSession() as web:
        for path in ("/", "/v2/health/live", "/no/such/path"):
            async with web.get(f"http://{address(agent)}{path}") as answer:
                assert (401, "Bearer") == (answer.status, answer.headers["WWW-Authenticate"])
                assert {"error"} == set(await answer.json())
                assert "Access-Control-Allow-Origin" not in answer.headers


async def test_with_the_token_an_unknown_path_is_not_found(agent: Agent) -> None:
    """As JSON; the token's file is for its owner alone."""
    assert 0o600 == (agent.node.home / TOKEN).stat().st_mode & 0o777
    async with aiohttp.ClientSession(headers=bearer(agent.node.home)) as web:
        async with web.get(f"http://{address(agent)}/no/such/path") as answer:
            assert (404, {"error"}) == (answer.status, set(await answer.json()))
        async with web.get(f"http://{address(agent)}/", headers={"Host": "evil.example"}) as answer:
            assert 403 == answer.status
        async with web.get(f"http://{address(agent)}/", headers={"Origin": "http://evil.example"}) as answer:
            assert 403 == answer.status


async def test_the_token_stays_the_same(tmp_path: Path) -> None:
    """Over restarts; an empty file is no token."""
    first = token(tmp_path)
    assert first == token(tmp_path)
    (tmp_path / TOKEN).write_text("\n")
    assert len(first) == len(token(tmp_path))
    assert first != token(tmp_path)


async def test_other_machines_are_spoken_to_in_tls(tmp_path: Path) -> None:
    """With a certificate of its own that names this machine, whose file is enough to be sure of it."""
    async with founder(tmp_path / "ann", http=Http(listen="0.0.0.0:0")) as agent:
        port = address(agent).rpartition(":")[2]
        trusted = ssl.create_default_context(cafile=str(agent.node.home / CHAIN))
        async with aiohttp.ClientSession(headers=bearer(agent.node.home)) as web:
            async with web.get(f"https://127.0.0.1:{port}/x", ssl=trusted) as answer:
                assert 404 == answer.status
            with pytest.raises(aiohttp.ClientError):
                await web.get(f"http://127.0.0.1:{port}/x")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (Http(listen="192.0.2.1:0"), ListenError),
        (Http(listen="127.0.0.1:0", certificate="/no/such/file", key="/no/such/file"), ConfigError),
        (Http(listen="127.0.0.1:0", certificate="/no/such/file"), ConfigError),
    ],
)
async def test_a_door_that_cannot_be_opened_is_an_error_with_its_reason(
    agent: Agent, given: Http, error: type[Exception]
) -> None:
    """And leaves nothing open."""
    agent.node.settings = replace(agent.node.settings, http=given)
    server = HttpServer(agent.node, ())
    with pytest.raises(error):
        await server.start()
    await server.stop()
