"""What a device keeps of each job and of each run of its worker, and how a run is ended before its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from meshnode.errors import DeadlineExceeded, MeshError, PoisonTask, WorkerCrashed
from meshnode.execution.control import Place, Terminate
from meshnode.execution.handover import Answer
from meshnode.execution.job import Done, Job
from meshnode.execution.process import Incarnation, WorkerProcess


@dataclass(eq=False, slots=True)
class Open:
    """A job that has no end yet, and what it waits for."""

    job: Job
    arrived: float
    turn: asyncio.Future[Done | None]
    run: Running | None = None
    answer: Answer | None = None
    wide: bool = False
    """It has all threads."""
    owes: bool = False
    """The queue counts it as running, and no run of the worker will end that."""
    unwanted: MeshError | None = None
    deaths: int = 0
    """Workers that died here under a batch with it."""

    @property
    def begun(self) -> bool:
        """Whether it is with the worker, or on its way there."""
        return self.owes or self.run is not None


@dataclass(eq=False, slots=True)
class Running:
    """What the worker does at this moment, for one job or several.

    A run that ignores its end for `grace_s` has its worker killed; a load cannot be stopped, and has its own limit.
    """

    id: int
    jobs: list[Open]
    life: Incarnation
    place: Place | None
    process: WorkerProcess
    grace_s: float
    loads: Callable[[], bool]
    """Whether the model is still being loaded for it."""
    rows: tuple[int, ...] = ()
    wide: bool = False
    began: float = field(default_factory=time.monotonic)
    _abandoned: bool = False
    _due: asyncio.TimerHandle | None = None
    _insist: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Be there when the time of the most urgent that still waits is up; end the run when none does."""
        left = [it.job.deadline for it in self.jobs if not it.turn.done()]
        if not left:
            self.abandon()
            return
        delay_s = max(0.0, min(left) - time.monotonic())
        self._due = asyncio.get_running_loop().call_later(delay_s, self._overdue)

    def abandon(self) -> None:
        """Stop it."""
        if self._abandoned:
            return
        self._abandoned = True
        self.process.tell(Terminate(self.id))
        self._insist = asyncio.get_running_loop().call_later(self.grace_s, self._kill)

    def _kill(self) -> None:
        if self.loads():
            self._insist = asyncio.get_running_loop().call_later(self.grace_s, self._kill)
        else:
            self.process.kill(f"a run ignored its end for {self.grace_s:g} s")

    def ended(self) -> None:
        """The worker let go of it, one way or another."""
        for timer in (self._due, self._insist):
            if timer is not None:
                timer.cancel()
        if self.place is not None and self.place.offset >= 0:
            self.life.inbound.free(self.place.offset)
        for it in self.jobs:
            it.run = None  # they point at each other: else each would be left to the garbage collector

    def _overdue(self) -> None:
        now = time.monotonic()
        for it in self.jobs:
            if it.job.deadline <= now:
                fail(it, DeadlineExceeded("the task's time ran out while the model ran; it was stopped"))
        self.watch()


def blame(it: Open, error: MeshError) -> MeshError:
    """What a job is told that ran alone when its worker died: a batch with it may have died before."""
    if not it.deaths or not isinstance(error, WorkerCrashed):
        return error
    return PoisonTask(
        f"the task killed the worker that ran it {it.deaths + 1} times, at last alone: {error}",
        hint="run the model on this input alone to find the fault; it is not tried again",
    )


def fail(it: Open | None, error: MeshError) -> None:
    """End what the job waits for with an error, unless it has its answer."""
    if it is not None and not it.turn.done():
        it.turn.set_exception(error)
        it.turn.exception()  # whoever waited may have gone: then nobody is to be told
