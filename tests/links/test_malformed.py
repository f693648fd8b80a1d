"""What a peer answers that is no answer: the call that waits for it ends at once, and nothing is raised elsewhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from meshnode.config import LAN
from meshnode.errors import PeerLost
from meshnode.links.local import connect, socket_path
from meshnode.wire.frames import HEADER, Type, pack
from meshnode.wire.messages import Ask, Hello, encode

HELLO = pack(Type.HELLO, 0, encode(Hello(versions=(1,), id="a" * 52, name="liar", boot=1)))
ERRORS = ({"attempts": 7}, {"attempts": [[1]]}, {"retry_after_s": "soon"}, {"retry_after_s": float("nan")})


def answers() -> list[bytes]:
    """Frames for stream 1."""
    wrong = [pack(Type.ERR, 1, msgspec.msgpack.encode({"code": "refused", **it})) for it in ERRORS]
    return [*wrong, pack(Type.ERR, 1, b"\xc1"), pack(Type.RES, 1, b"\xc1"), pack(Type.RES, 1, b"\x81\xa1t\xa4none")]


@pytest.mark.parametrize("answer", answers())
async def test_who_waits_for_it_is_told_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    """By the link's end, as for any peer that breaks the protocol; not by its own deadline, and not never."""

    async def lies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = HEADER.unpack(await reader.readexactly(HEADER.size))
        await reader.readexactly(head[0] + head[2])
        writer.write(HELLO)
        await reader.readexactly(HEADER.size)
        writer.write(answer)
        await reader.read()
        writer.close()

    path = socket_path(tmp_path)
    server = await asyncio.start_unix_server(lies, path=str(path))
    link = await connect(tmp_path, LAN.links)
    async with asyncio.timeout(20.0):
        with pytest.raises(PeerLost):
            await link.call(Ask(verb="status"))
    server.close()
    assert [] == [it for it in caplog.records if it.exc_info or it.levelname == "ERROR"]
