"""Who is fetching a model from this node, and what it was given: said to the others that fetch it. A core.

Whoever fetches asks its holders once a second what they have; that it asked is how the next one hears of it. So the
first fellows meet at the source, and nobody has to announce anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshnode.wire.messages import Digest, NodeId
from meshnode.wire.rng import Rng

FRESH_S = 5.0
"""Who did not ask for so long is not fetching any more."""
NAMED_MAX = 64
"""So many are named in one answer, drawn by lot."""
KNOWN_MAX = 4096


@dataclass(slots=True)
class _Swarm:
    asked_at: dict[NodeId, float] = field(default_factory=dict)
    given: set[int] = field(default_factory=set)


class Fellows:
    """See the module's docstring."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._swarms: dict[Digest, _Swarm] = {}

    def asked(self, now: float, digest: Digest, peer: NodeId) -> tuple[NodeId, ...]:
        """A peer fetches the model: the others that do."""
        self.clean(now)
        swarm = self._swarms.setdefault(digest, _Swarm())
        if peer in swarm.asked_at or len(swarm.asked_at) < KNOWN_MAX:
            swarm.asked_at[peer] = now
        others = [node for node in swarm.asked_at if node != peer]
        return tuple(others if len(others) <= NAMED_MAX else self._rng.sample(others, NAMED_MAX))

    def gave(self, digest: Digest, number: int) -> None:
        """A piece, by its number, goes to somebody."""
        if (swarm := self._swarms.get(digest)) is not None:
            swarm.given.add(number)

    def given(self, digest: Digest) -> set[int]:
        """The pieces that went to somebody while there were any that fetch."""
        swarm = self._swarms.get(digest)
        return swarm.given if swarm is not None else set()

    def clean(self, now: float) -> None:
        """Forget those that do not fetch any more, and what they were given."""
        for digest, swarm in list(self._swarms.items()):
            swarm.asked_at = {node: at for node, at in swarm.asked_at.items() if now - at < FRESH_S}
            if not swarm.asked_at:
                del self._swarms[digest]
