"""The probes that are under way, our own and those that we make for others, and whose turn is next.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from meshnode.membership.alarms import Alarms
from meshnode.membership.roster import Roster
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

RELAYS_MAX, RELAYS_OF_ONE = 1024, 32
"""Pings for others that are remembered until their time is over, answered or not; and those for one of them."""


@dataclass(slots=True)
class Probe:
    """Of one target: a ping, the same again, then helpers."""

    target: NodeId
    seq: int
    began: float
    again_at: float
    indirect_at: float
    ends: float
    repeated: bool = False
    asked: bool = False
    helpers: int = 0
    nacks: int = 0

    def next(self) -> float:
        """When its next step is due."""
        if self.asked:
            return self.ends
        return self.indirect_at if self.repeated else self.again_at


@dataclass(slots=True)
class Relay:
    """A ping on behalf of another, which is told at `nack_at` when there is no answer."""

    asker: NodeId
    asker_seq: int
    nack_at: float


@dataclass(slots=True)
class Relays:
    """Those that are under way, by the sequence number of our ping."""

    _open: dict[int, Relay] = field(default_factory=dict)
    _nacks: Alarms[tuple[int, NodeId]] = field(default_factory=Alarms)
    _asked: Counter[NodeId] = field(default_factory=Counter)

    def ask(self, seq: int, relay: Relay) -> bool:
        """Begin one; False when there are too many."""
        if self._asked.total() >= RELAYS_MAX or self._asked[relay.asker] >= RELAYS_OF_ONE:
            return False
        self._open[seq] = relay
        self._asked[relay.asker] += 1
        self._nacks.set(relay.nack_at, (seq, relay.asker))
        return True

    def answered(self, seq: int) -> Relay | None:
        """An ack came; whose ping it was, when it was one of these."""
        return self._open.pop(seq, None)

    def next(self) -> float:
        """When to look for silent ones."""
        return self._nacks.next()

    def silent(self, now: float) -> list[Relay]:
        """Take out those that got no answer in time."""
        found = []
        for seq, asker in self._nacks.due(now):
            self._asked[asker] -= 1
            if self._asked[asker] == 0:
                del self._asked[asker]
            if (relay := self._open.pop(seq, None)) is not None:
                found.append(relay)
        return found


@dataclass(slots=True)
class Turns:
    """Round robin over a shuffled list, so that every member is probed within two rounds (SWIM, section 4.3)."""

    me: NodeId
    _left: list[NodeId] = field(default_factory=list)
    _listed: set[NodeId] = field(default_factory=set)

    def add(self, node: NodeId, rng: Rng) -> None:
        """A newcomer is due at a random place of the present round."""
        if node not in self._listed:
            self._listed.add(node)
            self._left.append(node)
            at = rng.randrange(len(self._left))
            self._left[at], self._left[-1] = self._left[-1], self._left[at]

    def at_once(self, node: NodeId) -> None:
        """This one next."""
        self._left.append(node)

    def next(self, roster: Roster, rng: Rng) -> NodeId | None:
        """Whom to probe; None when nobody else is there."""
        for fresh in (False, True):
            if fresh:
                self._left = roster.living_ids(but=self.me)
                self._listed = set(self._left)
                rng.shuffle(self._left)
            while self._left:
                node = self._left.pop()
                self._listed.discard(node)
                row = roster.get(node)
                if row is not None and row.living:
                    return node
        return None
