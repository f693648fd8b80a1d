"""Running models on this machine: one device a provider, as one thing to ask, and a second one for the work of others.

Which models exist is not known here: a job names its file. What kills a worker, hangs it or does not fit ends as a
typed error, and the agent lives. Where an owner sits at the machine, foreign work has a worker process of its own in
the lowest scheduling class, which is there only while there is such work; when the owner comes back, it is gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from meshnode.config import Execution as Settings
from meshnode.config import Links
from meshnode.errors import MeshError, ModelRefused, Refused, WorkerCrashed
from meshnode.execution import accelerators, control
from meshnode.execution.control import Described
from meshnode.execution.device import Device
from meshnode.execution.devices import Devices
from meshnode.execution.events import Hold
from meshnode.execution.job import Done, Job, LoadedModel, ModelFile, ProbeReport
from meshnode.execution.quarantine import Quarantine
from meshnode.execution.rules import CPU, Rules
from meshnode.execution.runs import Open
from meshnode.sandbox import Confinement
from meshnode.wire.messages import Digest, Quote, QuoteAsk, TaskId

log = logging.getLogger(__name__)

LOAD_BYTES_S = 500e6
"""What loading a model from disk is believed to take before it was seen: bytes a second."""
START_S = 0.5
"""What starting a worker process is believed to take."""
ADDRESS_SPACE_SLACK = 16 * 1024**3
ONCE_S = 8.0
"""When the owner is back, a run that must not be repeated may go on for so long, in the lowest scheduling class."""
AGAIN_S = 1.0
"""When a submitter whose work was sent away may ask again."""


class Execution:
    """See the module's docstring.

    Args:
        folder: an empty folder for the workers to stand in.
        models: folders that they may read models from; nothing else of the home.
        changed: told when providers or loaded models changed.
        answer_bytes_max: what the outputs of one task may be together.
        apart: whether foreign work has a worker of its own now.
        condemned: told of a model that killed its worker and is not run here any more, and how.
    """

    def __init__(
        self,
        settings: Settings,
        devices: Devices,
        *,
        folder: Path,
        models: Sequence[Path],
        changed: Callable[[], None],
        answer_bytes_max: int = Links().body_bytes_max,
        apart: Callable[[], bool] = lambda: False,
        condemned: Callable[[Digest, str], None] = lambda digest, how: None,
    ) -> None:
        self._settings = settings
        self._answer_bytes_max = answer_bytes_max
        self._machine = devices
        self._folder = folder
        self._rules = Rules(tuple(models), settings.sandbox)
        self._changed = changed
        self._apart = apart
        self._condemned = condemned
        self._quarantine = Quarantine()
        self._own: list[Device] = []
        self._lent: dict[str, Device] = {}
        self._idle: dict[str, asyncio.TimerHandle] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._closed = ""
        self._looked = False
        self._unfit: dict[Digest, set[str]] = {}  # accelerators that refuse a model, which others here may run
        self.patient = False
        """The owner waits until what runs of others' has ended by itself: a drain."""
        self._stopping = False

    async def start(self) -> None:
        """Start a worker for the CPU, which finds out what else is installed; they become ready by themselves."""
        self._own.append(self._device(CPU))
        self._own[0].process.start()

    async def stop(self) -> None:
        """End the workers; waiting jobs fail."""
        self._stopping = True
        stopping = WorkerCrashed("the agent is stopping")
        for timer in self._idle.values():
            timer.cancel()
        if self._ending:
            await asyncio.wait(self._ending.values())
        await asyncio.gather(*(device.stop(stopping) for device in self._all))

    async def ready(self) -> None:
        """Wait until the CPU worker can run. Raises WorkerCrashed."""
        await self._own[0].process.ready()

    @property
    def _all(self) -> list[Device]:
        return [*self._own, *self._lent.values()]

    @property
    def providers(self) -> tuple[str, ...]:
        """Providers that a run really worked on."""
        return tuple(device.provider for device in self._own if device.queue.up)

    def tried(self) -> list[tuple[str, bool, str]]:
        """(provider, works, why not) of each accelerator; while it is being tried neither."""
        return [(it.provider, it.queue.up, it.process.failure) for it in self._own if it.provider != CPU]

    @property
    def confinement(self) -> dict[str, Confinement]:
        """How the worker of each provider that is up is confined."""
        return {d.provider: d.process.confined for d in self._own if d.process.life and d.process.confined}

    @property
    def grade(self) -> str:
        """That of the worker which is confined least; "" before one is there."""
        return max((confined.grade for confined in self.confinement.values()), default="")

    @property
    def slots(self) -> int:
        """Runs at once, over all devices that are up."""
        return sum(device.queue.slots for device in self._own if device.queue.up) or 1

    def service_s(self, model: Digest) -> float | None:
        """The learnt run time of a model on the fastest device."""
        return min((s for d in self._all if (s := d.queue.service_s(model)) is not None), default=None)

    def quote(self, ask: QuoteAsk, *, fetch_bytes: int, size_bytes: int, hold_s: float, foreign: bool = False) -> Quote:
        """How soon the task could be done here; keeps a place for `hold_s`. Raises Refused, ModelRefused."""
        now = time.monotonic()
        model, task = Digest(ask.model), TaskId(ask.task)
        self._quarantine.check(now, model)
        device = self._best(model, now, ask.provider, foreign)
        backlog_s, service_s = device.queue.quote(now, model, foreign=foreign)
        device.apply(Hold(task, model, hold_s))
        device.memory.check_fits(model, size_bytes)
        load_s = 0.0 if model in device.memory.models else size_bytes / LOAD_BYTES_S + 0.01
        if not device.process.started or device.provider in self._ending:
            load_s += START_S
        return Quote(
            backlog_s=backlog_s,
            service_s=service_s,
            slots=device.queue.slots,
            load_s=load_s,
            fetch_bytes=fetch_bytes,
            hold_s=hold_s,
        )

    def release(self, task: TaskId, model: Digest) -> None:
        """Nobody comes for the place that was quoted."""
        for device in self._all:
            device.apply(Hold(task, model, 0.0))

    async def run(self, job: Job) -> Done:
        """Run a job in its turn.

        Raises Refused, InvalidInput, ExecutionFailed, ModelRefused, OutOfMemory, WorkerCrashed, DeadlineExceeded.
        """
        now = time.monotonic()
        self._quarantine.check(now, job.model.digest)
        if job.foreign and self._closed:
            raise _sent_away(self._closed)
        device = self._best(job.model.digest, now, job.provider, job.foreign)
        try:
            return await (device.run(job) if device in self._own else self._run_lent(device, job))
        except ModelRefused as error:
            if device.provider == CPU or job.provider:
                raise
            log.info("model %s is not run on %s any more: %s", job.model.digest[:8], device.provider, error)
            self._unfit.setdefault(job.model.digest, set()).add(device.provider)
        return await self.run(job)

    async def _run_lent(self, device: Device, job: Job) -> Done:
        await self._open_lent(device)
        try:
            return await device.run(job)
        finally:
            if device.queue.in_flight == 0 and not self._stopping:
                self._end_lent(device, self._settings.lent_idle_s)

    def hand_back(self, error: Refused) -> int:
        """Give up what others' tasks wait here and have not begun; how many."""
        return sum(device.give_up(error, lambda it: it.job.foreign and not it.begun) for device in self._all)

    # --- the owner comes and goes ---

    def welcome(self, reason: str) -> None:
        """Foreign work is taken ("") or, for this reason, not: what is here of it then ends now, to run elsewhere."""
        self._closed = reason
        if not reason:
            self.patient = False
        if not reason or self._stopping:
            return
        error = _sent_away(reason)
        gone = self.hand_back(error)
        if not self.patient:
            gone += sum(device.give_up(error, _may_go) for device in self._all)
        for device in self._lent.values():
            if not (self.patient and device.queue.in_flight):
                self._end_lent(device, ONCE_S if device.queue.in_flight else 0.0)
        if gone:
            log.info("%d foreign tasks were sent away: %s", gone, reason)

    async def _open_lent(self, device: Device) -> None:
        """Have the worker for foreign work started. Raises Refused."""
        while (ending := self._ending.get(device.provider)) is not None:
            await asyncio.wait({ending})
        if self._closed or self._stopping:
            raise _sent_away(self._closed or "it is stopping")
        if (timer := self._idle.pop(device.provider, None)) is not None:
            timer.cancel()
        if not device.process.started:
            log.info("a worker for foreign work starts on %s", device.provider)
            device.process.start()

    def _end_lent(self, device: Device, delay_s: float) -> None:
        """End the worker for foreign work, and give its memory back, when it has nothing to do for so long."""
        if (timer := self._idle.pop(device.provider, None)) is not None:
            timer.cancel()
        if delay_s > 0:
            loop = asyncio.get_running_loop()
            self._idle[device.provider] = loop.call_later(delay_s, self._end_lent, device, 0.0)
        elif device.process.started and device.provider not in self._ending:
            ending = asyncio.ensure_future(device.stop(_sent_away(self._closed or "its worker is ending")))
            self._ending[device.provider] = ending
            ending.add_done_callback(lambda _: self._ending.pop(device.provider))

    # --- models ---

    async def probe(self, path: Path, needs_bytes: int = 0) -> ProbeReport:
        """Load a model that is new here and describe it. Raises ModelRefused, InvalidInput, OutOfMemory.

        `needs_bytes`: of memory, which it is believed to take at least.
        """
        process, model = self._own[0].process, ModelFile(Digest(""), path, needs_bytes)
        self._own[0].memory.check_fits(model.digest, needs_bytes)
        await process.ready()
        id, run_s = process.next_id(), self._settings.probe_timeout_s
        limit_s = self._own[0].blame.limit_s(model) + run_s + self._settings.cancel_grace_s
        try:
            async with asyncio.timeout(limit_s):
                answer, _ = await process.ask(id, control.Probe(id, str(path), run_s))
        except TimeoutError:
            process.kill("a model did not load or run in time")
            raise ModelRefused(
                f"the model did not load and run within {limit_s:.3g} s",
                hint="load_timeout_s and probe_timeout_s, under [execution] in config.toml, allow it more",
            ) from None
        except WorkerCrashed as error:
            raise ModelRefused(f"the model kills the worker that loads it: {error}") from error
        assert isinstance(answer, Described)
        self._own[0].memory.look()
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
        self._quarantine.check(time.monotonic(), model.digest)
        device = self._own[0]
        await device.process.ready()
        id = device.process.next_id()
        device.memory.use(model)
        device.blame.begin(model)
        try:
            answer, _ = await device.process.ask(id, control.Load(id, model.digest, str(model.path)))
        except MeshError as error:
            if not isinstance(error, WorkerCrashed):
                device.blame.ended(model.digest)
            device.memory.unload(model.digest)
            raise
        assert isinstance(answer, Described)
        device.memory.loaded(model.digest, answer.memory_bytes)

    def unload(self, digest: Digest) -> None:
        """Forget a model everywhere."""
        self._unfit.pop(digest, None)
        for device in self._all:
            device.memory.unload(digest)

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
                device.provider,
            )
            for device in self._all
            for digest, it in device.memory.ready.items()
        ]

    def vitals(self) -> tuple[int, float, int]:
        """(tasks waiting or running, seconds of backlog, tasks done since the start)."""
        now = time.monotonic()
        return (
            sum(device.queue.in_flight for device in self._all),
            min((device.queue.backlog_s(now) for device in self._own), default=0.0),
            sum(device.queue.done for device in self._all),
        )

    def workers(self) -> list[tuple[str, bool, bool, int]]:
        """(provider, for others only, up, deaths since the start) of each worker process."""
        both = [*((it, False) for it in self._own), *((it, True) for it in self._lent.values())]
        return [(it.provider, others, it.queue.up, it.process.deaths) for it, others in both]

    def pardon(self, model: Digest) -> None:
        """Let a model run again that is not run here for a while."""
        self._quarantine.pardon(model)

    # --- devices ---

    def _device(self, provider: str, *, idle: bool = False) -> Device:
        on_cpu = provider == CPU
        limit = self._machine.memory_total + 2 * self._settings.arena_bytes + ADDRESS_SPACE_SLACK
        return Device(
            self._settings,
            provider,
            (self._settings.concurrency or self._machine.cores) if on_cpu else 1,
            folder=self._folder,
            rules=self._rules,
            answer_bytes_max=self._answer_bytes_max,
            memory_bytes=self._settings.memory_bytes or self._machine.memory_total // 2,
            address_space_bytes=limit if on_cpu else None,  # a limit on the address space breaks CUDA
            quarantine=self._quarantine,
            changed=self._device_changed,
            # A driver may be to blame for what happens on an accelerator: the mesh is not told of it.
            condemned=self._condemned if on_cpu else lambda digest, how: None,
            idle=idle,
        )

    def _device_changed(self) -> None:
        if self._stopping:
            return
        if len(self._own) == 1 and not self._looked and self._own[0].queue.up:
            self._looked = True
            available, nvidia = self._own[0].process.available, bool(self._machine.gpus)
            for provider in accelerators.worth_a_try(available, self._settings, nvidia=nvidia):
                device = self._device(provider)  # it proves itself by a run, in a worker of its own, or is not used
                self._own.append(device)
                device.process.start()
        self._changed()

    def _best(self, model: Digest, now: float, provider: str, foreign: bool) -> Device:
        """The device that would finish first by what is known. Raises Refused when none is of that provider."""
        unfit = () if provider else self._unfit.get(model, ())
        fit = [it for it in self._own if provider in ("", it.provider) and it.provider not in unfit]
        up = [device for device in fit if device.queue.up]
        if not any(device.queue.up or not device.process.failure for device in fit) and provider:
            raise Refused(f"this node runs nothing on {provider}; it has {', '.join(self.providers) or 'no worker'}")
        up = up or fit[:1]
        if foreign and self._apart():
            up = [self._lend(device.provider) for device in up]
        if len(up) == 1:
            return up[0]

        def finish_s(device: Device) -> float:
            service_s = device.queue.service_s(model)
            backlog_s = device.queue.backlog_s(now, foreign=foreign)
            return backlog_s + (0.0 if service_s is None else service_s)

        return min(up, key=finish_s)

    def _lend(self, provider: str) -> Device:
        device = self._lent.get(provider)
        if device is None:
            device = self._lent[provider] = self._device(provider, idle=True)
        return device


def _may_go(it: Open) -> bool:
    """Whether another node can run it: not what must not run twice, and has begun."""
    return it.job.foreign and not (it.job.once and it.begun)


def _sent_away(reason: str) -> Refused:
    return Refused(f"this node takes no foreign work: {reason}", retry_after_s=AGAIN_S)
