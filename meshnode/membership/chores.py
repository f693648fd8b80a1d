"""Work of a part that goes on beside it, and ends with it. A failure of the network in it is only noted.

Work is given as a function and its arguments, not as a coroutine: what is cancelled before its first step was then
never made, and what comes after the end is not begun.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ParamSpec

from meshnode.errors import MeshError

log = logging.getLogger(__name__)
P = ParamSpec("P")


@dataclass(slots=True)
class Chores:
    """See the module's docstring. `failed` is what the log says before the error."""

    failed: str = ""
    level: int = logging.DEBUG
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _over: bool = False

    def start(self, work: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do it beside everything else; nothing once `stop` was called."""
        if self._over:
            return

        async def quietly() -> None:
            try:
                await work(*args, **kwargs)
            except MeshError as error:  # only a missing answer: whoever needs it asks again
                log.log(self.level, "%s%s", self.failed, error)

        task = asyncio.ensure_future(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End what is under way, and begin nothing more."""
        self._over = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
