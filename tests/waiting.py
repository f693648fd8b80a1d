"""Waiting for something to become so, inside an event loop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

WITHIN_S = 30.0
"""A bound on liveness: generous, because the machine may be loaded."""


async def until(what: Callable[[], T | None], why: str, *, within_s: float = WITHIN_S) -> T:
    """Ask until the answer is neither None nor False; fail with `why` when the time is up."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while True:
        answer = what()
        if answer:
            return answer
        if loop.time() > end:
            raise AssertionError(f"{why}: not within {within_s} s (last answer: {answer!r})")
        await asyncio.sleep(0.01)


async def hold(pid: int) -> None:
    """Stop a process as a whole: the signal reaches one thread, and the others may take messages until it has."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    await until(
        lambda: all((it / "stat").read_text().rpartition(")")[2].split()[0] == "T" for it in threads.iterdir()),
        f"every thread of {pid} has stopped",
    )
