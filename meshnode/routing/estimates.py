"""What this node believes about its peers from its own dealings with them. Private opinions: they are never gossiped.

How much longer a peer takes than it says, whether it failed a moment ago or keeps failing, and how long it has been
known. A clamped factor puts mis-measured peers right, and what no factor explains is counted in seconds, so that a
peer that promises to be done at once is not believed again and again. Both fade as others bring results: a peer that
had one bad moment is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshnode.config import Routing
from meshnode.wire.messages import Digest, NodeId

ALPHA = 0.2
CORRECTION_MIN, CORRECTION_MAX = 0.5, 4.0
NOTICEABLE_S = 0.002
"""Differences below this say more about scheduling than about the peer."""
FADE = 0.98
"""Per result of any peer, what is left of a shortfall: half after 34 results."""
HABIT_AFTER, HABIT_FACTOR = 3, 1.5
"""Once may be bad luck; from so many surprises in a row on, a peer is expected to take longer than it ever did."""
EJECT_AFTER = 5
"""Failures in a row until a peer is left out for longer."""
EJECT_S, EJECT_S_MAX = 5.0, 300.0


@dataclass(slots=True)
class Belief:
    """About one peer. `failures` and `surprises` are in a row; `ejections` since its last result."""

    correction: float = 1.0
    service_s: dict[Digest, float] = field(default_factory=dict)
    suspect_until: float = 0.0
    ejected_until: float = 0.0
    results: int = 0
    failures: int = 0
    ejections: int = 0
    surprises: int = 0
    shortfall_s: float = 0.0
    shortfall_at: int = 0


@dataclass(slots=True)
class Estimates:
    """About all peers; times are monotonic seconds."""

    settings: Routing
    _beliefs: dict[NodeId, Belief] = field(default_factory=dict)
    _results: int = 0

    def of(self, peer: NodeId) -> Belief:
        """The belief about a peer, made when there is none."""
        return self._beliefs.setdefault(peer, Belief())

    def succeeded(self, peer: NodeId, model: Digest, *, quoted_s: float | None, actual_s: float, run_s: float) -> None:
        """A task came back. `quoted_s` is the completion that was expected of it, None when nothing was."""
        belief = self.of(peer)
        self._results += 1
        belief.results += 1
        belief.failures = belief.ejections = 0
        belief.suspect_until = belief.ejected_until = 0.0
        if quoted_s is not None:
            run_s = max(run_s, self._compare(peer, belief, quoted_s, actual_s))
        known = belief.service_s.get(model)
        belief.service_s[model] = run_s if known is None else known + ALPHA * (run_s - known)

    def _compare(self, peer: NodeId, belief: Belief, quoted_s: float, actual_s: float) -> float:
        """Learn from what was expected and what came.

        Returns what the run itself is believed to have taken at least: all of it, when no correction explains it.
        """
        if max(quoted_s, actual_s) <= NOTICEABLE_S:
            return 0.0
        shortfall_s = self.shortfall_s(peer)
        # What the peer itself said, as far as it can be told from an estimate that was corrected already.
        said_s = max(quoted_s - shortfall_s, 0.0) / belief.correction
        ratio = min(CORRECTION_MAX, max(CORRECTION_MIN, actual_s / max(said_s, 1e-9)))
        belief.correction += ALPHA * (ratio - belief.correction)
        unexplained_s = max(0.0, actual_s - CORRECTION_MAX * said_s)
        belief.surprises = belief.surprises + 1 if unexplained_s else 0
        if belief.surprises < HABIT_AFTER:
            belief.shortfall_s = shortfall_s + ALPHA * (unexplained_s - shortfall_s)
        else:
            belief.shortfall_s = max(shortfall_s, HABIT_FACTOR * unexplained_s)
        belief.shortfall_at = self._results
        return actual_s if unexplained_s else 0.0

    def shortfall_s(self, peer: NodeId) -> float:
        """Seconds that the peer takes beyond what it says, even corrected; fades as others bring results."""
        belief = self.of(peer)
        left_s = belief.shortfall_s * FADE ** (self._results - belief.shortfall_at)
        return left_s if left_s > NOTICEABLE_S else 0.0

    def failed(self, peer: NodeId, now: float) -> None:
        """A peer broke, fell silent, or gave no quote: leave it out for a moment, unless nobody else is left."""
        belief = self.of(peer)
        belief.failures += 1
        belief.suspect_until = now + self.settings.suspect_s
        if belief.failures >= EJECT_AFTER and now >= belief.ejected_until:
            belief.ejected_until = now + min(EJECT_S_MAX, EJECT_S * 2**belief.ejections)
            belief.ejections = min(belief.ejections + 1, 16)

    def ejected(self, peer: NodeId, now: float) -> bool:
        """Whether the peer failed so often in a row that it is left out for longer."""
        return self.of(peer).ejected_until > now

    def weight(self, peer: NodeId) -> float:
        """The peer's share of the draw: a newcomer earns its own over its first five results."""
        return min(1.0, 0.2 + 0.16 * self.of(peer).results)

    def forget(self, peer: NodeId) -> None:
        """The peer is gone for good."""
        self._beliefs.pop(peer, None)
