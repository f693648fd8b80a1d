"""Handing the tensors of a task to a worker, and taking its answer.

What is small lies in the message or in the shared arena, which costs microseconds. What is large has a memory file of
its own, and its copies are made in a thread, so that heartbeats and other tasks go on meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar

from meshnode.errors import OutOfMemory, WorkerCrashed
from meshnode.execution.arena import Arena, contents, fill, memory_file
from meshnode.execution.control import INLINE_BYTES, Place

T = TypeVar("T")


async def hand_over(inbound: Arena, body: memoryview) -> tuple[bytes, Place | None, int | None]:
    """(what goes into the message, where the rest lies, the memory file's descriptor, which the caller closes).

    Raises OutOfMemory.
    """
    nbytes = len(body)
    if nbytes <= INLINE_BYTES:
        return bytes(body), None, None
    offset = inbound.allocate(nbytes)
    if offset is not None:
        inbound.memory[offset : offset + nbytes] = body
        return b"", Place(offset, nbytes), None
    fd = memory_file(nbytes)
    try:
        await aside(lambda: fill(fd, (body,)))
    except BaseException:
        os.close(fd)
        raise
    return b"", Place(-1, nbytes), fd


async def take(fd: int, nbytes: int) -> memoryview:
    """What lies in a memory file, which is closed. Raises WorkerCrashed when it is shorter, OutOfMemory."""
    try:
        return await aside(lambda: contents(fd, nbytes))
    except EOFError as error:
        raise WorkerCrashed(f"the worker's answer is not whole: {error}") from error
    finally:
        os.close(fd)


async def aside(copy: Callable[[], T]) -> T:
    """Make a copy in a thread. Whoever is cancelled waits for its end: what it uses is let go of only then.

    Raises OutOfMemory.
    """
    copying = asyncio.ensure_future(asyncio.to_thread(copy))
    try:
        return await asyncio.shield(copying)
    except asyncio.CancelledError:
        await asyncio.wait({copying})
        raise
    except (OSError, MemoryError) as error:
        raise OutOfMemory(f"this node has no memory for the tensors of the task: {error}") from error
