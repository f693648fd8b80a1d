"""An agent that says on SIGUSR2 what it holds: its asyncio tasks by what they do, how many Python objects live, and how
much memory the allocators of Python and of the C library have given out, or keep.

It is the installed command with one handler more. Says into the file that RIG_COUNTS names, which is there when it is
whole.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from meshnode.cli.main import main

COMMON = 30
"""Kinds of objects of which there are fewer are not told."""


class _Mallinfo2(ctypes.Structure):
    """glibc's, of 2.33 and newer."""

    _fields_ = (("sizes", ctypes.c_size_t * 10),)


def _heap() -> dict[str, int]:
    """Bytes of the C library's heap: in use, free in it, and mapped on their own."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    _, _, _, _, mapped, _, _, used, free, _ = mallinfo2().sizes
    return {"used": used, "free": free, "mapped": mapped}


def _say(_signal: int, _frame: object) -> None:
    path = Path(os.environ["RIG_COUNTS"])
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # no loop runs: it starts, or ends
        tasks = set()
    names = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in tasks)
    part = path.with_suffix(".part")
    kinds = Counter(f"{type(it).__module__}.{type(it).__qualname__}" for it in gc.get_objects())
    common = {kind: count for kind, count in kinds.items() if count >= COMMON}
    memory = {"blocks": sys.getallocatedblocks(), "heap": _heap()}
    part.write_text(json.dumps({"tasks": dict(names), "objects": kinds.total(), "kinds": common, **memory}))
    part.replace(path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, _say)
    main()
