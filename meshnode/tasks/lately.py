"""What the outcomes of the last tasks add up to, for whoever watches: where they went, and which went astray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from meshnode.tasks.flow import Flow
from meshnode.tasks.notable import Notable
from meshnode.tasks.outcomes import Ended, Served
from meshnode.wire.messages import NodeId


@dataclass(slots=True)
class Lately:
    """Hears how each task ended, and passes it on.

    Args:
        me: tasks of this node that it does itself are counted as its own, not as another's.
    """

    me: NodeId
    now: Callable[[], float]
    then_ended: Callable[[Ended], None]
    then_served: Callable[[Served], None]
    flow: Flow = field(default_factory=Flow)
    notable: Notable = field(default_factory=Notable)

    def ended(self, it: Ended) -> None:
        """A task that was submitted here."""
        now = self.now()
        if it.node is not None:
            self.flow.answered(now, it.node, it.seconds)
            if len(it.tried) > 1:
                self.notable.ended(now, it)
        elif it.outcome != "cancelled":
            self.flow.failed(now)
            self.notable.ended(now, it)
        self.then_ended(it)

    def served(self, it: Served) -> None:
        """A task that this node was given."""
        if it.submitter != self.me:
            now = self.now()
            if it.outcome == "ok":
                self.flow.served(now, it.submitter)
            else:
                self.notable.served(now, it)
        self.then_served(it)
