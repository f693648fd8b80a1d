"""What this node believes about its peers from its own dealings with them. Private opinions: they are never gossiped.

How much longer a peer takes than it says, how much work it told that waits there, how fast tensors get there,
whether it failed a moment ago or keeps failing, and how long it has been known. A clamped factor puts mis-measured
peers right, and what no factor explains is counted in seconds, so that a peer that promises to be done at once is not
believed again and again. Both fade as others bring results: a peer that had one bad moment is tried again.

Who fails five times in a row, or more often than not, or takes far longer than it says, is set aside for a while:
outlier ejection as in Envoy, but private, so that nobody can talk a peer out of a mesh.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from meshnode.config import Routing
from meshnode.latest import Latest
from meshnode.wire.messages import Digest, NodeId
from meshnode.wire.rng import Rng

ALPHA = 0.2
MODELS_MAX = 256
"""Of so many models it is remembered how long they take at a peer."""
CORRECTION_MIN, CORRECTION_MAX = 0.5, 4.0
NOTICEABLE_S = 0.002
"""Differences below this say more about scheduling than about the peer."""
FADE = 0.98
"""Per result of any peer, what is left of a shortfall: half after 34 results."""
HABIT_AFTER, HABIT_FACTOR = 3, 1.5
"""Once may be bad luck; from so many surprises in a row on, a peer is expected to take longer than it ever did."""
EJECT_AFTER = 5
"""Failures in a row until a peer is left out for longer; or so many results in a row of over `SLOW` times what it
said."""
SLOW = 4.0
EJECT_SHARE, EJECT_OF, EJECT_WITHIN_S = 0.5, 10, 30.0
"""…or this share of at least so many attempts, counted anew after so long."""
EJECT_S, EJECT_S_MAX = 5.0, 300.0
DISTRUST_S = 30.0
"""So long a peer is left out after a wrong result; twice as long each time, to EJECT_S_MAX."""
JITTER = 0.2
NEWCOMER_S = 10.0
"""A peer gets all of its share only after so long, and after five results."""
LARGE_BYTES = 256 * 1024
"""Smaller tensors say more about latency than about how fast a link is."""


@dataclass(slots=True)
class Belief:
    """About one peer. `failures`, `surprises` and `slow` are in a row; `ejections` since its last result.

    `revision` grows with each change, for those who keep what they made of it.
    """

    correction: float = 1.0
    service_s: Latest[Digest, float] = field(default_factory=lambda: Latest(MODELS_MAX))
    offset_s: Latest[Digest, float] = field(default_factory=lambda: Latest(MODELS_MAX))
    suspect_until: float = 0.0
    ejected_until: float = 0.0
    distrusted_until: float = 0.0
    lies: int = 0
    results: int = 0
    failures: int = 0
    ejections: int = 0
    surprises: int = 0
    slow: int = 0
    attempts: int = 0
    attempts_failed: int = 0
    counted_since: float = -1e9
    shortfall_s: float = 0.0
    shortfall_at: int = 0
    backlog_s: float | None = None
    backlog_at: float = 0.0
    bytes_s: float | None = None
    revision: int = 0


@dataclass(slots=True)
class Estimates:
    """About all peers; times are monotonic seconds."""

    settings: Routing
    rng: Rng
    _beliefs: dict[NodeId, Belief] = field(default_factory=dict)
    _results: int = 0

    def of(self, peer: NodeId) -> Belief:
        """The belief about a peer, made when there is none."""
        belief = self._beliefs.get(peer)
        if belief is None:
            belief = self._beliefs[peer] = Belief()
        return belief

    def expected_s(self, peer: NodeId, model: Digest, estimate_s: float) -> float:
        """When its result is to come, by how much later or earlier than estimated others came lately.

        This is told to people and compared with nothing: routing goes by the estimate.
        """
        return max(CORRECTION_MIN * estimate_s, estimate_s + self.of(peer).offset_s.get(model, 0.0))

    def came(self, peer: NodeId, model: Digest, *, estimate_s: float, actual_s: float) -> None:
        """A result came so long after it was sent; what was estimated is as it was, without the offset."""
        offsets = self.of(peer).offset_s
        known_s = offsets.get(model)
        late_s = actual_s - estimate_s
        offsets[model] = late_s if known_s is None else known_s + ALPHA * (late_s - known_s)

    def sent(self, peer: NodeId, model: Digest, now: float) -> None:
        """A task is on its way there: whatever waits there waits a little longer."""
        belief = self.of(peer)
        if belief.backlog_s is not None:
            belief.backlog_s = self._left_s(belief, now) + belief.service_s.get(model, 0.0)
            belief.backlog_at = now
            belief.revision += 1

    def told(self, peer: NodeId, backlog_s: float, now: float) -> None:
        """The peer said how much work waits there."""
        belief = self.of(peer)
        belief.backlog_s, belief.backlog_at = backlog_s, now
        belief.revision += 1

    def backlog_s(self, peer: NodeId, now: float) -> float | None:
        """What is left of the work that it told of, if it did nothing else since; None when it told nothing."""
        belief = self.of(peer)
        return None if belief.backlog_s is None else self._left_s(belief, now)

    def succeeded(
        self,
        peer: NodeId,
        model: Digest,
        *,
        now: float,
        quoted_s: float | None,
        actual_s: float,
        run_s: float,
        queue_s: float = 0.0,
        nbytes: int = 0,
        rtt_s: float = 0.0,
    ) -> None:
        """A task came back.

        Args:
            quoted_s: the completion that was expected of it, None when nothing was.
            nbytes: of its tensors, there and back.
        """
        belief = self.of(peer)
        self._results += 1
        belief.revision += 1
        belief.results += 1
        belief.failures = 0
        belief.suspect_until = 0.0
        self._count(belief, now, failed=False)
        if nbytes >= LARGE_BYTES:
            self._learn_link(belief, nbytes, actual_s - queue_s - run_s - rtt_s)
        slow = quoted_s is not None and max(quoted_s, actual_s) > NOTICEABLE_S and actual_s > SLOW * quoted_s
        if slow:
            self._too_slow(belief, now)
        else:
            belief.slow, belief.ejections = 0, 0
            belief.ejected_until = belief.distrusted_until
        if quoted_s is not None:
            run_s = max(run_s, self._compare(peer, belief, quoted_s, actual_s))
        self._learn_run(belief, model, run_s)

    def unanswered(self, peer: NodeId, model: Digest, *, now: float, quoted_s: float, waited_s: float) -> None:
        """A task was given up while the peer had it: it takes at least so long.

        It counts when that is far more than the peer said. One that takes tasks and answers none brings no result to
        learn from, and would get every task for ever.
        """
        belief = self.of(peer)
        if waited_s <= max(NOTICEABLE_S, SLOW * self._said_s(peer, belief, quoted_s)):
            return
        belief.revision += 1
        self._too_slow(belief, now)
        if run_s := self._compare(peer, belief, quoted_s, waited_s):
            self._learn_run(belief, model, run_s)

    def _compare(self, peer: NodeId, belief: Belief, quoted_s: float, actual_s: float) -> float:
        """Learn from what was expected and what came.

        Returns what the run itself is believed to have taken at least: all of it, when no correction explains it.
        """
        if max(quoted_s, actual_s) <= NOTICEABLE_S:
            return 0.0
        shortfall_s = self.shortfall_s(peer)
        said_s = self._said_s(peer, belief, quoted_s)
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

    def _said_s(self, peer: NodeId, belief: Belief, quoted_s: float) -> float:
        """What the peer itself said, as far as it can be told from an estimate that was corrected already."""
        return max(quoted_s - self.shortfall_s(peer), 0.0) / belief.correction

    def shortfall_s(self, peer: NodeId) -> float:
        """Seconds that the peer takes beyond what it says, even corrected; fades as others bring results."""
        belief = self.of(peer)
        left_s = belief.shortfall_s * FADE ** (self._results - belief.shortfall_at)
        return left_s if left_s > NOTICEABLE_S else 0.0

    def failed(self, peer: NodeId, now: float) -> None:
        """A peer broke, fell silent, or gave no quote: leave it out for a moment, unless nobody else is left."""
        belief = self.of(peer)
        belief.revision += 1
        belief.failures += 1
        belief.suspect_until = now + self.settings.suspect_s
        self._count(belief, now, failed=True)
        mostly = belief.attempts >= EJECT_OF and belief.attempts_failed > EJECT_SHARE * belief.attempts
        if belief.failures >= EJECT_AFTER or mostly:
            self._eject(belief, now)

    def distrust(self, peer: NodeId, now: float) -> None:
        """A result was wrong: leave the peer out for longer, however quick its next ones are."""
        belief = self.of(peer)
        if belief.distrusted_until > now:
            return
        belief.revision += 1
        belief.distrusted_until = now + min(EJECT_S_MAX, DISTRUST_S * 2.0 ** min(belief.lies, 10))
        belief.lies += 1
        belief.ejected_until = max(belief.ejected_until, belief.distrusted_until)

    def distrusted(self, peer: NodeId, now: float) -> bool:
        """Whether a result of the peer was wrong lately."""
        return self.of(peer).distrusted_until > now

    def ejected(self, peer: NodeId, now: float) -> bool:
        """Whether the peer failed so often, or so badly, that it is left out for longer."""
        return self.of(peer).ejected_until > now

    def weight(self, peer: NodeId, known_s: float = NEWCOMER_S) -> float:
        """The peer's share of the draw: one that came `known_s` ago earns it by five results and ten seconds."""
        earned = min(1.0, 0.2 + 0.16 * self.of(peer).results)
        return earned * min(1.0, 0.1 + 0.9 * known_s / NEWCOMER_S)

    @property
    def known(self) -> int:
        """Of how many peers something is believed."""
        return len(self._beliefs)

    def keep(self, peers: Iterable[NodeId]) -> None:
        """Forget all others: they are gone for good."""
        self._beliefs = {peer: self._beliefs[peer] for peer in peers if peer in self._beliefs}

    # --- inside ---

    def _count(self, belief: Belief, now: float, *, failed: bool) -> None:
        if now - belief.counted_since > EJECT_WITHIN_S:
            belief.attempts = belief.attempts_failed = 0
            belief.counted_since = now
        belief.attempts += 1
        belief.attempts_failed += failed

    def _too_slow(self, belief: Belief, now: float) -> None:
        belief.slow += 1
        if belief.slow >= EJECT_AFTER:
            self._eject(belief, now)

    def _learn_run(self, belief: Belief, model: Digest, run_s: float) -> None:
        known = belief.service_s.get(model)
        belief.service_s[model] = run_s if known is None else known + ALPHA * (run_s - known)

    def _eject(self, belief: Belief, now: float) -> None:
        """Set it aside; when the time is over it is a newcomer again, and one result is its way back."""
        if now < belief.ejected_until:
            return
        lasts_s = min(EJECT_S_MAX, EJECT_S * 2**belief.ejections) * self.rng.uniform(1 - JITTER, 1.0)
        belief.ejected_until = now + lasts_s
        belief.ejections = min(belief.ejections + 1, 16)
        belief.results = belief.slow = belief.attempts = belief.attempts_failed = 0

    def _left_s(self, belief: Belief, now: float) -> float:
        return max(0.0, (belief.backlog_s or 0.0) - (now - belief.backlog_at))

    def _learn_link(self, belief: Belief, nbytes: int, moving_s: float) -> None:
        bytes_s = nbytes / max(moving_s, 1e-4)
        belief.bytes_s = bytes_s if belief.bytes_s is None else belief.bytes_s + ALPHA * (bytes_s - belief.bytes_s)
