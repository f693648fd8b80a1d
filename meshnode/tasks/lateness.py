"""When an attempt is late: later than twice what was quoted, and later than its model's attempts usually are."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from meshnode.latest import Latest
from meshnode.routing.estimates import MODELS_MAX
from meshnode.wire.messages import Digest

KEPT = 64
"""Attempts of a model that are remembered."""
ENOUGH = 20
"""Fewer say nothing about the slowest twentieth."""
SHARE = 0.95
LATE_FACTOR = 2.0
LATE_MIN_S = 0.01
"""Below this a second copy costs more than it could save."""


@dataclass(slots=True)
class Lateness:
    """How long attempts really took, as a multiple of what was quoted, by model."""

    _ratios: Latest[Digest, deque[float]] = field(default_factory=lambda: Latest(MODELS_MAX))

    def learn(self, model: Digest, quoted_s: float, actual_s: float) -> None:
        """An attempt brought a result."""
        ratios = self._ratios.get(model)
        if ratios is None:
            ratios = self._ratios[model] = deque(maxlen=KEPT)
        ratios.append(actual_s / max(quoted_s, 1e-6))

    def late_s(self, model: Digest, quoted_s: float) -> float:
        """So long after it was sent, an attempt is late."""
        ratios = self._ratios.get(model, ())
        usual = sorted(ratios)[int(len(ratios) * SHARE)] if len(ratios) >= ENOUGH else 0.0
        return max(LATE_MIN_S, quoted_s * max(LATE_FACTOR, usual))
