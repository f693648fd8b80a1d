"""Trying addresses: each outcome by a real socket on loopback."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from meshnode.links import probing
from meshnode.links.probing import client_hello, probe, probe_all
from tests.edge.living import founder


async def test_an_agent_answers(tmp_path: Path) -> None:
    """The greeting of a probe is one of TLS, small or large, and leaves nothing behind in the agent."""
    async with founder(tmp_path / "ann") as agent:
        node = agent.node
        assert "answered" == (await probe(node.address)).outcome
        for size in (0, 1500, probing.HELLO_BYTES_MAX):
            assert ("answered", True) == ((it := await probing._ask(node.address, size))[0], it[1] > 0)
        assert [] == node.pool.links()


async def test_a_port_that_nobody_listens_on_refuses() -> None:
    """At once."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        found = await probe(it.getsockname())
    assert ("refused", None) == (found.outcome, found.large)


async def test_a_port_of_another_program_is_mute(monkeypatch: pytest.MonkeyPatch) -> None:
    """It connects and never says anything, or hangs up."""
    monkeypatch.setattr(probing, "ANSWER_S", 0.2)
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        it.listen()
        assert "mute" == (await probe(it.getsockname())).outcome

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        assert (await probe(server.sockets[0].getsockname())).outcome in ("mute", "error")


async def test_addresses_that_lead_nowhere() -> None:
    """What is no address is not looked up: an outcome each, in the order that was asked, and no exception."""
    found = await probe_all([("localhost", 7433), ("no name", 7433), ("x" * 300, 7433), ("fe80::1%none0", 7433)])
    assert ["error"] * 4 == [it.outcome for it in found]
    assert ["localhost", "no name", "x" * 128, "fe80::1%none0"] == [it.host for it in found]


def test_a_greeting_is_as_large_as_it_is_asked_to_be() -> None:
    """The small one fits the smallest packets of IPv4 networks, the large ones do not."""
    assert len(client_hello(0)) < 536
    for size in (1500, 9000, probing.HELLO_BYTES_MAX):
        assert size <= len(client_hello(size)) < size + 600
