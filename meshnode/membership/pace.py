"""When what is done now and then is done next: evening out tables, trying the dead, answering unasked. A core.

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from meshnode.config import Membership as Settings
from meshnode.membership.updates import AnyUpdate
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

BULK, BULK_S = 64, 0.5
"""With more news waiting than this, tables are evened out over links, about every half second."""
DIFFER_S, DIFFER_MAX_S = 2.0, 30.0
"""Tables that differ although neither side has news are evened out at most so often; longer while that is no help."""
RETRIES_MAX = 8
"""So many of the dead are tried at once, when nearly all are dead."""
REMIND_S = 1.0
REMINDED_MAX = 1024
REFUTE_S = 0.25
"""Far less than the shortest suspicion, and far more often than honest members would have to be answered."""
ACCUSER_S = 30.0


@dataclass(slots=True)
class Pace:
    """Of anti-entropy: now and then with anyone, soon when much news waits, and at once when tables differ."""

    settings: Settings
    rng: Rng
    born: float
    _sync_at: float = field(init=False)
    _retry_at: float = field(init=False)
    _bulk_at: float = -math.inf
    _differ_at: float = -math.inf
    _differ_gap_s: float = DIFFER_S

    def __post_init__(self) -> None:
        self._sync_at = self.born + self.settings.sync_interval_s * self.rng.random()
        self._retry_at = self.born + self._retry_s()

    def next(self) -> float:
        """When to look again."""
        return min(self._sync_at, self._retry_at)

    def evens_out(self, now: float, living: int, news: int) -> bool:
        """Whether to even out tables with anyone now; less often in large meshes."""
        if self._sync_at <= now:
            scale = max(1.0, math.log2(max(living, 1)) - 5)
            self._sync_at = now + self.settings.sync_interval_s * scale * self.rng.uniform(0.7, 1.3)
        elif news <= BULK or self._bulk_at > now:
            return False
        self._bulk_at = now + BULK_S * self.rng.uniform(0.5, 1.5)
        return True

    def retries(self, now: float) -> bool:
        """Whether it is time to see if one of the dead is back."""
        due = self._retry_at <= now
        if due:
            self._retry_at = now + self._retry_s()
        return due

    def differs(self, now: float) -> bool:
        """A peer's table differs although neither side has news: whether to even them out now."""
        if self._differ_at > now:
            return False
        self._differ_at = now + self._differ_gap_s * self.rng.uniform(0.5, 1.5)
        self._differ_gap_s = min(self._differ_gap_s * 2, DIFFER_MAX_S)
        return True

    def stirred(self, now: float) -> None:
        """Something changed here: whoever differs now may do so for a new reason."""
        self._differ_gap_s = DIFFER_S
        self._differ_at = min(self._differ_at, now + DIFFER_S)

    def _retry_s(self) -> float:
        return self.settings.reconnect_interval_s * self.rng.uniform(0.5, 1.5)


@dataclass(slots=True)
class Reminders:
    """One unasked answer a peer and second: two nodes that misunderstand each other must not talk for ever."""

    _at: dict[NodeId, float] = field(default_factory=dict)

    def may(self, peer: NodeId, now: float) -> bool:
        """Whether the peer may be answered unasked now."""
        if now - self._at.get(peer, -math.inf) < REMIND_S:
            return False
        if len(self._at) >= REMINDED_MAX:
            self._at.clear()
        self._at[peer] = now
        return True


@dataclass(slots=True)
class Defence:
    """When this node answers accusations of itself, and which of them say that it is slow.

    One answer outdoes all accusations before it, so a flood is answered now and then, and the last of it too. And one
    accuser, whatever it says, is one opinion: a node that doubts itself probes up to eight times more slowly, and no
    single member is to bring all others to that.
    """

    owed: AnyUpdate | None = None
    _may_at: float = -math.inf
    _counted: dict[bytes, float] = field(default_factory=dict)

    def next(self) -> float:
        """When what is owed is due."""
        return self._may_at if self.owed is not None else math.inf

    def may(self, accusation: AnyUpdate, now: float) -> bool:
        """Whether to answer it now; otherwise it is owed an answer."""
        if now < self._may_at:
            self.owed = accusation
            return False
        self.owed, self._may_at = None, now + REFUTE_S
        return True

    def counts(self, accuser: bytes, now: float) -> bool:
        """Whether it is an opinion that was not counted lately."""
        if now - self._counted.get(accuser, -math.inf) < ACCUSER_S:
            return False
        if len(self._counted) >= REMINDED_MAX:
            self._counted.clear()
        self._counted[accuser] = now
        return True
