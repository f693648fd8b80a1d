"""Waiting for something to become so, inside an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
