"""How long a suspicion lasts: long when one node says so, short when several do (Lifeguard's second part)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from meshnode.config import Membership

CONFIRMATIONS = 2
"""So many accusers beside the first bring it down to its shortest."""


def shortest_s(settings: Membership, nodes: int) -> float:
    """The shortest suspicion in a mesh of so many nodes."""
    return settings.suspicion_mult * max(1.0, math.log10(max(nodes, 1))) * settings.probe_interval_s


@dataclass(slots=True)
class Suspicion:
    """Of one node at one version; times are monotonic seconds."""

    version: tuple[int, int]
    began: float
    min_s: float
    max_s: float
    accusers: set[bytes] = field(default_factory=set)

    def ends(self) -> float:
        """When it becomes a verdict: from max down to min as independent accusers confirm."""
        confirmations = min(len(self.accusers) - 1, CONFIRMATIONS)
        share = math.log(confirmations + 1) / math.log(CONFIRMATIONS + 1)
        return self.began + max(self.min_s, self.max_s - (self.max_s - self.min_s) * share)
