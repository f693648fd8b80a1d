"""What the queue of a worker is told, and what it wants done."""

from __future__ import annotations

from collections.abc import Hashable

from msgspec import Struct

from meshnode.wire.messages import Digest, Priority, TaskId


class Offer(Struct, frozen=True):
    """A task wants in.

    `alone`: it has killed a worker before, or may have, and runs only by itself. `key`: tasks with the same one may
    run as one, `nbytes` are its tensors; None for a task that runs on its own. `max_wait_s`: no later than that, or
    not at all.
    """

    task: TaskId
    model: Digest
    deadline: float
    priority: Priority = "normal"
    alone: bool = False
    foreign: bool = False
    key: Hashable | None = None
    nbytes: int = 0
    max_wait_s: float | None = None


class Hold(Struct, frozen=True):
    """A submitter was quoted: keep a place for a moment, about the two round trips until the task can be here.

    For 0 s: it went elsewhere, and the place is free again.
    """

    task: TaskId
    model: Digest
    hold_s: float


class Finished(Struct, frozen=True):
    """A run ended, of one task or of those that began with it; `run_s` is None when it says nothing about speed."""

    task: TaskId
    run_s: float | None


class Again(Struct, frozen=True):
    """A run ended without telling who of its tasks is to blame: each waits again, to run on its own.

    `alone`: the worker died, so nothing else may run beside them.
    """

    task: TaskId
    alone: bool


class Withdraw(Struct, frozen=True):
    """Nobody wants the task any more. A running one goes on until its worker lets go of it."""

    task: TaskId


class Proven(Struct, frozen=True):
    """Tasks of the model may (True) or may not (False) run as one; None when nobody found out."""

    model: Digest
    ok: bool | None


class Ready(Struct, frozen=True):
    """The worker can (True) or cannot (False) take work."""

    up: bool


class Widened(Struct, frozen=True):
    """A run of the model on all threads takes so long, and is or is not worth it; None: nobody knows any more."""

    model: Digest
    ok: bool | None
    run_s: float = 0.0


Event = Offer | Hold | Finished | Again | Withdraw | Proven | Widened | Ready


class Start(Struct, frozen=True):
    """Give the task to the worker, and with it, as one run, its mates; `wide`: on all threads."""

    task: TaskId
    mates: tuple[TaskId, ...] = ()
    wide: bool = False


class Expired(Struct, frozen=True):
    """The task's deadline passed while it waited; it was not run."""

    task: TaskId


class Overdue(Struct, frozen=True):
    """The task waited for as long as its submitter let it, or has less time left than a run takes while others wait;
    so much work is still here.
    """

    task: TaskId
    backlog_s: float


class Prove(Struct, frozen=True):
    """Two tasks of a model wait together: find out whether they could run as one, on inputs like this task's."""

    task: TaskId
    model: Digest


Effect = Start | Expired | Overdue | Prove
