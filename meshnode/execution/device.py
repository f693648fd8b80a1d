"""One worker process and its queue: what the queue decides is done, and every job gets one end.

A job waits for one future at a time: for its turn, then for what its run brings, which may be the run of several jobs.
A slot is free again when the worker lets go of it, not when its job stopped waiting.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from meshnode.config import Execution as Settings
from meshnode.errors import (
    DeadlineExceeded,
    MeshError,
    ModelRefused,
    OutOfMemory,
    ProtocolError,
    Refused,
    ResultLost,
    WorkerCrashed,
)
from meshnode.execution import control
from meshnode.execution.batching import cut, offer_of, rows_of, stack
from meshnode.execution.blame import Blame, taken_s
from meshnode.execution.control import Place, Ran, Run
from meshnode.execution.events import (
    Again,
    Effect,
    Event,
    Expired,
    Finished,
    Overdue,
    Prove,
    Proven,
    Ready,
    Start,
    Widened,
    Withdraw,
)
from meshnode.execution.handover import Answer, Outlet, hand_over, lay_down
from meshnode.execution.job import Done, Job
from meshnode.execution.memory import Memory
from meshnode.execution.pace import WIDE_AGAIN
from meshnode.execution.process import Incarnation, WorkerProcess
from meshnode.execution.proving import Prover
from meshnode.execution.quarantine import Quarantine
from meshnode.execution.queue import TaskQueue, overdue
from meshnode.execution.rules import CPU, Rules
from meshnode.execution.runs import Open, Running, blame, fail
from meshnode.wire.messages import Digest, TaskId, TensorSpec
from meshnode.wire.tensors import Buffer

log = logging.getLogger(__name__)

TRIES = 3
"""Workers for an accelerator that does not work, before it is given up until the agent starts again."""
ACCELERATOR_TIMES = 20
"""Loading may take so much longer there: TensorRT builds engines for minutes."""


class Device:
    """See the module's docstring.

    Args:
        memory_bytes: what models may take together.
        changed: told when the worker came or went, or what it has loaded changed.
        condemned: told of a model that is not run here any more, and why.
        idle: its work gets the processor time that nobody else wants.
    """

    def __init__(
        self,
        settings: Settings,
        provider: str,
        slots: int,
        *,
        folder: Path,
        answer_bytes_max: int,
        address_space_bytes: int | None,
        memory_bytes: int,
        rules: Rules,
        quarantine: Quarantine,
        changed: Callable[[], None],
        condemned: Callable[[Digest, str], None],
        idle: bool = False,
    ) -> None:
        self.provider = provider
        self.queue = TaskQueue(settings, slots)
        self.process = WorkerProcess(
            provider=provider,
            threads=settings.threads,
            slots=slots,
            arena_bytes=settings.arena_bytes,
            answer_bytes_max=answer_bytes_max,
            address_space_bytes=address_space_bytes,
            folder=folder,
            rules=rules,
            changed=self._up,
            loaded=self._loaded,
            died=self._died,
            tries_max=0 if provider == CPU else TRIES,
            idle=idle,
        )
        self._settings = settings
        load_s = settings.load_timeout_s * (1 if provider == CPU else ACCELERATOR_TIMES)
        self.blame = Blame(load_s, quarantine, partial(taken_s, self.process), self.process.kill, condemned)
        self._changed = changed
        self.prover = Prover(self.process)
        self.memory = Memory(memory_bytes, self.process, self.queue.running, changed, self._narrowed)
        self._outlet = Outlet(self.process, answer_bytes_max, settings.arena_bytes // 8)
        self._open: dict[TaskId, Open] = {}
        self._runs: dict[int, Running] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    async def stop(self, error: MeshError) -> None:
        """End the worker; what waits or runs ends with the error. `process.start` begins anew."""
        self.give_up(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self.process.stop()
        self.blame.forget()
        await asyncio.gather(*self._work, return_exceptions=True)

    def give_up(self, error: MeshError, which: Callable[[Open], bool] = lambda it: True) -> int:
        """End these jobs with the error, now; how many there were. What runs is stopped."""
        given_up = [it for it in self._open.values() if which(it)]
        for it in given_up:
            if it.job.once and it.begun and error.untouched:
                it.unwanted = ResultLost(f"the run was ended here before it was done: {error}")
            else:
                it.unwanted = type(error)(str(error), hint=error.hint, retry_after_s=error.retry_after_s)
            fail(it, it.unwanted)
            self._left(it)
        return len(given_up)

    async def run(self, job: Job) -> Done:
        """Run a job in its turn; raises what `Execution.run` raises."""
        if job.task in self._open:
            raise Refused("this task is already running here", retry_after_s=0.1)
        it = Open(job, time.monotonic(), asyncio.get_running_loop().create_future())
        self._open[job.task] = it
        try:
            self.apply(offer_of(job, keyed=self._settings.batch_max > 1 and not self.queue.idle))
            while (done := await it.turn) is None:
                if it.unwanted is not None:
                    raise it.unwanted
                it.turn = asyncio.get_running_loop().create_future()
                if (done := await self._alone(it)) is not None:
                    break
            return done
        finally:
            del self._open[job.task]
            self._left(it)
            if it.owes:
                self.apply(Finished(job.task, None))
            if it.answer is not None:
                self._outlet.discard(it.answer)

    def apply(self, event: Event | None) -> None:
        """Tell the queue, and do what it wants."""
        for effect in self.queue.handle(time.monotonic(), event):
            self._do(effect)
        due = self.queue.next_deadline()
        if due is None or (self._timer is not None and self._timer_at <= due):
            return  # a timer that comes too early costs less than one that is set anew for each task
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._tick)

    # --- the queue's wishes ---

    def _tick(self) -> None:
        self._timer = None
        self.apply(None)

    def _do(self, effect: Effect) -> None:
        it = self._open.get(effect.task)
        match effect:
            case Start(task, mates, wide):
                jobs = [known for each in (task, *mates) if (known := self._open.get(each)) is not None]
                if mates:
                    self._together(jobs)
                elif it is not None:
                    it.owes, it.wide = True, wide
                    if not it.turn.done():
                        it.turn.set_result(None)
                else:
                    self.apply(Finished(task, None))
            case Expired():
                fail(it, DeadlineExceeded("the task's time ran out while it waited at this node; it was not run"))
            case Overdue(_, backlog_s) if it is not None:
                fail(it, overdue(it.job.max_wait_s, backlog_s))
            case Prove(_, model):
                if it is not None:
                    self._go(self._prove(it.job))
                else:
                    self.apply(Proven(model, None))

    def _up(self, up: bool) -> None:
        if not up:
            self.memory.forget()
            self._outlet.forget()
        self.apply(Ready(up))
        self._changed()

    def _left(self, it: Open) -> None:
        """A job does not wait any more: it leaves the queue, and a run that nobody waits for is stopped."""
        self.apply(Withdraw(it.job.task))
        run = it.run
        if run is not None and run.id in self._runs and all(other.turn.done() for other in run.jobs):
            run.abandon()

    # --- runs ---

    async def _alone(self, it: Open) -> Done | None:
        """Run one job; None when its worker was gone before it began, and it waits again."""
        job, life = it.job, self.process.life
        if life is None:
            self._wait_again(it)
            return None
        self.memory.use(job.model)
        body, place, fd = await hand_over(life.inbound, job.body)
        try:
            if self.process.life is not life:
                self._wait_again(it)  # its block is gone with that life
                return None
            run = self._running([it], life, place)
            run.wide = it.wide
            self._ask(run, job, job.inputs, body, fd)
        finally:
            if fd is not None:
                os.close(fd)
        queue_s = run.began - it.arrived
        await it.turn
        answer, it.answer = it.answer, None
        assert answer is not None
        ran = answer.message
        data = await self._outlet.take(answer)
        return self._done(ran, ran.outputs, data, queue_s, 1)

    def _wait_again(self, it: Open) -> None:
        it.owes = False
        self.apply(Again(it.job.task, alone=False))

    def _together(self, jobs: list[Open]) -> None:
        """Run several jobs as one."""
        life = self.process.life
        assert life is not None, "the queue starts nothing while the worker is away"
        asked = [it.job for it in jobs]
        rows = rows_of(asked)
        specs, parts = stack(asked, rows)
        try:
            self.memory.use(asked[0].model)
            laid = lay_down(life.inbound, parts)
        except OutOfMemory:
            laid = None
        if laid is None:
            self.apply(Again(asked[0].task, alone=False))
            return
        run = self._running(jobs, life, laid[1], rows)
        self._ask(run, asked[0], specs, laid[0], None)

    def _running(self, jobs: list[Open], life: Incarnation, place: Place | None, rows: tuple[int, ...] = ()) -> Running:
        digest, grace_s = jobs[0].job.model.digest, self._settings.cancel_grace_s
        loads = partial(self.blame.loads, digest)
        return Running(self.process.next_id(), jobs, life, place, self.process, grace_s, loads, rows)

    def _ask(self, run: Running, job: Job, specs: tuple[TensorSpec, ...], body: bytes, fd: int | None) -> None:
        for it in run.jobs:
            it.run, it.owes = run, False
        self._runs[run.id] = run
        if job.model.digest not in self.memory.ready:
            self.blame.begin(job.model)
        frees = self._outlet.given_back()
        message = Run(
            run.id,
            job.model.digest,
            str(job.model.path),
            specs,
            job.outputs,
            body,
            run.place,
            frees,
            run.rows,
            run.wide,
        )
        self.process.begin(run.id, message, fd, lambda said, out: self._ended(run, said, out))
        run.watch()

    def _ended(self, run: Running, said: control.FromWorker | MeshError, fd: int | None) -> None:
        """The worker let go of a run, one way or another."""
        del self._runs[run.id]
        run.ended()
        first = run.jobs[0].job
        if not isinstance(said, WorkerCrashed):
            self.blame.ended(first.model.digest)
        if isinstance(said, MeshError):
            if isinstance(said, (OutOfMemory, ModelRefused)):
                self.memory.unload(first.model.digest)
            elif not isinstance(said, WorkerCrashed):
                self.memory.loaded(first.model.digest, None)
            if run.rows:
                # Who is to blame shows when each runs on its own; a dead worker's tasks with nothing beside them.
                died = isinstance(said, WorkerCrashed)
                for it in run.jobs:
                    it.deaths += died
                self.apply(Again(first.task, alone=died))
                return
            self.apply(Finished(first.task, None))
            fail(run.jobs[0], said if self.prover.busy else blame(run.jobs[0], said))
            return
        assert isinstance(said, Ran)
        self.memory.loaded(first.model.digest, said.loaded_bytes)
        self.apply(Finished(first.task, said.run_s))
        if self.memory.bloated:
            self.memory.settle()
        pace = self.queue.pace(first.model.digest)
        if pace.worth_widening and self.may_widen and not run.rows:
            pace.wide_due = WIDE_AGAIN
            self._go(self._widen(first))
        got = Answer(said, fd, run.life)
        if run.rows:
            self._share(run, got)
        elif run.jobs[0].turn.done():
            self._outlet.discard(got)
        else:
            run.jobs[0].answer = got
            run.jobs[0].turn.set_result(None)

    def _share(self, run: Running, got: Answer) -> None:
        """Give each job of a batch its own outputs."""
        try:
            data = self._outlet.take_now(got)
            if data is None:
                self._go(self._share_later(run, got))
            else:
                self._cut(run, got.message, data)
        except MeshError as error:
            self._fail_all(run, error)

    async def _share_later(self, run: Running, got: Answer) -> None:
        try:
            self._cut(run, got.message, await self._outlet.take(got))
        except MeshError as error:
            self._fail_all(run, error)

    def _cut(self, run: Running, ran: Ran, data: Buffer) -> None:
        for it, (specs, body) in zip(run.jobs, cut(ran.outputs, data, run.rows), strict=True):
            if not it.turn.done():
                it.turn.set_result(self._done(ran, specs, body, run.began - it.arrived, len(run.jobs)))

    def _fail_all(self, run: Running, error: MeshError) -> None:
        for it in run.jobs:
            fail(it, WorkerCrashed(str(error)) if isinstance(error, ProtocolError) else error)

    def _done(self, ran: Ran, specs: tuple[TensorSpec, ...], body: Buffer, queue_s: float, batch: int) -> Done:
        backlog_s = self.queue.backlog_s(time.monotonic())
        return Done(specs, body, queue_s, ran.run_s, self.provider, ran.precision, batch, backlog_s)

    # --- what is found out about models ---

    def _loaded(self, digest: Digest) -> None:
        self.blame.loaded(digest)
        if digest in self.memory.models:
            self.memory.loaded(digest, None)

    def _narrowed(self, digest: Digest) -> None:
        self.apply(Widened(digest, None))

    @property
    def may_widen(self) -> bool:
        """Whether there are threads for more than one run, and nothing to do at this moment."""
        return self.queue.slots > 1 and self.provider == CPU and not self.queue.in_flight and not self.memory.tight

    async def _widen(self, job: Job) -> None:
        event, grown = await self.prover.widen(job.model, job.inputs)
        there = not event.ok or self.memory.widened(job.model.digest, grown)
        self.apply(event if there else Widened(job.model.digest, None))

    async def _prove(self, job: Job) -> None:
        self.apply(await self.prover.judge(job.model, job.inputs))

    def _died(self, code: int, why: str) -> None:
        jobs = [it.job for run in self._runs.values() for it in run.jobs]
        self.blame.died(code, why, jobs, proving=bool(self.prover.busy))

    def _go(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
