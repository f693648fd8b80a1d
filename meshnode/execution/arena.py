"""Shared memory for tensors between the agent and a worker.

Each direction has one arena, a memory file without a name that both processes map; the side that writes allocates in
it and the other says when it is done. Nothing has a name, so nothing can be left behind, whoever is killed. The file is
sparse: only pages that were used take memory, and when nothing is in it, those beyond the first few go back. What is
used again and again is what makes it quick: a copy of 10 MB takes 0.2 ms, the first touch of its pages 4 ms. What is
large, or does not fit, has a memory file of its own, which is handed over with the message.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import threading
from bisect import insort
from collections.abc import Iterable

import numpy as np

ALIGN = 4096
ASIDE_BYTES = 4 * 1024 * 1024
"""From this size on, a body is copied in a thread."""
LARGE_BYTES = 32 * 1024 * 1024
"""From this size on, a body has a memory file of its own."""
STAYS_BYTES = 32 * 1024 * 1024
"""So much of an arena may keep its pages while nothing is in it."""
SLICE_BYTES = 64 * 1024 * 1024
"""What one system call reads or writes: all of them have a limit near 2 GiB."""
Buffer = bytes | bytearray | memoryview


def memory_file(nbytes: int) -> int:
    """A file descriptor of anonymous memory."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("meshnode", os.MFD_CLOEXEC)
    else:
        fd, path = tempfile.mkstemp(prefix="meshnode-")
        os.unlink(path)
    os.ftruncate(fd, nbytes)
    return fd


def fill(fd: int, parts: Iterable[Buffer]) -> None:
    """Write the parts into a memory file, one after the other. Raises OSError when there is no memory left."""
    at = 0
    for part in parts:
        rest = memoryview(part).cast("B")
        while len(rest):
            written = os.pwrite(fd, rest[:SLICE_BYTES], at)
            rest = rest[written:]
            at += written


def contents(fd: int, nbytes: int) -> memoryview:
    """A copy of a memory file's first bytes. Raises OSError, EOFError when it is shorter."""
    copy = np.empty(nbytes, np.uint8).data  # see meshnode.wire.frames
    at = 0
    while at < nbytes:
        read = os.preadv(fd, [copy[at : at + SLICE_BYTES]], at)
        if read == 0:
            raise EOFError(f"a memory file of {at} bytes instead of {nbytes}")
        at += read
    return copy


def copy(into: Buffer, part: Buffer) -> None:
    """Copy bytes while other threads of the process run: a slice that is assigned to holds the interpreter."""
    np.copyto(np.frombuffer(into, np.uint8), np.frombuffer(part, np.uint8))


class Arena:
    """The allocating side of an arena. Safe to use from several threads."""

    def __init__(self, fd: int, nbytes: int) -> None:
        self.memory = mmap.mmap(fd, nbytes)
        self._free: list[tuple[int, int]] = [(0, nbytes)]
        self._used: dict[int, int] = {}
        self._touched = 0
        self._lock = threading.Lock()

    def allocate(self, nbytes: int) -> int | None:
        """The offset of a block; None for what is large, and when no block is free that would do."""
        if nbytes >= LARGE_BYTES:
            return None
        size = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
        with self._lock:
            for i, (offset, length) in enumerate(self._free):
                if length >= size:
                    if length == size:
                        del self._free[i]
                    else:
                        self._free[i] = (offset + size, length - size)
                    self._used[offset] = size
                    self._touched = max(self._touched, offset + size)
                    return offset
        return None

    def free(self, offset: int) -> None:
        """Give a block back."""
        with self._lock:
            size = self._used.pop(offset)
            insort(self._free, (offset, size))
            self._merge()
            if not self._used and self._touched > STAYS_BYTES:
                if sys.platform == "linux":
                    self.memory.madvise(mmap.MADV_REMOVE, STAYS_BYTES, self._touched - STAYS_BYTES)
                self._touched = STAYS_BYTES

    @property
    def used_bytes(self) -> int:
        """Bytes in blocks."""
        with self._lock:
            return sum(self._used.values())

    def _merge(self) -> None:
        merged: list[tuple[int, int]] = []
        for offset, size in self._free:
            if merged and merged[-1][0] + merged[-1][1] == offset:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((offset, size))
        self._free = merged
