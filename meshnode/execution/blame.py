"""Whose fault the death of a worker is, and how long a model may take to load: what is clear condemns the model here.

A load depends on nothing but the model, so one that ends the worker, or that never ends, is enough; a run depends on
its inputs too, and takes several (`quarantine`). Where more than one model was at work nobody is blamed.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from meshnode.execution.job import Job, ModelFile, fingerprint
from meshnode.execution.memory import file_bytes
from meshnode.execution.quarantine import Quarantine
from meshnode.wire.messages import Digest

log = logging.getLogger(__name__)

OUTSIDERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""A process does not get these by its own fault."""
LOAD_BYTES_S = 50e6
"""A model gets so much more time to load as reading and optimising it takes on a slow machine."""


@dataclass(slots=True)
class Blame:
    """One worker's loads, and what its death means.

    Args:
        load_s: how long a small model may take to load.
        kill: end the worker, for this reason.
        condemned: told of a model that is not run here any more, and why.
    """

    load_s: float
    quarantine: Quarantine
    kill: Callable[[str], None]
    condemned: Callable[[Digest, str], None]
    _loads: dict[Digest, asyncio.TimerHandle] = field(default_factory=dict)
    _loaded: set[Digest] = field(default_factory=set)
    _overdue: dict[Digest, str] = field(default_factory=dict)

    def limit_s(self, model: ModelFile) -> float:
        """What this model may take to load."""
        return self.load_s + file_bytes(model) / LOAD_BYTES_S

    def begin(self, model: ModelFile) -> None:
        """The worker begins to load a model, unless it does already."""
        if model.digest not in self._loads:
            limit_s = self.limit_s(model)
            loop = asyncio.get_running_loop()
            self._loads[model.digest] = loop.call_later(limit_s, self._too_long, model.digest, limit_s)

    def loads(self, model: Digest) -> bool:
        """Whether the worker is at it now: nothing ends a load but the end of the process."""
        return model in self._loads

    def loaded(self, model: Digest) -> None:
        """It is there."""
        self._loaded.add(model)
        self.ended(model)

    def ended(self, model: Digest) -> None:
        """It is there, or it was refused."""
        timer = self._loads.pop(model, None)
        if timer is not None:
            timer.cancel()

    def forget(self) -> None:
        """The process is gone, and what it did with it."""
        for model in list(self._loads):
            self.ended(model)
        self._overdue.clear()

    def died(self, code: int, why: str, running: Sequence[Job], *, proving: bool) -> None:
        """The process ended with this code while these jobs ran."""
        overdue, loads = dict(self._overdue), set(self._loads)
        self.forget()
        for model, how in overdue.items():
            self._condemn(model, how)
        if overdue or proving or -code in OUTSIDERS:
            return
        at_work = {job.model.digest for job in running} | loads
        if len(at_work) == 1 and (first := at_work & loads - self._loaded):
            self._condemn(first.pop(), f"it ended the process that loaded it: {why}")
        elif len(running) == 1:
            model = running[0].model.digest
            if self.quarantine.crashed(time.monotonic(), model, fingerprint(running[0]), why):
                self._tell(model, f"it keeps killing its worker: {why}")

    def _too_long(self, model: Digest, limit_s: float) -> None:
        self._overdue[model] = f"it did not load within {limit_s:.3g} s"
        self.kill(f"model {model[:12]} did not load within {limit_s:.3g} s")

    def _condemn(self, model: Digest, how: str) -> None:
        self.quarantine.condemn(time.monotonic(), model, how)
        self._tell(model, how)

    def _tell(self, model: Digest, how: str) -> None:
        log.warning("model %s is not run here for a while: %s", model[:12], how)
        self.condemned(model, how)
