"""Live streams: what is dropped, what waits, and how they end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from meshnode.blocking import Client
from meshnode.client import AsyncClient
from meshnode.errors import InvalidInput
from tests.client.door import Door

Frame = dict[str, Any]


async def test_keeping_all_loses_no_frame(door: Door) -> None:
    """keep="all": every frame, in order, from a source that reuses its buffer."""
    buffer = np.zeros(1)

    def frames() -> Iterator[Frame]:
        for i in range(60):
            buffer[0] = i
            yield {"x": buffer}

    async with AsyncClient(door.home) as mesh:
        results = [r async for r in mesh.stream("double", frames(), keep="all", concurrency=3)]

    assert [2.0 * i for i in range(60)] == [float(r["y"][0]) for r in results]
    assert list(range(60)) == [r.index for r in results]
    assert door.open_most <= 3


async def test_the_latest_frame_wins(door: Door) -> None:
    """keep="latest" behind a mesh that stands still: of what comes meanwhile only the newest frame is sent."""

    async def frames() -> AsyncIterator[Frame]:
        yield {"x": [0.0]}
        await asyncio.to_thread(door.wait_for, lambda: door.open == 1)
        for i in range(1, 20):
            yield {"x": [float(i)]}
        door.gate.set()

    async with AsyncClient(door.home) as mesh:
        results = [r async for r in mesh.stream("gated", frames(), concurrency=1, max_age=60.0)]

    assert [(0, 0.0), (19, 38.0)] == [(r.index, float(r["y"][0])) for r in results]


async def test_leaving_a_stream_cancels_what_is_open(door: Door) -> None:
    """A stream that is closed takes its open tasks with it."""
    async with AsyncClient(door.home) as mesh:
        stream = mesh.stream("stuck", [{"x": [0.0]}], max_age=60.0)
        first = asyncio.ensure_future(anext(stream))
        await asyncio.to_thread(door.wait_for, lambda: door.open == 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.to_thread(door.wait_for, lambda: door.cancelled == 1)


async def test_an_old_frame_is_not_sent(door: Door) -> None:
    """A frame older than max_age is dropped at the source: with no age allowed, nothing is sent."""
    async with AsyncClient(door.home) as mesh:
        results = [r async for r in mesh.stream("double", [{"x": [1.0]}] * 5, max_age=0.0)]
    assert [] == results
    assert [] == door.tasks


async def test_a_source_that_fails_fails_the_stream(door: Door) -> None:
    """What the source raises comes out of the stream."""

    def frames() -> Iterator[Frame]:
        yield {"x": [1.0]}
        raise ValueError("the camera is gone")

    async with AsyncClient(door.home) as mesh:
        with pytest.raises(ValueError, match="the camera is gone"):
            async for _ in mesh.stream("double", frames(), keep="all"):
                pass
        with pytest.raises(InvalidInput):
            async for _ in mesh.stream("double", [{"x": object()}], keep="all"):
                pass


def test_a_source_that_blocks_holds_up_nothing(door: Door) -> None:
    """A camera that never gives its next frame: earlier results come out, and the stream can be left."""
    never = threading.Event()

    def frames() -> Iterator[Frame]:
        yield {"x": [1.0]}
        never.wait()

    with Client(door.home) as mesh:
        for result in mesh.stream("double", frames(), max_age=60.0):
            assert [2.0] == result["y"].tolist()
            break
    never.set()
