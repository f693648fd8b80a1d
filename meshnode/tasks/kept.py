"""What a node remembers of others' tasks that ended here, so that a broken link costs an answer and no second run.

A table: it is told the time in monotonic seconds and sets no timer. Results stay for 30 s and up to 64 MiB, those not
asked for the longest leave first. That a task was here is known for 120 s, of the last 10,000; of a task that must not
run twice until its own time is over.

Whoever asks for the result of a task that never came is promised that it will not begin either: its bytes may still be
on their way on the old connection.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from meshnode.errors import InvalidInput, MeshError, Refused, ResultLost
from meshnode.wire.messages import Infer, NodeId, TaskId
from meshnode.wire.tensors import Buffer

RESULT_S = 30.0
RESULT_BYTES_MAX = 64 * 1024**2
KNOWN_S = 120.0
KNOWN_MAX = 10_000


@dataclass(slots=True)
class Ended:
    """A task that ended here. `given` and `result` are None once they are not kept any more."""

    owners: set[NodeId]
    once: bool
    until: float
    """It is known that long."""
    error: MeshError | None = None
    given: tuple[Infer, Buffer] | None = None
    result: Any = None
    nbytes: int = 0
    kept_until: float = 0.0


@dataclass(slots=True)
class Kept:
    """See the module's docstring."""

    bytes: int = 0
    _known: dict[TaskId, Ended] = field(default_factory=dict)
    _once: dict[TaskId, Ended] = field(default_factory=dict)
    _once_due: float = math.inf
    _results: dict[TaskId, Ended] = field(default_factory=dict)
    _given_up: dict[tuple[NodeId, TaskId], tuple[float, int]] = field(default_factory=dict)

    def ended(
        self,
        now: float,
        message: Infer,
        body: Buffer,
        owners: set[NodeId],
        *,
        result: Any = None,
        nbytes: int = 0,
        error: MeshError | None = None,
    ) -> None:
        """A task ended here, with a result of so many bytes or an error."""
        task = TaskId(message.task)
        self._drop(task)
        until = now + (max(KNOWN_S, message.deadline_s) if message.once else KNOWN_S)
        it = Ended(owners, message.once, until, error)
        nbytes += memoryview(body).nbytes
        if error is None and nbytes <= RESULT_BYTES_MAX:
            it.given, it.result, it.nbytes = (message, body), result, nbytes
            it.kept_until = now + RESULT_S
            self._results[task] = it
            self.bytes += it.nbytes
        if message.once:
            self._once[task] = it
            self._once_due = min(self._once_due, it.until)
        else:
            self._known[task] = it
        self.expire(now)

    def find(self, now: float, task: TaskId) -> Ended | None:
        """What is known of a task; asking for a result keeps it."""
        self.expire(now)
        it = self._once.get(task) or self._known.get(task)
        if it is not None and it.result is not None:
            it.kept_until = now + RESULT_S
            self._results[task] = self._results.pop(task)
        return it

    def repeat(self, now: float, message: Infer, body: Buffer, owner: NodeId) -> Any:
        """The result, for who sends the same task again; None when it is to be run.

        Raises what ended a task that must not run twice, ResultLost when that is not known any more, InvalidInput when
        the task is another one.
        """
        it = self.find(now, TaskId(message.task))
        if it is None:
            return None
        if it.given is not None:
            check_same(it.given, message, body)
            it.owners.add(owner)
            return it.result
        if it.once or message.once:
            raise it.error or gone()
        return None

    def check_room(self) -> None:
        """Raises Refused when no more tasks can be remembered that must not run twice."""
        if len(self._once) >= KNOWN_MAX:
            raise Refused(f"{len(self._once)} tasks that must not run twice are remembered here, the limit")

    def give_up(self, now: float, owner: NodeId, task: TaskId, attempt: int) -> None:
        """The task has not come, and shall not begin when this attempt still does."""
        self._given_up.pop((owner, task), None)
        self._given_up[owner, task] = (now + KNOWN_S, attempt)
        while len(self._given_up) > KNOWN_MAX:
            del self._given_up[next(iter(self._given_up))]

    def is_given_up(self, now: float, owner: NodeId, message: Infer) -> bool:
        """Whether the submitter was promised that this attempt does not begin."""
        until, attempt = self._given_up.get((owner, TaskId(message.task)), (0.0, 0))
        return until > now and message.attempt <= attempt

    def next_deadline(self) -> float | None:
        """When `expire` has something to do, if nothing else happens."""
        first = next(iter(self._results.values()), None)
        return None if first is None else first.kept_until

    def expire(self, now: float) -> None:
        """Forget what is too old or too much."""
        for task, it in _until(self._results, lambda it: it.kept_until > now and self.bytes <= RESULT_BYTES_MAX):
            self._let_go(task, it)
        for task, it in _until(self._known, lambda it: it.until > now and len(self._known) <= KNOWN_MAX):
            del self._known[task]
            self._let_go(task, it)
        if now >= self._once_due:
            for task in [task for task, it in self._once.items() if it.until <= now]:
                self._let_go(task, self._once.pop(task))
            self._once_due = min((it.until for it in self._once.values()), default=math.inf)

    def _let_go(self, task: TaskId, it: Ended) -> None:
        if self._results.pop(task, None) is not None:
            self.bytes -= it.nbytes
        it.given = it.result = None

    def _drop(self, task: TaskId) -> None:
        before = self._known.pop(task, None) or self._once.pop(task, None)
        if before is not None:
            self._let_go(task, before)


def _until(table: dict[TaskId, Ended], stays: Any) -> Iterator[tuple[TaskId, Ended]]:
    """From the oldest on, until one may stay."""
    while table:
        task = next(iter(table))
        if stays(table[task]):
            return
        yield task, table[task]
        table.pop(task, None)


def check_same(given: tuple[Infer, Buffer], message: Infer, body: Buffer) -> None:
    """A task id stands for one task. Raises InvalidInput: nobody gets another's result by knowing its id."""
    before, content = given
    fields = ("model", "inputs", "outputs", "zone", "provider", "then")
    same = all(getattr(before, name) == getattr(message, name) for name in fields)
    # As bytes: two memoryviews are compared item by item.
    if not same or memoryview(content).nbytes != memoryview(body).nbytes or bytes(content) != bytes(body):
        raise InvalidInput(
            f"task {message.task} is another task at this node", hint="a task id is 128 random bits, new for each task"
        )


def gone() -> ResultLost:
    """The error of a result that was here."""
    return ResultLost("the task was here, and its result is not kept any more")
