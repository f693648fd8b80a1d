"""Who asks for places and does not take them. A table without time.

A quote keeps a place, and a place that is kept makes the next quote worse. A submitter that asks three nodes takes one
place in three or in six; one that takes none would push a node's line up for everybody, for the price of a frame. It
still gets its quotes, and no place is kept for it. An honest one at a node that is never the best loses nothing: there
is nothing to keep.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from meshnode.wire.messages import NodeId

SEEN_MIN = 50
"""Questions before anybody is judged."""
SEEN_MAX = 200
"""Then both counts are halved: habits change."""
TAKEN_MIN = 0.05
SUBMITTERS_MAX = 4096


@dataclass(slots=True)
class Habits:
    """How many questions, and how many tasks after them, by submitter."""

    _counts: OrderedDict[NodeId, tuple[int, int]] = field(default_factory=OrderedDict)

    def asked(self, submitter: NodeId) -> bool:
        """A question came; whether a place should be kept for it."""
        asked, taken = self._counts.pop(submitter, (0, 0))
        if asked >= SEEN_MAX:
            asked, taken = asked // 2, taken // 2
        self._counts[submitter] = (asked + 1, taken)
        if len(self._counts) > SUBMITTERS_MAX:
            self._counts.popitem(last=False)
        return asked < SEEN_MIN or taken >= TAKEN_MIN * asked

    def took(self, submitter: NodeId) -> None:
        """A task came after a question."""
        asked, taken = self._counts.get(submitter, (0, 0))
        if asked:
            self._counts[submitter] = (asked, min(asked, taken + 1))
