"""Files in pieces: the hash of the whole and of each piece, in one pass that can be stopped.

Reading and hashing many gigabytes happens in threads; `in_thread` lets a cancelled wait end its thread at the next
piece, so that nothing keeps a stopping agent alive.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
HASH_BYTES = 32
SETTLE_BYTES = 64 << 20


class Stopped(Exception):
    """Nobody waits for this work any more."""


class Stop(threading.Event):
    """Set when the work should end."""

    def check(self) -> None:
        """Raises Stopped."""
        if self.is_set():
            raise Stopped


async def in_thread(work: Callable[[Stop], T]) -> T:
    """Run blocking work in a thread; cancelling the wait sets its `Stop`."""
    stop = Stop()
    try:
        return await asyncio.to_thread(work, stop)
    except asyncio.CancelledError:
        stop.set()
        raise


class Hasher:
    """The hash of a file and of each of its pieces, as they pass."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._pieces: list[bytes] = []
        self.size = 0

    def update(self, piece: bytes) -> None:
        """The next piece; all but the last are of one size."""
        self._whole.update(piece)
        self._pieces.append(hashlib.sha256(piece).digest())
        self.size += len(piece)

    @property
    def sha256(self) -> bytes:
        """Of the whole."""
        return self._whole.digest()

    @property
    def pieces(self) -> bytes:
        """The hashes of the pieces, one after the other."""
        return b"".join(self._pieces)


def hash_file(path: Path, piece_bytes: int, stop: Stop) -> Hasher:
    """Of a file on disk. Raises OSError, Stopped."""
    hasher = Hasher()
    with path.open("rb", buffering=0) as source:
        while piece := read_exactly(source.fileno(), piece_bytes):
            stop.check()
            hasher.update(piece)
    return hasher


def settle(fd: int, done: int, piece_bytes: int) -> None:
    """Now and then, have what was written reach the disk: else a machine with little memory stalls when it is full."""
    if done // SETTLE_BYTES != (done - piece_bytes) // SETTLE_BYTES:
        os.fdatasync(fd)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def read_exactly(fd: int, nbytes: int) -> bytes:
    """Up to `nbytes` from where the file stands; fewer only at its end."""
    data = os.read(fd, nbytes)
    if len(data) == nbytes or not data:
        return data
    parts = [data]
    left = nbytes - len(data)
    while left and (data := os.read(fd, left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)
