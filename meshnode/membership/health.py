"""How well this node itself is doing, from what it sees: its own slowness must not be held against others. A core.

The score is Lifeguard's local health multiplier, 0 (well) to 7: it stretches the probe interval and timeout by
score + 1. It rises with evidence against oneself: helpers that say neither ack nor nack, having to refute, timers
that come late, hearing nobody at all; it falls with each answered probe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from meshnode.wire.messages import NodeId

SCORE_MAX = 7
DEAF_ISOLATED = 3
"""So many probes in a row without a word from anybody are isolation."""


@dataclass(slots=True)
class Health:
    """Times are monotonic seconds."""

    score: int = 0
    heard_at: float = 0.0
    """When anything was last heard from anybody."""
    deaf: int = 0
    """Probes in a row during which nothing was heard."""

    def ail(self, change: int) -> None:
        """Worse by so much, or better."""
        self.score = max(0, min(SCORE_MAX, self.score + change))

    def heard(self, now: float) -> bool:
        """A word from somebody. Returns whether this ends an isolation."""
        back = self.isolated
        self.heard_at = now
        self.deaf = 0
        return back

    def deaf_since(self, began: float) -> bool:
        """Note a probe that got no answer; whether nothing at all was heard since it began."""
        if self.heard_at >= began:
            self.deaf = 0
            return False
        self.deaf += 1
        return True

    @property
    def isolated(self) -> bool:
        """Whether this node seems to be cut off from everyone."""
        return self.deaf >= DEAF_ISOLATED


FORGOTTEN_S = 30.0


@dataclass(slots=True)
class Ears:
    """When each peer was last heard, by anything and on its link; monotonic seconds."""

    _by_any: dict[NodeId, float] = field(default_factory=dict)
    _on_link: dict[NodeId, float] = field(default_factory=dict)

    def hear(self, peer: NodeId, now: float, *, on_link: bool = False) -> None:
        """A word of a peer."""
        self._by_any[peer] = now
        if on_link:
            self._on_link[peer] = now

    def heard_at(self, peer: NodeId) -> float:
        """When it was last heard at all; -inf for never, or long ago."""
        return self._by_any.get(peer, -math.inf)

    def on_link_at(self, peer: NodeId) -> float:
        """When it was last heard on its link."""
        return self._on_link.get(peer, -math.inf)

    def broken(self, peer: NodeId) -> None:
        """Its link says nothing for it any more."""
        self._on_link.pop(peer, None)

    def prune(self, now: float) -> None:
        """Drop what is too old to matter."""
        for heard in (self._by_any, self._on_link):
            for peer in [peer for peer, at in heard.items() if now - at > FORGOTTEN_S]:
                del heard[peer]
