"""Shared memory for tensors between the agent and a worker.

Each direction has one arena, a memory file without a name that both processes map; the side that writes allocates in
it and the other says when it is done. Nothing has a name, so nothing can be left behind, whoever is killed. What does
not fit gets a memory file of its own, handed over with the message. The file is sparse: only pages that were used
take memory, and a large block's pages are given back when it is freed.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from bisect import insort

ALIGN = 4096
WARM_BYTES = 4 * 1024 * 1024
"""Blocks up to this size keep their pages when they are freed."""


def memory_file(nbytes: int) -> int:
    """A file descriptor of anonymous memory."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("meshnode", os.MFD_CLOEXEC)
    else:
        fd, path = tempfile.mkstemp(prefix="meshnode-")
        os.unlink(path)
    os.ftruncate(fd, nbytes)
    return fd


class Arena:
    """The allocating side of an arena. Safe to use from several threads."""

    def __init__(self, fd: int, nbytes: int) -> None:
        self.memory = mmap.mmap(fd, nbytes)
        self._free: list[tuple[int, int]] = [(0, nbytes)]
        self._used: dict[int, int] = {}
        self._lock = threading.Lock()

    def allocate(self, nbytes: int) -> int | None:
        """The offset of a block; None when none is large enough."""
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
            if size > WARM_BYTES and hasattr(mmap, "MADV_REMOVE"):
                self.memory.madvise(mmap.MADV_REMOVE, offset, size)
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
