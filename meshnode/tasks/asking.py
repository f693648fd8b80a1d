"""The lines of all kinds of tasks that look for a place: the shell around `meshnode.tasks.line`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

from meshnode.errors import DeadlineExceeded, NoCapacity
from meshnode.tasks.line import Line

T = TypeVar("T")
Turn = asyncio.Future[None]


@dataclass(slots=True)
class _Kept:
    line: Line[Turn] = field(default_factory=Line)
    timer: asyncio.TimerHandle | None = None
    error: DeadlineExceeded | None = None


@dataclass(slots=True)
class Asking:
    """See the module's docstring."""

    now: Callable[[], float] = time.monotonic
    _lines: dict[Hashable, _Kept] = field(default_factory=dict)

    async def in_turn(self, kind: Hashable, deadline: float, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask when it is this task's turn among those of its kind. Raises what asking raises."""
        kept = self._lines.get(kind)
        if kept is None:
            kept = self._lines[kind] = _Kept()
        line = kept.line
        if kept.error is not None and line.too_late(self.now(), deadline):
            raise DeadlineExceeded(str(kept.error), hint=kept.error.hint)
        if not line.enter(self.now()):
            await self._wait(kind, kept, deadline)
        try:
            found = await ask()
        except NoCapacity as error:
            if error.retry_after_s is None:
                line.ended()
            else:
                line.refused(self.now(), error.retry_after_s)
            raise
        except BaseException:
            line.ended()
            raise
        else:
            line.placed()
            return found
        finally:
            self._call(kind, kept)

    def hopeless(self, kind: Hashable, soonest_s: float, error: DeadlineExceeded) -> None:
        """Nobody would be done with a task of this kind before so long: who has less time left is told the same."""
        if (kept := self._lines.get(kind)) is not None:
            kept.line.hopeless(self.now(), soonest_s)
            kept.error = error

    async def _wait(self, kind: Hashable, kept: _Kept, deadline: float) -> None:
        turn: Turn = asyncio.get_running_loop().create_future()
        place = kept.line.join(deadline, turn)
        self._call(kind, kept)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                kept.line.leave(place)
            else:
                kept.line.ended()  # it was its turn, and it went away
            self._call(kind, kept)
            raise

    def _call(self, kind: Hashable, kept: _Kept) -> None:
        """Those whose turn it is now; and again when the line opens."""
        line, now = kept.line, self.now()
        for turn in line.next(now):
            if turn.cancelled():
                line.ended()
            else:
                turn.set_result(None)
        if line.idle(now):
            self._lines.pop(kind, None)
        elif kept.timer is None and (due := line.next_deadline()) is not None:
            kept.timer = asyncio.get_running_loop().call_later(max(0.0, due - now), self._open, kind, kept)

    def _open(self, kind: Hashable, kept: _Kept) -> None:
        kept.timer = None
        self._call(kind, kept)
