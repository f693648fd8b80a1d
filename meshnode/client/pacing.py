"""A live stream of frames against a mesh that may be slower: what is sent, what waits, what is dropped.

Frames are read as they come and copied at once, for a camera reuses its buffer. Results leave in the frames' order.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Any

from meshnode.client.options import Inputs, snapshot
from meshnode.client.result import Result

Run = Callable[[int, Inputs], "asyncio.Task[Result]"]


async def pace(
    frames: Iterable[Inputs] | AsyncIterable[Inputs],
    run: Run,
    *,
    max_age_s: float,
    latest: bool,
    concurrency: int,
) -> AsyncIterator[Result]:
    """Results of the frames that were not dropped; see AsyncClient.stream."""
    waiting: deque[tuple[int, float, Inputs]] = deque(maxlen=1 if latest else None)
    news = asyncio.Event()
    room = asyncio.Event()
    room.set()
    ended = False

    async def read() -> None:
        nonlocal ended
        index = 0
        try:
            async with aclosing(_copies(frames)) as copies:
                async for frame in copies:
                    waiting.append((index, time.monotonic(), frame))
                    index += 1
                    news.set()
                    if not latest:
                        if len(waiting) >= concurrency:
                            room.clear()
                        await room.wait()
        finally:
            ended = True
            news.set()

    reading = asyncio.ensure_future(read())
    running: deque[asyncio.Task[Result]] = deque()
    try:
        while True:
            while waiting and len(running) < concurrency:
                index, since, frame = waiting.popleft()
                room.set()
                if not latest or time.monotonic() - since <= max_age_s:
                    running.append(run(index, frame))
            if running and (running[0].done() or len(running) >= concurrency or (ended and not waiting)):
                yield await running[0]
                running.popleft()
                continue
            if ended and not waiting:
                await reading  # a source that failed fails the stream
                return
            news.clear()
            waits = [asyncio.ensure_future(news.wait()), *list(running)[:1]]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waits[0].cancel()
    finally:
        await cancelled([reading, *running])


async def _copies(frames: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncGenerator[Inputs, None]:
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield snapshot(frame)
        return
    reader = _Reader(frames)
    reader.start()
    try:
        while (copy := await reader.next()) is not None:
            yield copy
    finally:
        reader.stop()


class _Reader(threading.Thread):
    """Reads a source that blocks; a daemon, for a camera that gives no more frames must not keep the program alive."""

    def __init__(self, frames: Iterable[Inputs]) -> None:
        super().__init__(name="meshnode-stream", daemon=True)
        self._frames = frames
        self._loop = asyncio.get_running_loop()
        self._read: asyncio.Queue[tuple[Inputs | None, BaseException | None]] = asyncio.Queue()
        self._taken = threading.Semaphore(1)
        self._stopped = False

    async def next(self) -> Inputs | None:
        """The next frame, None at the end; raises what the source raised."""
        frame, error = await self._read.get()
        self._taken.release()
        if error is not None:
            raise error
        return frame

    def stop(self) -> None:
        """Read no more; a frame that the source gives later is thrown away."""
        self._stopped = True
        self._taken.release()

    def run(self) -> None:
        """The thread."""
        try:
            for frame in self._frames:
                self._taken.acquire()
                if self._stopped:
                    return
                self._give(snapshot(frame), None)
            self._give(None, None)
        except BaseException as error:
            self._give(None, error)

    def _give(self, frame: Inputs | None, error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._read.put_nowait, (frame, error))


async def cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
