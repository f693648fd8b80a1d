"""What stands where execution stands: tasks take time here, and nothing is computed."""

from __future__ import annotations

import asyncio
from collections import deque

from meshnode.errors import DeadlineExceeded, Refused
from meshnode.execution.job import Done, Job
from meshnode.sim.shells.loop import SimLoop
from meshnode.wire.messages import Quote, QuoteAsk, TaskId


class Workshop:
    """Runs tasks by waiting for as long as they take; one after the other. What comes out is what went in."""

    def __init__(self, service_s: float, loop: SimLoop) -> None:
        self.ran = 0
        self._service_s = service_s
        self._loop = loop
        self._queue: deque[asyncio.Future[None]] = deque()
        self._running: asyncio.Future[None] | None = None
        self._here: dict[TaskId, asyncio.Future[None]] = {}

    @property
    def busy(self) -> int:
        """Tasks that are here."""
        return len(self._here)

    def quote(self, ask: QuoteAsk, *, fetch_bytes: int, size_bytes: int, hold_s: float) -> Quote:
        """How long it would take."""
        return Quote(backlog_s=self.busy * self._service_s, service_s=self._service_s, slots=1, hold_s=hold_s)

    def hand_back(self, task: TaskId, error: Refused) -> bool:
        """Give a task up that waits here; whether it did."""
        turn = self._here.get(task)
        if turn is None or turn.done():
            return False
        turn.set_exception(error)
        return True

    async def run(self, job: Job) -> Done:
        """Take its turn and its time. Raises DeadlineExceeded, Refused."""
        began = self._loop.time()
        turn = self._here[job.task] = self._loop.create_future()
        self._queue.append(turn)
        self._next()
        try:
            async with asyncio.timeout_at(job.deadline):
                await turn
                queue_s = self._loop.time() - began
                await asyncio.sleep(self._service_s)
                self.ran += 1
                return Done(job.inputs, bytes(job.body), queue_s, self._service_s, "none")
        except TimeoutError as error:
            raise DeadlineExceeded("the task's time was up") from error
        finally:
            if self._here.get(job.task) is turn:
                del self._here[job.task]
            if self._running is turn:
                self._running = None
            self._next()

    def _next(self) -> None:
        while self._running is None and self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                self._running = turn
                turn.set_result(None)
