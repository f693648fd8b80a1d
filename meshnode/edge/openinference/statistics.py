"""What became of the requests for each model at this node's doors, as the protocol's statistics want it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODELS_MAX = 1024
Key = tuple[str, int]
"""Name and version."""


@dataclass(slots=True)
class Sum:
    """How many, and how long together."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """One more."""
        self.count += 1
        self.ns += round(seconds * 1e9)

    def document(self) -> dict[str, int]:
        """As the protocol writes it."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Record:
    """Of one model. `last_ms` is UTC."""

    last_ms: int = 0
    inferences: int = 0
    executions: float = 0.0
    """Tasks that ran as one count as one together."""
    success: Sum = field(default_factory=Sum)
    fail: Sum = field(default_factory=Sum)
    queue: Sum = field(default_factory=Sum)
    compute: Sum = field(default_factory=Sum)
    way: Sum = field(default_factory=Sum)
    """What was neither waiting nor computing: choosing a node, and the tensors there and back."""


@dataclass(slots=True)
class Statistics:
    """By model, those that were not asked for longest forgotten first."""

    _known: OrderedDict[Key, Record] = field(default_factory=OrderedDict)

    def _of(self, key: Key) -> Record:
        record = self._known.get(key)
        if record is None:
            if len(self._known) >= MODELS_MAX:
                self._known.popitem(last=False)
            record = self._known[key] = Record()
        else:
            self._known.move_to_end(key)
        return record

    def answered(self, key: Key, now_ms: int, took_s: float, queue_s: float, run_s: float, batch: int) -> None:
        """A request got its result; `batch` tasks ran as one."""
        record = self._of(key)
        record.last_ms = now_ms
        record.inferences += 1
        record.executions += 1 / max(1, batch)
        record.success.add(took_s)
        record.queue.add(queue_s)
        record.compute.add(run_s)
        record.way.add(max(0.0, took_s - queue_s - run_s))

    def failed(self, key: Key, took_s: float) -> None:
        """A request got none."""
        self._of(key).fail.add(took_s)

    def document(self, key: Key) -> Mapping[str, Any]:
        """One row of the protocol's `model_stats`."""
        it = self._known.get(key, Record())
        none = Sum().document()
        return {
            "name": key[0],
            "version": str(key[1]),
            "last_inference": it.last_ms,
            "inference_count": it.inferences,
            "execution_count": round(it.executions),
            "inference_stats": {
                "success": it.success.document(),
                "fail": it.fail.document(),
                "queue": it.queue.document(),
                "compute_input": it.way.document(),
                "compute_infer": it.compute.document(),
                "compute_output": none,
                "cache_hit": none,
                "cache_miss": none,
            },
            "batch_stats": [],
            "memory_usage": [],
        }
