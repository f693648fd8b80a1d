"""What lies in a worker's memory: models by their measured sizes, the least recently used out first, and given back.

A model takes room before it is loaded, by an estimate that its first run corrects. What the allocator keeps after an
unload is not given back by asking: then the process is replaced, in a moment when nothing runs in it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from meshnode.errors import MeshError, OutOfMemory
from meshnode.execution.control import FromWorker, Unload
from meshnode.execution.footprint import footprint
from meshnode.execution.job import ModelFile
from meshnode.execution.process import WorkerProcess
from meshnode.wire.messages import Digest

log = logging.getLogger(__name__)

LOADED_TIMES = 2.5
"""Of the file: what a model is believed to take before it was seen (ResNet-50, 102 MB: 253 MB measured)."""
KEPT_BYTES = 16 * 1024 * 1024
"""A worker without models may be so much larger than it began; beyond that it is replaced."""
SIZES_MAX = 4096


@dataclass(slots=True)
class Loaded:
    """A model in the worker's memory, or, while `ready` is False, on its way there; `used_at` is monotonic seconds."""

    bytes: int
    used_at: float
    ready: bool = False
    wide: bool = False
    """It is there a second time, for runs on all threads."""


@dataclass(slots=True)
class Memory:
    """See the module's docstring.

    Args:
        budget_bytes: for all models together.
        busy: how many tasks of a model run at this moment.
        changed: told when a model came or went.
        narrowed: told of a model that is not there for all threads any more.
    """

    budget_bytes: int
    process: WorkerProcess
    busy: Callable[[Digest], int]
    changed: Callable[[], None]
    narrowed: Callable[[Digest], None]
    models: dict[Digest, Loaded] = field(default_factory=dict)
    bloated: bool = False
    """The worker keeps memory that nothing needs."""
    _sizes: dict[Digest, int] = field(default_factory=dict)

    @property
    def ready(self) -> dict[Digest, Loaded]:
        """What can run without being loaded first."""
        return {digest: it for digest, it in self.models.items() if it.ready}

    def check_fits(self, model: Digest, needs_bytes: int) -> None:
        """Raises OutOfMemory for a model that is too large even alone."""
        if model not in self.models and (need := self._sizes.get(model, needs_bytes)) > self.budget_bytes:
            raise OutOfMemory(
                f"the model takes at least {need} bytes, and models may take {self.budget_bytes} here, together",
                hint="memory_bytes under [execution] in config.toml is this limit",
            )

    def use(self, model: ModelFile) -> None:
        """A run of the model is about to begin: make room when it is not there. Raises OutOfMemory."""
        known = self.models.get(model.digest)
        if known is not None:
            known.used_at = time.monotonic()
            return
        on_disk = file_bytes(model)
        self.check_fits(model.digest, max(on_disk, model.needs_bytes))
        need = self._sizes.get(model.digest, max(int(LOADED_TIMES * on_disk), model.needs_bytes))
        self._make_room(need)
        self.models[model.digest] = Loaded(need, time.monotonic())

    def loaded(self, digest: Digest, nbytes: int | None) -> None:
        """It is there; `nbytes` is what it was seen to take, None when nobody looked."""
        known = self.models.get(digest)
        if known is None:
            known = self.models[digest] = Loaded(0, time.monotonic())
        if nbytes is not None:
            known.bytes = nbytes
            self._sizes[digest] = nbytes
            if len(self._sizes) > SIZES_MAX:
                del self._sizes[next(iter(self._sizes))]
        if not known.ready:
            known.ready = True
            self.changed()

    def forget(self) -> None:
        """The process is gone, and all with it."""
        gone, self.models = self.models, {}
        self.bloated = False
        for digest, it in gone.items():
            if it.wide:
                self.narrowed(digest)

    def widened(self, digest: Digest, nbytes: int) -> bool:
        """It is there for all threads too, which takes so much more; False when it has gone meanwhile."""
        known = self.models.get(digest)
        if known is None:
            return False
        known.wide = True
        known.bytes += nbytes
        return True

    @property
    def tight(self) -> bool:
        """Whether more than half of the budget is taken."""
        return 2 * sum(it.bytes for it in self.models.values()) > self.budget_bytes

    def unload(self, digest: Digest) -> None:
        """Take it out; a run of it that still goes on ends well."""
        known = self.models.pop(digest, None)
        if known is None or self.process.life is None:
            return
        if known.wide:
            self.narrowed(digest)
        id = self.process.next_id()
        self.process.begin(id, Unload(id, digest), None, self._unloaded)
        self.changed()

    def look(self) -> None:
        """Something was let go in the worker: find out whether it gave its memory back."""
        life = self.process.life
        if life is None:
            return
        now, began = footprint(life.process.pid), self.process.idle
        over = now.resident_bytes - began.resident_bytes - sum(it.bytes for it in self.models.values())
        self.bloated = over > KEPT_BYTES + (self.budget_bytes // 4 if self.models else 0)
        self.settle()

    def settle(self) -> None:
        """Replace a process that keeps what it does not need, when nothing is at work in it."""
        if self.bloated and self.process.life is not None and not self.process.life.open:
            self.bloated = False
            self.process.renew("it keeps memory that nothing needs")

    def _make_room(self, need: int) -> None:
        held = max(sum(it.bytes for it in self.models.values()), self._taken())
        for digest, it in sorted(self.models.items(), key=lambda item: item[1].used_at):
            if held + need <= self.budget_bytes:
                return
            if it.ready and not self.busy(digest):
                log.info("model %s is unloaded: %d bytes are wanted for another one", digest[:12], need)
                self.unload(digest)
                held -= it.bytes

    def _taken(self) -> int:
        """What the worker took since it began, without the memory that it shares with the agent."""
        life = self.process.life
        if life is None:
            return 0
        return footprint(life.process.pid).private_bytes - self.process.idle.private_bytes

    def _unloaded(self, said: FromWorker | MeshError, fd: int | None) -> None:
        if not isinstance(said, MeshError):
            self.look()


def file_bytes(model: ModelFile) -> int:
    """Of the model with its external data: a model has a folder of its own."""
    with suppress(OSError), os.scandir(model.path.parent) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())
    return 0
