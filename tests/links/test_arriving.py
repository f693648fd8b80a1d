"""Bodies that do not arrive: what a link notices of them, and what it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from meshnode.config import KIB, MIB
from meshnode.links.link import Link
from meshnode.wire.frames import Type, pack
from meshnode.wire.messages import Hello, encode, encode_error
from tests.links.stations import ASK, Station, stations, until

TIMES = 200


@asynccontextmanager
async def raw(a: Station, b: Station) -> AsyncIterator[tuple[Link, asyncio.StreamWriter]]:
    """A member that says frames by hand and answers no ping: the station's end of its link, and where to write."""
    context = b.keeper.contexts()[1]
    reader, writer = await asyncio.open_connection(*a.address, ssl=context)
    reading = asyncio.ensure_future(reader.read(-1))
    writer.write(pack(Type.HELLO, 0, encode(Hello(versions=(1,), id=b.id, name="b", boot=b.keeper.boot))))
    await until(lambda: any(link.usable for link in a.pool._all))
    (link,) = a.pool._all
    try:
        yield link, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        await asyncio.gather(reading, return_exceptions=True)


async def test_a_sender_that_falls_silent_in_its_first_frames_is_noticed(tmp_path: Path) -> None:
    """As soon as one that falls silent while its answer is waited for, not at the next beat of a link at rest."""
    async with stations(tmp_path, "ab") as (a, b), raw(a, b) as (link, writer):
        await until(lambda: link.heartbeat.due_at > link._now() + 1)  # it is at rest
        writer.write(pack(Type.REQ, 1, encode(ASK), bytes(32 * KIB), aux=MIB))
        await until(lambda: link.silent)


async def test_bodies_that_are_given_up_leave_nothing(tmp_path: Path) -> None:
    """However a member ends them: by an error for its own request, or cancelled in one breath with more of it."""
    async with stations(tmp_path, "ab") as (a, b), raw(a, b) as (link, writer):
        before, sent = link._side.traffic.received, 0
        for stream in range(1, 4 * TIMES, 4):
            begun = [pack(Type.REQ, it, encode(ASK), b"x", aux=20_000) for it in (stream, stream + 2)]
            error = pack(Type.ERR, stream, encode_error({"code": "refused", "message": "never mind"}))
            cancelled = pack(Type.CANCEL, stream + 2) + pack(Type.DATA, stream + 2, body=bytes(5000))
            data = b"".join((*begun, error, cancelled))
            sent += len(data)
            writer.write(data)
        await until(lambda: link._side.traffic.received >= before + sent)
        assert link.usable
        assert 0 == link._reader.open_streams
        assert {} == link._reader.crediting._streams
