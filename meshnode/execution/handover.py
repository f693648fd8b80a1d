"""Handing the tensors of a task to a worker, and taking its answer.

What is small lies in the message, what is not in the shared arena, and what is large has a memory file of its own. From
4 MB on copies are made in a thread, so that heartbeats and other tasks go on meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from msgspec import Struct

from meshnode.errors import OutOfMemory, WorkerCrashed
from meshnode.execution.arena import ASIDE_BYTES, Arena, contents, copy, fill, memory_file
from meshnode.execution.control import INLINE_BYTES, Free, Place, Ran
from meshnode.execution.process import Incarnation, WorkerProcess
from meshnode.wire.tensors import Buffer

T = TypeVar("T")
FREES_MAX = 16
"""So many blocks that were read are told to the worker at once, unless a run tells it before."""


async def hand_over(inbound: Arena, body: memoryview) -> tuple[bytes, Place | None, int | None]:
    """(what goes into the message, where the rest lies, the memory file's descriptor, which the caller closes).

    Raises OutOfMemory.
    """
    nbytes = len(body)
    if nbytes <= INLINE_BYTES:
        return bytes(body), None, None
    offset = inbound.allocate(nbytes)
    if offset is not None:
        room = memoryview(inbound.memory)[offset : offset + nbytes]
        if nbytes < ASIDE_BYTES:
            room[:] = body
            return b"", Place(offset, nbytes), None
        try:
            await aside(lambda: copy(room, body))
        except BaseException:
            inbound.free(offset)
            raise
        return b"", Place(offset, nbytes), None
    fd = memory_file(nbytes)
    try:
        await aside(lambda: fill(fd, (body,)))
    except BaseException:
        os.close(fd)
        raise
    return b"", Place(-1, nbytes), fd


def lay_down(inbound: Arena, parts: Sequence[Buffer]) -> tuple[bytes, Place | None] | None:
    """The same for many small parts at once; None when that has to be done one by one."""
    nbytes = sum(map(len, parts))
    if nbytes <= INLINE_BYTES:
        return b"".join(parts), None
    offset = inbound.allocate(nbytes) if nbytes < ASIDE_BYTES else None
    if offset is None:
        return None
    at = offset
    for part in parts:
        inbound.memory[at : at + len(part)] = part
        at += len(part)
    return b"", Place(offset, nbytes)


class Answer(Struct, frozen=True):
    """What a worker said, the memory file that came with it, and which life of it that was."""

    message: Ran
    fd: int | None
    life: Incarnation


@dataclass(slots=True)
class Outlet:
    """The way out of a worker: each answer is taken or discarded, once, and its block given back.

    Args:
        answer_bytes_max: no answer is larger.
        hold_bytes: when blocks of so much wait to be given back, it is done at once.
    """

    process: WorkerProcess
    answer_bytes_max: int
    hold_bytes: int
    _frees: list[int] = field(default_factory=list)
    _frees_bytes: int = 0

    def given_back(self) -> tuple[int, ...]:
        """Blocks that were read, to be told to the worker by whoever asks."""
        frees = tuple(self._frees)
        self.forget()
        return frees

    def forget(self) -> None:
        """The worker is dead, and with it its blocks."""
        self._frees, self._frees_bytes = [], 0

    def discard(self, answer: Answer) -> None:
        """Nobody wants it."""
        if answer.fd is not None:
            os.close(answer.fd)
        if answer.message.place is not None and answer.message.place.offset >= 0:
            self._give_back(answer, answer.message.place)

    async def take(self, answer: Answer) -> Buffer:
        """Copy the outputs, so that their block is free again before anybody has taken the bytes.

        Raises WorkerCrashed for an answer that cannot be, OutOfMemory.
        """
        if (data := self.take_now(answer)) is not None:
            return data
        place, fd = answer.message.place, answer.fd
        assert place is not None
        if place.offset >= 0:
            block = memoryview(answer.life.outbound)[place.offset : place.offset + place.nbytes]
            try:
                return await aside(lambda: _copied(block))
            finally:
                self._give_back(answer, place)
        if fd is None:
            raise WorkerCrashed("the worker's answer came without its memory")
        return await take(fd, place.nbytes)

    def take_now(self, answer: Answer) -> Buffer | None:
        """The same for what is small; None for what is copied in a thread."""
        place, fd, life = answer.message.place, answer.fd, answer.life
        if place is None:
            return answer.message.body
        offset, nbytes = place.offset, place.nbytes
        if nbytes > self.answer_bytes_max:
            if fd is not None:
                os.close(fd)
            self.process.kill("it answered with more than any message carries")
            raise WorkerCrashed(f"the worker's answer has {nbytes} bytes; {self.answer_bytes_max} are allowed")
        if offset < 0:
            return None
        if not 0 <= offset <= offset + nbytes <= len(life.outbound):
            self.process.kill("it named memory that it does not have")
            raise WorkerCrashed("the worker's answer lies outside its memory")
        if nbytes >= ASIDE_BYTES:
            return None
        data = life.outbound[offset : offset + nbytes]
        self._give_back(answer, place)
        return data

    def _give_back(self, answer: Answer, place: Place) -> None:
        if self.process.life is not answer.life:
            return  # another one has not given this block
        self._frees.append(place.offset)
        self._frees_bytes += place.nbytes
        if len(self._frees) >= FREES_MAX or self._frees_bytes > self.hold_bytes:
            self.process.tell(Free(self.given_back()))


def _copied(block: memoryview) -> memoryview:
    whole = np.empty(len(block), np.uint8).data
    copy(whole, block)
    return whole


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
