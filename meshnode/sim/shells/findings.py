"""What a run found: what must hold and does not, and how often things happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

FINDINGS_MAX = 20


@dataclass(slots=True)
class Findings:
    """Of one run."""

    now: Callable[[], float]
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def violated(self, what: str) -> None:
        """Something that must hold does not."""
        self.counts["violations"] += 1
        if len(self.violations) < FINDINGS_MAX:
            self.violations.append(f"{self.now():.3f} s: {what}")
