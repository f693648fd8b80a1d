"""What a device keeps of each job, of each run of its worker, and of each model in its memory."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from meshnode.errors import MeshError, PoisonTask, WorkerCrashed
from meshnode.execution.control import Place
from meshnode.execution.handover import Answer
from meshnode.execution.job import Done, Job
from meshnode.execution.process import Incarnation


@dataclass(slots=True)
class Loaded:
    """A model in the worker's memory; `used_at` is monotonic seconds."""

    bytes: int
    used_at: float


@dataclass(eq=False, slots=True)
class Open:
    """A job that has no end yet, and what it waits for."""

    job: Job
    arrived: float
    turn: asyncio.Future[Done | None]
    run: Running | None = None
    answer: Answer | None = None
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
    """What the worker does at this moment, for one job or several."""

    id: int
    jobs: list[Open]
    life: Incarnation
    place: Place | None
    rows: tuple[int, ...] = ()
    began: float = field(default_factory=time.monotonic)
    abandoned: bool = False
    due: asyncio.TimerHandle | None = None
    insist: asyncio.TimerHandle | None = None


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
