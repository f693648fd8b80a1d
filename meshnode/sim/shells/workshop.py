"""What stands where execution stands: tasks take time here, and nothing is computed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from meshnode.errors import DeadlineExceeded, Refused
from meshnode.execution.job import Done, Job, LoadedModel, ModelFile
from meshnode.sim.shells.loop import SimLoop
from meshnode.wire.messages import Digest, Quote, QuoteAsk, TaskId

LOAD_S = 0.3


class Workshop:
    """Runs tasks by waiting for as long as they take; one after the other. What comes out is what went in."""

    slots = 1

    def __init__(
        self, service_s: float, loop: SimLoop, *, loaded: Callable[[], None], began: Callable[[TaskId], None]
    ) -> None:
        self.ran = 0
        self._service_s = service_s
        self._loop = loop
        self._on_loaded = loaded
        self._on_began = began
        self._loaded: dict[Digest, LoadedModel] = {}
        self._queue: deque[asyncio.Future[None]] = deque()
        self._running: asyncio.Future[None] | None = None
        self._here: dict[TaskId, asyncio.Future[None]] = {}
        self._foreign: dict[TaskId, None] = {}

    @property
    def busy(self) -> int:
        """Tasks that are here."""
        return len(self._here)

    def quote(self, ask: QuoteAsk, *, fetch_bytes: int, size_bytes: int, hold_s: float, foreign: bool = False) -> Quote:
        """How long it would take."""
        return Quote(backlog_s=self.busy * self._service_s, service_s=self._service_s, slots=self.slots, hold_s=hold_s)

    def release(self, task: TaskId, model: Digest) -> None:
        """No place is kept."""

    def hand_back(self, error: Refused) -> int:
        """Give up what waits here for others; how many."""
        waiting = [self._here[task] for task in self._foreign if not self._here[task].done()]
        for turn in waiting:
            turn.set_exception(error)
        return len(waiting)

    def loaded(self) -> list[LoadedModel]:
        """What was run or asked for."""
        return list(self._loaded.values())

    def held(self, model: Digest) -> tuple[bool, float | None]:
        """What an advert says of a model: whether it is in memory, and its service time."""
        return model in self._loaded, self._service_s if model in self._loaded else None

    async def load(self, model: ModelFile) -> None:
        """Have it in memory."""
        await asyncio.sleep(LOAD_S)
        self._have(model.digest)

    def _have(self, model: Digest) -> None:
        if model not in self._loaded:
            self._loaded[model] = LoadedModel(model, 1000, 0.0, 0, self._service_s, "none")
            self._on_loaded()

    async def run(self, job: Job) -> Done:
        """Take its turn and its time. Raises DeadlineExceeded, Refused."""
        began = self._loop.time()
        turn = self._here[job.task] = self._loop.create_future()
        if job.foreign:
            self._foreign[job.task] = None
        self._queue.append(turn)
        self._next()
        try:
            async with asyncio.timeout_at(job.deadline):
                await turn
                queue_s = self._loop.time() - began
                self._on_began(job.task)
                self._have(job.model.digest)
                await asyncio.sleep(self._service_s)
                self.ran += 1
                return Done(job.inputs, bytes(job.body), queue_s, self._service_s, "none")
        except TimeoutError as error:
            raise DeadlineExceeded("the task's time was up") from error
        finally:
            if self._here.get(job.task) is turn:
                del self._here[job.task]
                self._foreign.pop(job.task, None)
            if self._running is turn:
                self._running = None
            self._next()

    def _next(self) -> None:
        while self._running is None and self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                self._running = turn
                turn.set_result(None)
