"""Who is suspected, by whom, and until when: long when one node says so, short when several do (Lifeguard's second
part). A core.

No single accuser can kill: whatever it says, a suspicion here lasts its shortest time, in which the subject, told
first, refutes. Another member's verdict together with a second accuser halves that, and nothing goes below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from meshnode.config import Membership
from meshnode.membership.alarms import Alarms
from meshnode.wire.messages import NodeId

CONFIRMATIONS = 2
"""So many accusers beside the first bring it down to its shortest."""
VERDICT_SHARE = 0.5
"""With a verdict of others and two accusers it ends after this share of its shortest time."""


def shortest_s(settings: Membership, nodes: int) -> float:
    """The shortest suspicion in a mesh of so many nodes."""
    return settings.suspicion_mult * max(1.0, math.log10(max(nodes, 1))) * settings.probe_interval_s


@dataclass(slots=True)
class Suspicion:
    """Of one node at one version; times are monotonic seconds. `quiet`: it is old news and not told on.

    `tell_at`: when the suspect is told of it again; infinity while that is for others to do.
    """

    version: tuple[int, int]
    began: float
    min_s: float
    max_s: float
    accusers: set[bytes] = field(default_factory=set)
    verdict: bool = False
    quiet: bool = False
    tell_at: float = math.inf

    def ends(self) -> float:
        """When it becomes a death: from max down to min as independent accusers confirm."""
        if self.verdict:
            return self.began + self.min_s * (VERDICT_SHARE if len(self.accusers) >= 2 else 1.0)
        confirmations = min(len(self.accusers) - 1, CONFIRMATIONS)
        share = math.log(confirmations + 1) / math.log(CONFIRMATIONS + 1)
        return self.began + max(self.min_s, self.max_s - (self.max_s - self.min_s) * share)


@dataclass(slots=True)
class Suspicions:
    """All that are held."""

    _held: dict[NodeId, Suspicion] = field(default_factory=dict)
    _alarms: Alarms[NodeId] = field(default_factory=Alarms)

    def __len__(self) -> int:
        return len(self._held)

    def get(self, node: NodeId) -> Suspicion | None:
        """The suspicion of a node."""
        return self._held.get(node)

    def begin(self, node: NodeId, suspicion: Suspicion) -> None:
        """It begins, or begins anew about a newer version."""
        self._held[node] = suspicion
        self._alarms.set(suspicion.ends(), node)

    def changed(self, node: NodeId) -> None:
        """Its end may have come nearer."""
        self._alarms.set(self._held[node].ends(), node)

    def shorten(self, node: NodeId, share: float) -> None:
        """There is strong evidence: it lasts this share of its shortest time, whoever confirms it."""
        suspicion = self._held.get(node)
        if suspicion is not None:
            suspicion.min_s = suspicion.max_s = suspicion.min_s * share
            self.changed(node)

    def end(self, node: NodeId) -> None:
        """Refuted, or become a verdict."""
        self._held.pop(node, None)

    def hold(self, seconds: float) -> None:
        """These seconds do not count: all ends move away."""
        for suspicion in self._held.values():
            suspicion.began += seconds

    def begin_again(self, now: float) -> None:
        """What was held until now does not count at all."""
        for suspicion in self._held.values():
            suspicion.began = now

    def next(self) -> float:
        """When to look again; sooner than the nearest end at times, never later."""
        return self._alarms.next() if self._held else math.inf

    def due(self, now: float) -> Iterator[tuple[NodeId, Suspicion]]:
        """Take out those whose time is over."""
        for node in self._alarms.due(now):
            suspicion = self._held.get(node)
            if suspicion is None:
                continue
            if suspicion.ends() > now:
                self._alarms.set(suspicion.ends(), node)
            else:
                del self._held[node]
                yield node, suspicion


@dataclass(slots=True)
class Accusers:
    """How many accusations of each member are listened to: what one node can find out by probing, and not a flood.

    A token bucket an accuser; times are monotonic seconds.
    """

    per_s: float = 2.0
    burst: float = 64.0
    _buckets: dict[bytes, tuple[float, float]] = field(default_factory=dict)

    def heard(self, accuser: bytes, now: float) -> bool:
        """Whether one more accusation of this accuser is listened to."""
        left, at = self._buckets.get(accuser, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.per_s)
        if left < 1.0:
            return False
        if len(self._buckets) >= 4096 and accuser not in self._buckets:
            self._buckets.clear()  # a bound; at worst everyone has a full bucket again
        self._buckets[accuser] = (left - 1.0, now)
        return True
