"""Shared memory for tensors between the agent and a worker.

Each direction has one arena, a memory file without a name that both processes map; the side that writes allocates in
it and the other says when it is done. Nothing has a name, so nothing can be left behind, whoever is killed. The file
is sparse: only pages that were used take memory. What is large, or does not fit, gets a memory file of its own, handed
over with the message: it is written and read by system calls, during which other threads of the process run. A copy
between mappings holds the interpreter, for a third of a second at 500 MB.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from bisect import insort
from collections.abc import Iterable

ALIGN = 4096
LARGE_BYTES = 4 * 1024 * 1024
"""From this size on, a body has a memory file of its own."""
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
    # Not a bytearray, which is filled with zeros first, while the interpreter stands still.
    copy = memoryview(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    at = 0
    while at < nbytes:
        read = os.preadv(fd, [copy[at : at + SLICE_BYTES]], at)
        if read == 0:
            raise EOFError(f"a memory file of {at} bytes instead of {nbytes}")
        at += read
    return copy


class Arena:
    """The allocating side of an arena. Safe to use from several threads."""

    def __init__(self, fd: int, nbytes: int) -> None:
        self.memory = mmap.mmap(fd, nbytes)
        self._free: list[tuple[int, int]] = [(0, nbytes)]
        self._used: dict[int, int] = {}
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
                    return offset
        return None

    def free(self, offset: int) -> None:
        """Give a block back."""
        with self._lock:
            size = self._used.pop(offset)
            insort(self._free, (offset, size))
            self._merge()

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
