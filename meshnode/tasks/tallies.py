"""What became of the tasks of each model on this node since it was started: what a new version is judged by."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from meshnode.tasks.outcomes import Served
from meshnode.wire.messages import Digest

MODELS_MAX = 1024
FAILURES = frozenset({"execution_failed", "invalid_input", "model_refused", "out_of_memory", "worker_crashed"})
"""Outcomes that the model has to do with. An input that does not fit counts: the version before took it, or failed as
often. A task that was refused or cancelled was no run."""


@dataclass(slots=True)
class Tally:
    """Runs that gave a result and how long they took together, and runs that gave none."""

    runs: int = 0
    failed: int = 0
    run_s: float = 0.0


@dataclass(slots=True)
class Tallies:
    """By model, those that were not used for longest forgotten first."""

    _known: OrderedDict[Digest, Tally] = field(default_factory=OrderedDict)

    def of(self, digest: Digest) -> Tally:
        """Nothing, when it never ran."""
        return self._known.get(digest, Tally())

    def items(self) -> list[tuple[Digest, Tally]]:
        """All of them."""
        return list(self._known.items())

    def note(self, it: Served) -> None:
        """Count how a task ended."""
        if it.outcome != "ok" and it.outcome not in FAILURES:
            return
        tally = self._known.setdefault(it.model, Tally())
        self._known.move_to_end(it.model)
        if len(self._known) > MODELS_MAX:
            self._known.popitem(last=False)
        if it.outcome == "ok":
            tally.runs += 1
            tally.run_s += it.run_s
        else:
            tally.failed += 1
