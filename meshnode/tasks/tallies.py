"""What became of the tasks of each model on this node since it was started: what a new version is judged by."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from meshnode.errors import ExecutionFailed, InvalidInput, ModelRefused, OutOfMemory, WorkerCrashed
from meshnode.execution.job import Done, Job
from meshnode.wire.messages import Digest

MODELS_MAX = 1024


@dataclass(slots=True)
class Tally:
    """Runs that gave a result and how long they took together, and runs that gave none."""

    runs: int = 0
    failed: int = 0
    run_s: float = 0.0


@dataclass(slots=True)
class Tallies:
    """By model, those that were not asked for longest forgotten first."""

    _known: OrderedDict[Digest, Tally] = field(default_factory=OrderedDict)

    def of(self, digest: Digest) -> Tally:
        """Nothing, when it never ran."""
        return self._known.get(digest, Tally())

    async def count(self, digest: Digest, job: Job, run: Callable[[Job], Awaitable[Done]]) -> Done:
        """Run it and count how it ends. Raises what running raises; a task that was refused or cancelled is no run.

        An input that does not fit counts as a failure: the version before took it, or failed as often.
        """
        try:
            done = await run(job)
        except (ExecutionFailed, InvalidInput, WorkerCrashed, OutOfMemory, ModelRefused):
            self._tally(digest).failed += 1
            raise
        tally = self._tally(digest)
        tally.runs += 1
        tally.run_s += done.run_s
        return done

    def _tally(self, digest: Digest) -> Tally:
        tally = self._known.setdefault(digest, Tally())
        self._known.move_to_end(digest)
        if len(self._known) > MODELS_MAX:
            self._known.popitem(last=False)
        return tally
