"""Which news to tell next: the newest word about each node, those told least often first. A core.

An update is told `mult` x log10(N + 1) times, at least eight; hearing it from another counts as two tellings, for it
is spreading without us. A newer word about a node replaces the older one, so there is never more than one entry a
node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from meshnode.membership.updates import AnyUpdate, encode
from meshnode.wire.messages import NodeId

HEARD_COUNTS = 2
TOLD_MIN = 8
"""In small meshes too, so that the early stop on hearing it back leaves nobody out."""


@dataclass(slots=True)
class _Entry:
    update: AnyUpdate
    nbytes: int
    told: int
    order: int


@dataclass(slots=True)
class News:
    """The queue."""

    mult: float
    _entries: dict[NodeId, _Entry] = field(default_factory=dict)
    _order: int = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, subject: NodeId, update: AnyUpdate) -> None:
        """There is something new about a node."""
        self._order += 1
        self._entries[subject] = _Entry(update, len(encode(update)), 0, self._order)

    def heard(self, subject: NodeId, update: AnyUpdate, nodes: int) -> None:
        """Someone else tells it too."""
        entry = self._entries.get(subject)
        if entry is not None and entry.update == update:
            entry.told += HEARD_COUNTS
            if entry.told >= self._limit(nodes):
                del self._entries[subject]

    def take(self, nbytes: int, nodes: int, first: NodeId | None = None) -> tuple[AnyUpdate, ...]:
        """Updates that fit in so many bytes; what concerns `first`, the receiver, goes before all else."""
        limit = self._limit(nodes)
        order = sorted(
            self._entries.items(), key=lambda item: (item[0] != first, item[1].told, -item[1].nbytes, -item[1].order)
        )
        chosen = []
        for subject, entry in order:
            if entry.nbytes > nbytes:
                continue
            nbytes -= entry.nbytes
            chosen.append(entry.update)
            entry.told += 1
            if entry.told >= limit:
                del self._entries[subject]
        return tuple(chosen)

    def _limit(self, nodes: int) -> int:
        return max(TOLD_MIN, math.ceil(self.mult * math.log10(nodes + 1)))
