"""Where work went in the last two minutes, second by second. A core: told the time, bounded, and cheap to feed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from meshnode.wire.messages import NodeId

SECONDS = 120
PER_OCTAVE = 8
"""Latencies are counted in classes: 8 between a time and its double, so that a percentile is off by 5 % at most."""
FASTEST_S = 1e-6


@dataclass(slots=True)
class Second:
    """What was answered, and what came from others, within one second."""

    went: dict[NodeId, int] = field(default_factory=dict)
    came: dict[NodeId, int] = field(default_factory=dict)
    failed: int = 0
    _classes: dict[int, int] = field(default_factory=dict)

    def took(self, seconds: float) -> None:
        """One task's time."""
        number = round(math.log2(seconds if seconds > FASTEST_S else FASTEST_S) * PER_OCTAVE)
        classes = self._classes
        classes[number] = classes.get(number, 0) + 1

    def percentile_s(self, share: float) -> float | None:
        """The time within which that share was answered."""
        left = share * sum(self._classes.values())
        for number in sorted(self._classes):
            left -= self._classes[number]
            if left <= 0:
                return float(2 ** (number / PER_OCTAVE))
        return None

    def document(self) -> dict[str, Any]:
        """Plain data; what there was none of is left out."""
        found: dict[str, Any] = {}
        if self.went:
            found["went"] = dict(self.went)
            found["p50_ms"] = _ms(self.percentile_s(0.5))
            found["p99_ms"] = _ms(self.percentile_s(0.99))
        if self.came:
            found["came"] = dict(self.came)
        if self.failed:
            found["failed"] = self.failed
        return found


@dataclass(slots=True)
class Flow:
    """The last seconds in which anything happened; `now` is in monotonic seconds."""

    _kept: dict[int, Second] = field(default_factory=dict)
    _newest: int = -1
    _last: Second = field(default_factory=Second)

    def answered(self, now: float, node: NodeId, seconds: float) -> None:
        """A task of this agent brought a result, from that node."""
        it = self._at(now)
        it.went[node] = it.went.get(node, 0) + 1
        it.took(seconds)

    def failed(self, now: float) -> None:
        """A task of this agent ended with an error."""
        self._at(now).failed += 1

    def served(self, now: float, submitter: NodeId) -> None:
        """A task of another node was done here."""
        it = self._at(now)
        it.came[submitter] = it.came.get(submitter, 0) + 1

    def seconds(self, now: float) -> Iterator[tuple[int, Second]]:
        """Those of the last two minutes that are over, oldest first."""
        current = math.floor(now)
        return ((number, it) for number, it in self._kept.items() if current - SECONDS <= number < current)

    def _at(self, now: float) -> Second:
        number = int(now)
        if number <= self._newest:  # a clock that goes back is in the same second
            return self._last
        for old in [it for it in self._kept if it < number - SECONDS]:
            del self._kept[old]
        self._newest = number
        self._last = self._kept[number] = Second()
        return self._last


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
