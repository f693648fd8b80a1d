"""A connection to a broker that does not keep to what it was told: here it is a few bytes of the protocol by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiomqtt
import pytest

from meshnode.edge.mqtt import connection as module
from meshnode.edge.mqtt.broker import Broker
from meshnode.edge.mqtt.connection import Connection, Terms
from meshnode.edge.mqtt.requests import Incoming
from tests.waiting import until

CONNACK = bytes([0x20, 3, 0, 0, 0])
REFUSED = bytes([0x20, 3, 0, 0x87, 0])
GOODBYE = bytes([0xE0, 2, 0x8B, 0])
LARGEST = bytes([0x30, 0xFF, 0xFF, 0xFF, 0x7F])
"""The head of a message of 268,435,455 bytes, as much as MQTT can say."""


@dataclass
class Liar:
    """What it says first, and what it then sends without end."""

    first: bytes
    then: bytes = b""
    port: int = 0
    sent: int = 0
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read(4096)  # CONNECT
            writer.write(self.first)
            while self.then:
                writer.write(self.then)
                await writer.drain()
                self.sent += len(self.then)
            while await reader.read(4096):
                pass
        self.hung_up.set()
        writer.close()


@asynccontextmanager
async def lying(liar: Liar) -> AsyncIterator[Connection]:
    """A connection to it that is about to be made."""
    server = await asyncio.start_server(liar.serve, "127.0.0.1", 0)
    liar.port = server.sockets[0].getsockname()[1]
    heard: list[Incoming] = []
    terms = Terms("meshnode-test", session_s=0, in_flight=1, message_bytes_max=4096)
    yield Connection(Broker("127.0.0.1", liar.port, None, None, None), terms, heard.append)
    assert [] == heard
    await asyncio.wait_for(liar.hung_up.wait(), 30)
    server.close()


async def lived(it: Connection) -> None:
    """From its beginning to its end. Raises what ended it."""
    async with it:
        await until(it.broken.done, "the connection is ended")
        it.broken.result()


async def test_a_packet_that_is_larger_than_was_asked_for_is_not_read() -> None:
    """Its head says how long it is: the connection ends there, and not after 256 MiB were gathered."""
    liar = Liar(CONNACK + LARGEST, then=bytes(65536))
    async with lying(liar) as it:
        with pytest.raises(aiomqtt.MqttError, match="a packet of 268435455 bytes, and was told that 69632 are taken"):
            await lived(it)
        assert it._client.socket() is None
    assert liar.sent < 268435455


async def test_what_fits_is_read() -> None:
    """As large as was said, to the byte; one byte more is too much."""
    size = 4096 + module.ENVELOPE_BYTES
    for more in (False, True):
        length = size + more
        head = bytes([0xD0, length & 127 | 128, length >> 7 & 127 | 128, length >> 14])
        liar = Liar(CONNACK + head + bytes(length) + GOODBYE)
        async with lying(liar) as it:
            with pytest.raises(aiomqtt.MqttError) as caught:
                await lived(it)
            assert more == ("was told" in str(caught.value))


async def test_a_broker_that_ends_at_once_is_noticed() -> None:
    """Its goodbye comes with its welcome: that is told, and not waited for."""
    async with lying(Liar(CONNACK + GOODBYE)) as it:
        with pytest.raises(aiomqtt.MqttError):
            await lived(it)


@pytest.mark.parametrize("first", [b"", REFUSED], ids=["silent", "refuses"])
async def test_a_connection_that_was_not_made_is_closed(first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that answers late finds nobody: the next connection of this node is the only one."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    async with lying(Liar(first)) as it:
        with pytest.raises(aiomqtt.MqttError):
            await it.__aenter__()
        assert it._client.socket() is None


async def test_a_connection_that_is_given_up_while_it_is_made_is_closed() -> None:
    """An agent that stops does not leave one behind."""
    async with lying(Liar(b"")) as it:
        making = asyncio.ensure_future(it.__aenter__())
        await until(lambda: it._client.socket() is not None and it._misc_task is not None, "it waits for an answer")
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert it._client.socket() is None
