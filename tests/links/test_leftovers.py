"""What connections leave behind once they are over: nothing, and at once.

A ring of objects is freed when all of memory is looked through, which a large process does seldom. One such ring held
TLS with its 256 KiB of buffers, and 1,500 connects 100 MiB.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop

from meshnode.errors import MeshError
from meshnode.links.link import Link
from tests.links.stations import Station, stations, until

TIMES = 5


def _there_are() -> int:
    """Links and what TLS keeps for a connection, whoever holds them."""
    return sum(isinstance(it, Link | ssl.SSLObject) for it in gc.get_objects())


async def _says_no_hello(a: Station, b: Station) -> None:
    """A member's handshake is over, and then the connection."""

    def visit() -> None:
        with socket.create_connection(a.address) as tcp, b.keeper.contexts()[1].wrap_socket(tcp):
            pass

    await asyncio.to_thread(visit)


async def _says_nonsense(a: Station, b: Station) -> None:
    """A stranger's first bytes are no TLS."""
    reader, writer = await asyncio.open_connection(*a.address)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with suppress(OSError):
        await reader.read()
    writer.close()


async def _says_nothing(a: Station, b: Station) -> None:
    """A stranger that goes before it said a byte."""
    _, writer = await asyncio.open_connection(*a.address)
    writer.close()


async def _comes_and_goes(a: Station, b: Station) -> None:
    """A link as it should be."""
    await (await b.pool.dial(a.address, a.id)).close()


async def _breaks(a: Station, b: Station) -> None:
    """A link that ends without a word."""
    (await b.pool.dial(a.address, a.id)).abort("cable")


async def _dials_another(a: Station, b: Station) -> None:
    """Who answers is not who was looked for."""
    with suppress(MeshError):
        await b.pool.dial(a.address, b.id)


async def _left_by(folder: Path, visit: Callable[[Station, Station], Awaitable[None]]) -> int:
    async with stations(folder, "ab") as (a, b):
        await visit(a, b)  # what is there once, whoever comes, is not left behind
        await until(lambda: not a.pool._all and not b.pool._all and not len(a.pool._porch))
        gc.collect()
        gc.disable()
        try:
            before = _there_are()
            for _ in range(TIMES):
                await visit(a, b)
            with suppress(TimeoutError):
                await until(lambda: _there_are() <= before, within_s=3)
            return max(0, _there_are() - before)
        finally:
            gc.enable()


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
@pytest.mark.parametrize(
    "visit", [_says_no_hello, _says_nonsense, _says_nothing, _comes_and_goes, _breaks, _dials_another]
)
def test_a_connection_leaves_nothing_behind(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    run: Callable[..., int],
    visit: Callable[[Station, Station], Awaitable[None]],
) -> None:
    """However it ended, without a collection: no link, and nothing of TLS."""
    caplog.set_level(logging.CRITICAL, "meshnode")  # pytest keeps what is logged: errors, and with them their frames
    assert 0 == run(_left_by(tmp_path, visit))
