"""Programs on simulated machines: each callback of the loop belongs to one, or to nobody.

A process may be held, as by SIGSTOP, while its clock goes on; or sleep with its machine, when its clock stands still
and its timers wait as long as the sleep takes; or end, and then nothing of it runs again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from meshnode.sim.shells.stations import Station

PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
"""Whose code is running."""


class Process:
    """One start of a program on one of the network's stations."""

    def __init__(self, name: str, station: Station) -> None:
        self.name = name
        self.station = station
        self.ended = False
        self.killed = False
        """Whether it ended in the middle of something."""
        self.held = False
        """Whether it stands still."""
        self.slept_s = 0.0
        """By how much its clock is behind."""
        self.tasks: list[asyncio.Task[Any]] = []
        """All that were ever begun; the finished ones are dropped now and then."""
        self.handles: deque[asyncio.Handle] = deque()
        """What became due while it was held."""

    def open_tasks(self) -> list[asyncio.Task[Any]]:
        """Those that are not done."""
        self.tasks = [task for task in self.tasks if not task.done()]
        return self.tasks


class Task(asyncio.Task[Any]):
    """A task that a set keeps in an order that comes from its birth in this loop, and not from its address."""

    def __init__(self, *args: Any, births: Iterator[int], **kwargs: Any) -> None:
        self._birth = next(births)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._birth


class Future(asyncio.Future[Any]):
    """As `Task`."""

    def __init__(self, *args: Any, births: Iterator[int], **kwargs: Any) -> None:
        self._birth = next(births)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._birth
