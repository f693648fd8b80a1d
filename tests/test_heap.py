"""Tests of meshnode.heap: what the allocator keeps. Each in a process of its own, since it is one for the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MB = 1024 * 1024

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")

TASKS = """
import resource, sys
import numpy as np
from meshnode import heap

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def task(nbytes):
    there = np.ones(nbytes, np.uint8)
    back = there.tobytes()

if sys.argv[1] == "warm":
    heap.keep_warm()
for nbytes in (100_000, 600_000, 3_000_000):
    task(nbytes)
    before = faults()
    for _ in range(20):
        task(nbytes)
    print((faults() - before) // 20)
"""

THREADS = """
import threading
import numpy as np, psutil
from meshnode import heap

def resident():
    return psutil.Process().memory_info().rss

def task():
    arrays = [np.ones(10_000_000, np.uint8) for _ in range(3)]
    together.wait()

heap.keep_warm()
before, together = resident(), threading.Barrier(8)
for _ in range(3):
    threads = [threading.Thread(target=task) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
heap.give_back()
print(resident() - before)
"""


def printed(program: str, *words: str) -> list[int]:
    """The numbers that a program of its own prints."""
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def test_memory_that_was_freed_is_used_again() -> None:
    """Bodies of sizes that grow touch no fresh pages from the second task of a size on."""
    faults = printed(TASKS, "warm")

    assert 3 == len(faults)
    assert max(faults) < 20, f"{faults} page faults a task; without it 3 MB have {printed(TASKS, 'cold')[-1]}"


def test_all_that_is_free_goes_back_when_asked() -> None:
    """Eight threads had 240 MB; whatever lies behind them, next to nothing of it stays."""
    (stayed,) = printed(THREADS)

    assert stayed < 16 * MB
