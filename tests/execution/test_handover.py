"""Large tensors on their way to a worker and back: whole, in a thread, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading

import pytest

from meshnode.errors import OutOfMemory, WorkerCrashed
from meshnode.execution.arena import ALIGN, ASIDE_BYTES, LARGE_BYTES, Arena, memory_file
from meshnode.execution.handover import aside, hand_over, take


def descriptors() -> int:
    gc.collect()  # what earlier tests left is not to be closed in between
    return len(os.listdir("/dev/fd"))


@pytest.fixture
def arena() -> Arena:
    """A small one."""
    fd = memory_file(16 * ALIGN)
    arena = Arena(fd, 16 * ALIGN)
    os.close(fd)
    return arena


async def test_what_is_large_goes_and_comes_whole(arena: Arena) -> None:
    """Through a memory file of its own, which is closed when its bytes are taken."""
    body = os.urandom(LARGE_BYTES)
    before = descriptors()
    inline, place, fd = await hand_over(arena, memoryview(body))
    assert (b"", True, True) == (inline, place is not None and place.offset < 0, fd is not None)
    assert fd is not None
    assert body == await take(fd, len(body))
    assert before == descriptors()


async def test_a_block_is_given_back_when_its_task_is_cancelled() -> None:
    """While its bytes are copied into it in a thread: after the copy, not before."""
    nbytes = ASIDE_BYTES + 1
    fd = memory_file(2 * nbytes)
    arena = Arena(fd, 2 * nbytes)
    os.close(fd)
    body = os.urandom(nbytes)
    _, place, _ = await hand_over(arena, memoryview(body))
    assert place is not None
    assert body == arena.memory[place.offset : place.offset + nbytes]
    arena.free(place.offset)

    handing = asyncio.ensure_future(hand_over(arena, memoryview(body)))
    await asyncio.sleep(0)
    assert 0 < arena.used_bytes
    handing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handing
    assert 0 == arena.used_bytes


async def test_an_answer_that_is_not_whole_is_the_workers_fault() -> None:
    """It says more than its memory holds; nothing stays open."""
    gc.collect()  # what earlier tests left in cycles would otherwise be closed in between
    before = descriptors()
    with pytest.raises(WorkerCrashed, match="not whole"):
        await take(memory_file(LARGE_BYTES), LARGE_BYTES + 1)
    with pytest.raises(OutOfMemory):
        await take(memory_file(LARGE_BYTES), 2**60)
    assert before == descriptors()


async def test_the_loop_goes_on_and_a_cancel_waits_for_the_copy() -> None:
    """While a copy is made other work has its turn; what the copy uses is not let go of before its end."""
    begun, goes_on, done = threading.Event(), threading.Event(), threading.Event()

    def copy() -> None:
        begun.set()
        assert goes_on.wait(20)
        done.set()

    copying = asyncio.ensure_future(aside(copy))
    async with asyncio.timeout(20):
        while not begun.is_set():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.001)
        copying.cancel()
        await asyncio.sleep(0)
        assert not copying.done()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await copying
    assert done.is_set()
