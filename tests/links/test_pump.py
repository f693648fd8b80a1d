"""The one place that writes: what it knows about what it wrote."""

from __future__ import annotations

import asyncio
import time

from meshnode.config import Links
from meshnode.links.machine import Machine
from meshnode.links.pump import Pump
from meshnode.wire.flow import FrameWriter
from meshnode.wire.frames import Type
from meshnode.wire.traffic import Traffic
from tests.waiting import until

BODY = 200_000


async def test_what_was_sent_and_what_of_it_arrived_is_known() -> None:
    """A peer that does not read: all that was written is counted, part of it waits until the peer takes it."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1024)
    transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
    writer = FrameWriter(Links(stream_credit_bytes=2**30, connection_credit_bytes=2**30))
    traffic = Traffic()
    pump = Pump(writer, loop, Machine(stopwatch=time.monotonic), traffic)
    assert (0, 0) == pump.sent()
    pump.transport = transport
    transport.set_write_buffer_limits(high=2**40)
    reader, peer = await accepted.get()
    bodies = 200
    for stream in range(bodies):
        writer.message(Type.REQ, 2 * stream + 1, b"", [bytes(BODY)])
    pump()
    await until(lambda: sum(pump.sent()) >= bodies * BODY, "all is written")
    arrived, waiting = pump.sent()
    assert waiting > 0
    assert arrived + waiting < bodies * (BODY + 1000)

    left = arrived + waiting
    while left:
        left -= len(await reader.read(2**20))
    await until(lambda: pump.sent()[1] == 0, "all has arrived")
    assert (arrived + waiting, 0) == pump.sent()
    assert arrived + waiting == traffic.sent
    transport.abort()
    peer.close()
    server.close()
    await server.wait_closed()
