"""What this node believes about its peers from its own dealings with them. Private opinions: they are never gossiped.

How much longer a peer takes than it says (a clamped factor, so that a liar and a mis-measured peer are both put right
by whoever suffers from them), how fast the link to it is, whether it failed a moment ago, and how long it has been
known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshnode.config import Routing
from meshnode.wire.messages import Digest, NodeId

ALPHA = 0.2
CORRECTION_MIN, CORRECTION_MAX = 0.5, 4.0
NOTICEABLE_S = 0.002
"""Differences below this say more about scheduling than about the peer."""
SLOW_START_RESULTS = 5


@dataclass(slots=True)
class Belief:
    """About one peer."""

    correction: float = 1.0
    service_s: dict[Digest, float] = field(default_factory=dict)
    suspect_until: float = 0.0
    results: int = 0
    failures: int = 0


@dataclass(slots=True)
class Estimates:
    """About all peers; times are monotonic seconds."""

    settings: Routing
    _beliefs: dict[NodeId, Belief] = field(default_factory=dict)

    def of(self, peer: NodeId) -> Belief:
        """The belief about a peer, made when there is none."""
        return self._beliefs.setdefault(peer, Belief())

    def succeeded(self, peer: NodeId, model: Digest, *, quoted_s: float | None, actual_s: float, run_s: float) -> None:
        """A task came back. `quoted_s` is the completion that was expected of it, None when nothing was."""
        belief = self.of(peer)
        belief.results += 1
        belief.failures = 0
        belief.suspect_until = 0.0
        known = belief.service_s.get(model)
        belief.service_s[model] = run_s if known is None else known + ALPHA * (run_s - known)
        if quoted_s is not None and max(quoted_s, actual_s) > NOTICEABLE_S:
            ratio = actual_s * belief.correction / max(quoted_s, 1e-6)
            blended = belief.correction + ALPHA * (ratio - belief.correction)
            belief.correction = min(CORRECTION_MAX, max(CORRECTION_MIN, blended))

    def failed(self, peer: NodeId, now: float) -> None:
        """A peer broke, fell silent, or gave no quote: leave it out for a moment, unless nobody else is left."""
        belief = self.of(peer)
        belief.failures += 1
        belief.suspect_until = now + self.settings.suspect_s

    def weight(self, peer: NodeId) -> float:
        """The peer's share of the draw: a newcomer earns its own over its first results."""
        results = self.of(peer).results
        return min(1.0, 0.2 + 0.16 * results)

    def forget(self, peer: NodeId) -> None:
        """The peer is gone for good."""
        self._beliefs.pop(peer, None)
