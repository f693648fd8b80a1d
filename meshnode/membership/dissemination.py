"""Which news to tell next: the newest word about each node, those told least often first. A core.

An update is told `mult` x log10(N + 1) times, at least eight; hearing it from another counts as two tellings, for it
is spreading without us. A newer word about a node replaces the older one, so there is never more than one entry a
node. Entries lie in tiers by how often they were told, so taking some costs no look at the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from meshnode.membership.updates import AnyUpdate, encode
from meshnode.wire.messages import NodeId

HEARD_COUNTS = 2
TOLD_MIN = 8
"""In small meshes too, so that the early stop on hearing it back leaves nobody out."""
SMALLEST_BYTES = 80
"""No update is smaller: with less room there is no need to look further."""


@dataclass(slots=True)
class News:
    """The queue. `feedback`: whether hearing an update again counts."""

    mult: float
    feedback: bool = True
    _tiers: list[dict[NodeId, tuple[AnyUpdate, int]]] = field(default_factory=list)
    _tier_of: dict[NodeId, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._tier_of)

    def put(self, subject: NodeId, update: AnyUpdate) -> None:
        """There is something new about a node."""
        self.drop(subject)
        self._place(subject, (update, len(encode(update))), 0)

    def drop(self, subject: NodeId) -> None:
        """What was to be told about a node is no news any more."""
        tier = self._tier_of.pop(subject, None)
        if tier is not None:
            del self._tiers[tier][subject]

    def heard(self, subject: NodeId, update: AnyUpdate, nodes: int) -> None:
        """Someone else tells it too."""
        tier = self._tier_of.get(subject)
        if tier is None or not self.feedback:
            return
        entry = self._tiers[tier][subject]
        if entry[0] == update:
            self.drop(subject)
            if tier + HEARD_COUNTS < self._limit(nodes):
                self._place(subject, entry, tier + HEARD_COUNTS)

    def take(self, nbytes: int, nodes: int, first: NodeId | None = None) -> tuple[AnyUpdate, ...]:
        """Updates that fit in so many bytes; what concerns `first`, the receiver, goes before all else."""
        if not self._tier_of:
            return ()
        chosen: list[tuple[int, NodeId, tuple[AnyUpdate, int]]] = []
        if first is not None and (tier_of_first := self._tier_of.get(first)) is not None:
            entry = self._tiers[tier_of_first][first]
            if entry[1] <= nbytes:
                chosen.append((tier_of_first, first, entry))
                nbytes -= entry[1]
        for told, tier in enumerate(self._tiers):
            if nbytes < SMALLEST_BYTES:
                break
            for subject in reversed(tier):
                entry = tier[subject]
                if entry[1] <= nbytes and subject != first:
                    chosen.append((told, subject, entry))
                    nbytes -= entry[1]
                if nbytes < SMALLEST_BYTES:
                    break
        limit = self._limit(nodes)
        for told, subject, entry in chosen:
            self.drop(subject)
            if told + 1 < limit:
                self._place(subject, entry, told + 1)
        return tuple(entry[0] for _, _, entry in chosen)

    def _place(self, subject: NodeId, entry: tuple[AnyUpdate, int], tier: int) -> None:
        while len(self._tiers) <= tier:
            self._tiers.append({})
        self._tiers[tier][subject] = entry
        self._tier_of[subject] = tier

    def _limit(self, nodes: int) -> int:
        return max(TOLD_MIN, math.ceil(self.mult * math.log10(nodes + 1)))
