"""Others' tasks at this node: each runs once, however often it is asked for, and outlives the link it came over.

The shell around `meshnode.tasks.kept`. A run belongs to whoever waits for it. When the last one says that it is not
wanted it ends at once; when the last one's link broke, 2 s later: the submitter asks for the result over another link,
or the client goes to another agent with the same task. One that must not run twice is left to its end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from meshnode.errors import MeshError, Refused, ResultLost, UnknownTask
from meshnode.links.link import Reply
from meshnode.tasks.kept import Kept, check_same, gone
from meshnode.wire.messages import Infer, NodeId, ResultAsk, TaskId

ORPHAN_S = 2.0

Run = Callable[[Infer, memoryview, NodeId], Awaitable[Reply]]
Lost = Callable[[], bool]
"""Whether the link that a request came over is gone."""


@dataclass(slots=True)
class _Running:
    message: Infer
    body: memoryview
    owners: set[NodeId]
    work: asyncio.Task[Reply]
    waiters: int = 0


@dataclass(slots=True)
class Runs:
    """See the module's docstring.

    Args:
        run: run a task of that submitter here, now.
        now: the monotonic clock.
    """

    run: Run
    now: Callable[[], float] = time.monotonic
    kept: Kept = field(default_factory=Kept)
    _running: dict[TaskId, _Running] = field(default_factory=dict)
    _timer: asyncio.TimerHandle | None = None

    @property
    def tasks(self) -> tuple[TaskId, ...]:
        """Those that run or wait here."""
        return tuple(self._running)

    def knows(self, task: TaskId) -> bool:
        """Whether the task runs here, or did a moment ago, for another node."""
        return task in self._running or self.kept.find(self.now(), task) is not None

    async def infer(self, message: Infer, body: memoryview, submitter: NodeId, lost: Lost) -> Reply:
        """The answer of a task; raises what ended it."""
        task, now = TaskId(message.task), self.now()
        running = self._running.get(task)
        if running is not None:
            check_same((running.message, running.body), message, body)
            running.owners.add(submitter)
            return await self._wait(running, lost)
        if (reply := self.kept.repeat(now, message, body, submitter)) is not None:
            return _whole(reply)
        if self.kept.is_given_up(now, submitter, message):
            raise Refused("this attempt was given up: its submitter was told that it never came")
        if message.once:
            self.kept.check_room()
        work = asyncio.get_running_loop().create_task(self._work(task, message, body, submitter))
        running = self._running[task] = _Running(message, body, {submitter}, work)
        work.add_done_callback(_seen)
        return await self._wait(running, lost)

    async def result(self, ask: ResultAsk, submitter: NodeId, lost: Lost) -> Reply:
        """What became of a task whose answer did not arrive.

        Raises what ended it, UnknownTask when it has not begun here, ResultLost when that is not known any more.
        """
        task, now = TaskId(ask.task), self.now()
        running = self._running.get(task)
        if running is not None and submitter in running.owners:
            return await self._wait(running, lost)
        ended = self.kept.find(now, task)
        if ended is None or submitter not in ended.owners:
            self.kept.give_up(now, submitter, task, ask.attempt)
            raise UnknownTask(f"task {ask.task} has not begun at this node")
        if ended.result is not None:
            return _whole(ended.result)
        raise ended.error or gone()

    async def stop(self) -> None:
        """End what runs."""
        if self._timer is not None:
            self._timer.cancel()
        works = [running.work for running in self._running.values()]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    async def _work(self, task: TaskId, message: Infer, body: memoryview, submitter: NodeId) -> Reply:
        try:
            reply = await self.run(message, body, submitter)
        except MeshError as error:
            if not error.untouched:
                self.kept.ended(self.now(), message, body, self._running[task].owners, error=error)
            raise
        except asyncio.CancelledError:
            ended = ResultLost("the run was ended here: nobody waited for it any more")
            if task in self._running:
                self.kept.ended(self.now(), message, body, self._running[task].owners, error=ended)
            raise
        else:
            nbytes = sum(memoryview(part).nbytes for part in reply.body)
            owners = self._running[task].owners
            self.kept.ended(self.now(), message, body, owners, result=reply, nbytes=nbytes)
            self._tidy()
            return reply
        finally:
            self._running.pop(task, None)

    async def _wait(self, running: _Running, lost: Lost) -> Reply:
        running.waiters += 1
        try:
            return await asyncio.shield(running.work)
        finally:
            running.waiters -= 1
            if not running.waiters and not running.work.done():
                if not lost():
                    running.work.cancel()
                elif not running.message.once:  # that one is never begun again: let it end
                    asyncio.get_running_loop().call_later(ORPHAN_S, self._end_orphan, running)

    def _end_orphan(self, running: _Running) -> None:
        if not running.waiters:
            running.work.cancel()

    def _tidy(self) -> None:
        """Let go of results when their time is over, even if nothing else happens."""
        if self._timer is None and (due := self.kept.next_deadline()) is not None:
            delay_s = max(0.0, due - self.now())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.kept.expire(self.now())
        self._tidy()


def _whole(reply: object) -> Reply:
    assert isinstance(reply, Reply)
    return reply


def _seen(work: asyncio.Task[Reply]) -> None:
    """Nobody may be waiting for its error."""
    if not work.cancelled():
        work.exception()
