"""The probes that are under way, our own and those that we make for others, and whose turn is next.

Times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshnode.membership.alarms import Alarms
from meshnode.membership.roster import Roster
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

RELAYS_MAX = 1024


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
    _nacks: Alarms[int] = field(default_factory=Alarms)

    def ask(self, seq: int, relay: Relay) -> bool:
        """Begin one; False when there are too many."""
        if len(self._open) >= RELAYS_MAX:
            return False
        self._open[seq] = relay
        self._nacks.set(relay.nack_at, seq)
        return True

    def answered(self, seq: int) -> Relay | None:
        """An ack came; whose ping it was, when it was one of these."""
        return self._open.pop(seq, None)

    def next(self) -> float:
        """When to look for silent ones."""
        return self._nacks.next()

    def silent(self, now: float) -> list[Relay]:
        """Take out those that got no answer in time."""
        return [relay for seq in self._nacks.due(now) if (relay := self._open.pop(seq, None)) is not None]


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
