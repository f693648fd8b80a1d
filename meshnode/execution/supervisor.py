"""Running models on this machine: the queue and the worker process of each device, as one thing to ask.

`run` waits for its turn, hands the tensors over, and answers with what the worker gave; what kills a worker, hangs it
or does not fit ends as a typed error here, and the agent lives. Which models exist is not known here: a job names its
file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.config import Execution as Settings
from meshnode.config import Links
from meshnode.errors import DeadlineExceeded, ExecutionFailed, ModelRefused, OutOfMemory, Refused, WorkerCrashed
from meshnode.execution import control
from meshnode.execution.control import Described, Ran, Run
from meshnode.execution.devices import Devices
from meshnode.execution.handover import hand_over, take
from meshnode.execution.job import Done, Job, LoadedModel, ModelFile, ProbeReport
from meshnode.execution.process import Incarnation, WorkerProcess
from meshnode.execution.queue import Effect, Event, Expired, Finished, Hold, Offer, Ready, Start, TaskQueue, Withdraw
from meshnode.wire.messages import Digest, Quote, QuoteAsk, TaskId
from meshnode.wire.tensors import Buffer

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
LOAD_BYTES_S = 500e6
"""What loading a model from disk is believed to take before it was seen: bytes a second."""
FREES_MAX = 16
ADDRESS_SPACE_SLACK = 16 * 1024**3


@dataclass(slots=True)
class _Loaded:
    bytes: int
    used_at: float


@dataclass(slots=True)
class _Device:
    """A worker and its queue."""

    process: WorkerProcess
    queue: TaskQueue
    turns: dict[TaskId, asyncio.Future[None]] = field(default_factory=dict)
    loaded: dict[Digest, _Loaded] = field(default_factory=dict)
    frees: list[int] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class Execution:
    """See the module's docstring.

    Args:
        folder: an empty folder for the workers to stand in.
        changed: told when providers or loaded models changed.
        answer_bytes_max: what the outputs of one task may be together.
    """

    def __init__(
        self,
        settings: Settings,
        devices: Devices,
        *,
        folder: Path,
        changed: Callable[[], None],
        answer_bytes_max: int = Links().body_bytes_max,
    ) -> None:
        self._settings = settings
        self._answer_bytes_max = answer_bytes_max
        self._machine = devices
        self._folder = folder
        self._changed = changed
        self._devices: list[_Device] = []
        self._stopping = False

    async def start(self) -> None:
        """Start a worker for the CPU and, where NVML shows GPUs, one for CUDA; they become ready by themselves."""
        slots = self._settings.concurrency or self._machine.cores
        limit = self._machine.memory_total + 2 * self._settings.arena_bytes + ADDRESS_SPACE_SLACK
        self._add(CPU, slots, limit)
        if self._settings.gpu and self._machine.gpus:
            self._add(CUDA, 1, None)  # a limit on the address space breaks CUDA

    async def stop(self) -> None:
        """End the workers; waiting jobs fail."""
        self._stopping = True
        for device in self._devices:
            if device.timer is not None:
                device.timer.cancel()
            for turn in device.turns.values():
                if not turn.done():
                    turn.set_exception(WorkerCrashed("the agent is stopping"))
                    turn.exception()
        await asyncio.gather(*(device.process.stop() for device in self._devices))

    async def ready(self) -> None:
        """Wait until the CPU worker can run. Raises WorkerCrashed."""
        await self._devices[0].process.ready()

    @property
    def providers(self) -> tuple[str, ...]:
        """Providers that a run really worked on."""
        return tuple(device.process.provider for device in self._devices if device.queue.up)

    @property
    def slots(self) -> int:
        """Runs at once, over all devices that are up."""
        return sum(device.queue.slots for device in self._devices if device.queue.up) or 1

    def service_s(self, model: Digest) -> float | None:
        """The learnt run time of a model on the fastest device."""
        return min((s for d in self._devices if (s := d.queue.service_s(model)) is not None), default=None)

    def quote(self, ask: QuoteAsk, *, fetch_bytes: int, size_bytes: int, hold_s: float) -> Quote:
        """How soon the task could be done here; keeps a place for `hold_s`. Raises Refused."""
        now = time.monotonic()
        model, task = Digest(ask.model), TaskId(ask.task)
        device = self._best(model, now, ask.provider)
        backlog_s, service_s = device.queue.quote(now, model)
        self._apply(device, Hold(task, model, hold_s))
        load_s = 0.0 if model in device.loaded else size_bytes / LOAD_BYTES_S + 0.01
        return Quote(
            backlog_s=backlog_s,
            service_s=service_s,
            slots=device.queue.slots,
            load_s=load_s,
            fetch_bytes=fetch_bytes,
            hold_s=hold_s,
        )

    async def run(self, job: Job) -> Done:
        """Run a job in its turn.

        Raises Refused, InvalidInput, ExecutionFailed, ModelRefused, OutOfMemory, WorkerCrashed, DeadlineExceeded.
        """
        arrived = time.monotonic()
        device = self._best(job.model.digest, arrived, job.provider)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        offer = Offer(job.task, job.model.digest, job.deadline, job.priority, alone=job.deaths > 0)
        if job.task in device.turns:
            raise ExecutionFailed("this task is already running here")
        device.turns[job.task] = turn
        run_s = None
        try:
            self._apply(device, offer)
            await turn
            queue_s = time.monotonic() - arrived
            done = await self._run(device, job, queue_s)
            run_s = done.run_s
            return done
        finally:
            del device.turns[job.task]
            self._apply(device, Withdraw(job.task))
            self._apply(device, Finished(job.task, run_s))

    def hand_back(self, task: TaskId, error: Refused) -> bool:
        """Give a task up that waits here; whether it did."""
        waiting = [turn for d in self._devices if (turn := d.turns.get(task)) is not None and not turn.done()]
        for turn in waiting:
            turn.set_exception(error)
        return bool(waiting)

    async def probe(self, path: Path) -> ProbeReport:
        """Load a model that is new here and describe it. Raises ModelRefused, InvalidInput, OutOfMemory."""
        process = self._devices[0].process
        await process.ready()
        id, run_s = process.next_id(), self._settings.probe_timeout_s
        limit_s = self._settings.load_timeout_s + run_s + self._settings.cancel_grace_s
        try:
            async with asyncio.timeout(limit_s):
                answer, _ = await process.ask(id, control.Probe(id, str(path), run_s))
        except TimeoutError:
            process.kill("a model did not load or run in time")
            raise ModelRefused(
                f"the model did not load and run within {limit_s:g} s",
                hint="load_timeout_s and probe_timeout_s, under [execution] in config.toml, allow it more",
            ) from None
        except WorkerCrashed as error:
            raise ModelRefused(f"the model kills the worker that loads it: {error}") from error
        assert isinstance(answer, Described)
        return ProbeReport(
            answer.inputs,
            answer.outputs,
            answer.memory_bytes,
            answer.run_s,
            answer.metadata,
            process.provider,
            process.runtime,
        )

    async def load(self, model: ModelFile) -> None:
        """Have a model in memory before the first task. Raises ModelRefused, OutOfMemory, WorkerCrashed."""
        device = self._devices[0]
        await device.process.ready()
        id = device.process.next_id()
        answer, _ = await device.process.ask(id, control.Load(id, model.digest, str(model.path)))
        assert isinstance(answer, Described)
        self._note_loaded(device, model.digest, answer.memory_bytes)

    async def unload(self, digest: Digest) -> None:
        """Forget a model everywhere."""
        for device in self._devices:
            if device.loaded.pop(digest, None) is not None and device.process.life is not None:
                id = device.process.next_id()
                await device.process.ask(id, control.Unload(id, digest))
        self._changed()

    def loaded(self) -> list[LoadedModel]:
        """What is in the workers' memory."""
        now = time.monotonic()
        return [
            LoadedModel(
                digest,
                it.bytes,
                now - it.used_at,
                device.queue.running(digest),
                device.queue.service_s(digest),
                device.process.provider,
            )
            for device in self._devices
            for digest, it in device.loaded.items()
        ]

    def vitals(self) -> tuple[int, float, int]:
        """(tasks waiting or running, seconds of backlog, tasks done since the start)."""
        now = time.monotonic()
        return (
            sum(device.queue.in_flight for device in self._devices),
            min((device.queue.backlog_s(now) for device in self._devices), default=0.0),
            sum(device.queue.done for device in self._devices),
        )

    # --- one device ---

    def _add(self, provider: str, slots: int, address_space_bytes: int | None) -> None:
        queue = TaskQueue(self._settings, slots)
        process = WorkerProcess(
            provider=provider,
            threads=self._settings.threads,
            slots=slots,
            arena_bytes=self._settings.arena_bytes,
            answer_bytes_max=self._answer_bytes_max,
            address_space_bytes=address_space_bytes,
            folder=self._folder,
            changed=lambda up: self._up(device, up),
        )
        device = _Device(process, queue)
        self._devices.append(device)
        process.start()

    def _up(self, device: _Device, up: bool) -> None:
        if not up:
            device.loaded.clear()
            device.frees.clear()
        self._apply(device, Ready(up))
        if not self._stopping:
            self._changed()

    def _best(self, model: Digest, now: float, provider: str) -> _Device:
        """The device that would finish first by what is known. Raises Refused."""
        able = [device for device in self._devices if provider in ("", device.process.provider)]
        up = [device for device in able if device.queue.up] or able[:1]
        if not up:
            raise Refused(f"this node has no {provider}")
        if len(up) == 1:
            return up[0]

        def finish_s(device: _Device) -> float:
            service_s = device.queue.service_s(model)
            return device.queue.backlog_s(now) + (0.0 if service_s is None else service_s)

        return min(up, key=finish_s)

    def _apply(self, device: _Device, event: Event | None) -> None:
        for effect in device.queue.handle(time.monotonic(), event):
            self._do(device, effect)
        if device.timer is not None:
            device.timer.cancel()
            device.timer = None
        due = device.queue.next_deadline()
        if due is not None and not self._stopping:
            delay_s = max(0.0, due - time.monotonic())
            device.timer = asyncio.get_running_loop().call_later(delay_s, self._apply, device, None)

    def _do(self, device: _Device, effect: Effect) -> None:
        turn = device.turns.get(effect.task)
        if turn is None or turn.done():
            return
        if isinstance(effect, Start):
            turn.set_result(None)
        elif isinstance(effect, Expired):
            turn.set_exception(DeadlineExceeded("the task's time ran out while it waited at this node; it was not run"))

    async def _run(self, device: _Device, job: Job, queue_s: float) -> Done:
        life = device.process.life
        if life is None:
            raise WorkerCrashed("the worker died before the task began")
        id = device.process.next_id()
        body, place, fd = await hand_over(life.inbound, job.body)
        frees, device.frees = tuple(device.frees), []
        message = Run(id, job.model.digest, str(job.model.path), job.inputs, job.outputs, body, place, frees)
        try:
            answer, answer_fd = await self._guarded(device, id, device.process.ask(id, message, fd), job.deadline)
        except OutOfMemory:
            device.loaded.pop(job.model.digest, None)
            raise
        finally:
            if fd is not None:
                os.close(fd)
            if place is not None and place.offset >= 0:
                life.inbound.free(place.offset)
        assert isinstance(answer, Ran)
        known = device.loaded.get(job.model.digest)
        if known is None:
            self._note_loaded(device, job.model.digest, answer.loaded_bytes or 0)
        else:
            known.used_at = time.monotonic()
        data = await self._take(device, life, answer, answer_fd)
        return Done(answer.outputs, data, queue_s, answer.run_s, device.process.provider)

    async def _guarded(
        self,
        device: _Device,
        id: int,
        answer: asyncio.Future[tuple[control.FromWorker, int | None]],
        deadline: float,
    ) -> tuple[control.FromWorker, int | None]:
        """Await a run; at the deadline, or when it is unwanted, stop it; a worker that ignores that is killed."""
        left_s = max(0.0, deadline - time.monotonic())
        try:
            done, _ = await asyncio.wait({answer}, timeout=left_s)
        except asyncio.CancelledError:
            self._abandon(device, id, answer)
            raise
        if done:
            return answer.result()
        self._abandon(device, id, answer)
        await asyncio.wait({answer})
        answer.exception()
        raise DeadlineExceeded("the task's time ran out while the model ran; it was stopped")

    def _abandon(self, device: _Device, id: int, answer: asyncio.Future[tuple[control.FromWorker, int | None]]) -> None:
        device.process.tell(control.Terminate(id))
        loop = asyncio.get_running_loop()

        def insist() -> None:
            if not answer.done():
                device.process.kill(f"a run ignored its end for {self._settings.cancel_grace_s:g} s")

        handle = loop.call_later(self._settings.cancel_grace_s, insist)

        def ended(future: asyncio.Future[tuple[control.FromWorker, int | None]]) -> None:
            handle.cancel()
            if not future.cancelled() and future.exception() is None:
                message, fd = future.result()
                if fd is not None:
                    os.close(fd)
                if isinstance(message, Ran) and message.place is not None and message.place.offset >= 0:
                    device.frees.append(message.place.offset)

        answer.add_done_callback(ended)

    async def _take(self, device: _Device, life: Incarnation, answer: Ran, fd: int | None) -> Buffer:
        """Copy the outputs, so that their block is free again before anybody has taken the bytes."""
        if answer.place is None:
            return answer.body
        offset, nbytes = answer.place.offset, answer.place.nbytes
        if nbytes > self._answer_bytes_max:
            if fd is not None:
                os.close(fd)
            device.process.kill("it answered with more than any message carries")
            raise WorkerCrashed(f"the worker's answer has {nbytes} bytes; {self._answer_bytes_max} are allowed")
        if offset < 0 and fd is None:
            raise WorkerCrashed("the worker's answer came without its memory")
        if offset < 0 and fd is not None:
            return await take(fd, nbytes)
        if not 0 <= offset <= offset + nbytes <= len(life.outbound):
            device.process.kill("it named memory that it does not have")
            raise WorkerCrashed("the worker's answer lies outside its memory")
        data = life.outbound[offset : offset + nbytes]
        if device.process.life is life:  # another one has not given this block
            device.frees.append(offset)
        if len(device.frees) >= FREES_MAX or nbytes > self._settings.arena_bytes // 8:
            device.process.tell(control.Free(tuple(device.frees)))
            device.frees.clear()
        return data

    def _note_loaded(self, device: _Device, digest: Digest, nbytes: int) -> None:
        device.loaded[digest] = _Loaded(nbytes, time.monotonic())
        self._changed()
