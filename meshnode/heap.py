"""The C library's allocator: what it keeps of memory that was freed. Only glibc is asked.

By itself it gives the pages of large blocks back as soon as they are free, and what comes next touches fresh ones,
which takes many times as long as the copy that they are for: a task of 3 MB had 1,433 page faults in the agent. How
much it keeps, it learns from the largest block so far; so sizes that grow are slow at each step.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

BLOCK_BYTES = 32 * 1024 * 1024
"""Smaller blocks come out of memory that was used before; glibc allows no more. Larger ones are mapped on their own."""
STAYS_BYTES = 64 * 1024 * 1024
"""So much of what is free stays: the tensors of a task on both ways."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Of mallopt(3)."""


def keep_warm() -> None:
    """Let freed memory be used again, in whichever thread; for the whole process, before it has many threads.

    One arena for all: by itself each thread has its own, and keeps its own. More than that may stay where something
    small lies behind it, so `give_back` has to be called now and then.
    """
    if (libc := _libc()) is not None:
        with suppress(AttributeError):
            libc.mallopt(_MMAP_THRESHOLD, BLOCK_BYTES)
            libc.mallopt(_TRIM_THRESHOLD, STAYS_BYTES)
            libc.mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Let go of all that is free: 15 microseconds when that is nothing, 1.6 ms for 240 MB."""
    if (libc := _libc()) is not None:
        with suppress(AttributeError):
            libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
