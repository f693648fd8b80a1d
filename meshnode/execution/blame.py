"""Whose fault the death of a worker is, and how long a model may take to load: what is clear condemns the model here.

A load depends on nothing but the model, so one that ends the worker, or that never ends, is enough; a run depends on
its inputs too, and takes several (`quarantine`). Where more than one model was at work nobody is blamed. A load's time
is the processor's: a starved machine gets more of the clock, and what it gives up is not told as the model's fault.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from meshnode.execution.job import Job, ModelFile, fingerprint
from meshnode.execution.memory import file_bytes
from meshnode.execution.process import WorkerProcess
from meshnode.execution.quarantine import Quarantine
from meshnode.wire.messages import Digest

log = logging.getLogger(__name__)

OUTSIDERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""A process does not get these by its own fault."""
LOAD_BYTES_S = 50e6
"""A model gets so much more time to load as reading and optimising it takes on a slow machine."""
PATIENCE = 4
"""A load ends after so many times its limit by the clock, whatever the processor did."""


@dataclass(slots=True)
class _Load:
    limit_s: float
    began: float
    cpu_began_s: float
    timer: asyncio.TimerHandle


@dataclass(slots=True)
class Blame:
    """One worker's loads, and what its death means.

    Args:
        load_s: how long a small model may take to load.
        cpu_s: what the worker took of the processor, in all.
        kill: end the worker, for this reason.
        condemned: told of a model that is not run here any more, and why.
    """

    load_s: float
    quarantine: Quarantine
    cpu_s: Callable[[], float]
    kill: Callable[[str], None]
    condemned: Callable[[Digest, str], None]
    _loads: dict[Digest, _Load] = field(default_factory=dict)
    _loaded: set[Digest] = field(default_factory=set)
    _overdue: dict[Digest, tuple[str, bool]] = field(default_factory=dict)
    """How, and whether the processor was at it all the time."""

    def limit_s(self, model: ModelFile) -> float:
        """What this model may take to load."""
        return self.load_s + file_bytes(model) / LOAD_BYTES_S

    def begin(self, model: ModelFile) -> None:
        """The worker begins to load a model, unless it does already."""
        if model.digest not in self._loads:
            limit_s = self.limit_s(model)
            timer = self._later(limit_s, model.digest)
            self._loads[model.digest] = _Load(limit_s, time.monotonic(), self.cpu_s(), timer)

    def loads(self, model: Digest) -> bool:
        """Whether the worker is at it now: nothing ends a load but the end of the process."""
        return model in self._loads

    def loaded(self, model: Digest) -> None:
        """It is there."""
        self._loaded.add(model)
        self.ended(model)

    def ended(self, model: Digest) -> None:
        """It is there, or it was refused."""
        load = self._loads.pop(model, None)
        if load is not None:
            load.timer.cancel()

    def forget(self) -> None:
        """The process is gone, and what it did with it."""
        for model in list(self._loads):
            self.ended(model)
        self._overdue.clear()

    def died(self, code: int, why: str, running: Sequence[Job], *, proving: bool) -> None:
        """The process ended with this code while these jobs ran."""
        overdue, loads = dict(self._overdue), set(self._loads)
        self.forget()
        at_work = {job.model.digest for job in running} | loads
        for model, (how, busy) in overdue.items():
            self._condemn(model, how, tell=busy and at_work == {model})
        if overdue or proving or -code in OUTSIDERS:
            return
        if len(at_work) == 1 and (first := at_work & loads - self._loaded):
            self._condemn(first.pop(), f"it ended the process that loaded it: {why}")
        elif len(running) == 1:
            model = running[0].model.digest
            if self.quarantine.crashed(time.monotonic(), model, fingerprint(running[0]), why):
                self._tell(model, f"it keeps killing its worker: {why}")

    def _later(self, delay_s: float, model: Digest) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay_s, self._too_long, model)

    def _too_long(self, model: Digest) -> None:
        load = self._loads[model]
        short_s = load.limit_s - (self.cpu_s() - load.cpu_began_s)
        left_s = load.began + PATIENCE * load.limit_s - time.monotonic()
        if min(short_s, left_s) > 0:
            load.timer = self._later(min(short_s, left_s), model)
            return
        how = f"it did not load within {load.limit_s:.3g} s"
        self._overdue[model] = how, short_s <= 0
        self.kill(f"model {model[:12]}: {how}")

    def _condemn(self, model: Digest, how: str, *, tell: bool = True) -> None:
        self.quarantine.condemn(time.monotonic(), model, how)
        self._tell(model, how, tell=tell)

    def _tell(self, model: Digest, how: str, *, tell: bool = True) -> None:
        log.warning("model %s is not run here for a while: %s", model[:12], how)
        if tell:
            self.condemned(model, how)


def taken_s(process: WorkerProcess) -> float:
    """What a worker took of the processor; 0 when it is gone."""
    if process.life is not None:
        with suppress(psutil.Error):
            times = psutil.Process(process.life.process.pid).cpu_times()
            return float(times.user + times.system)
    return 0.0
