"""Handing the tensors of a task to a worker: in the message, in the shared arena, or in a memory file of their own."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable
from typing import TypeVar

from meshnode.execution.arena import Arena, memory_file
from meshnode.execution.control import INLINE_BYTES, Place

T = TypeVar("T")

ALOOF_BYTES = 4 * 1024**2
"""Larger copies are made in a thread, so that heartbeats and other tasks go on meanwhile."""


async def hand_over(inbound: Arena, body: memoryview) -> tuple[bytes, Place | None, int | None]:
    """(what goes into the message, where the rest lies, the memory file's descriptor, which the caller closes)."""
    nbytes = len(body)
    if nbytes <= INLINE_BYTES:
        return bytes(body), None, None
    offset = inbound.allocate(nbytes)
    if offset is not None:
        await copying(nbytes, lambda: inbound.memory.__setitem__(slice(offset, offset + nbytes), body))
        return b"", Place(offset, nbytes), None
    fd = memory_file(nbytes)
    with mmap.mmap(fd, nbytes) as memory:
        await copying(nbytes, lambda: memory.__setitem__(slice(None), body))
    return b"", Place(-1, nbytes), fd


async def copying(nbytes: int, copy: Callable[[], T]) -> T:
    """Make a copy of so many bytes without standing in the way."""
    return copy() if nbytes < ALOOF_BYTES else await asyncio.to_thread(copy)
