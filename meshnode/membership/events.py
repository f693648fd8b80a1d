"""What can happen to the failure detector, and what it wants done: the values that go in and come out of `Swim`."""

from __future__ import annotations

from dataclasses import dataclass

from meshnode.membership.roster import Row, State
from meshnode.membership.updates import AnyPacket, AnyUpdate
from meshnode.wire.messages import NodeId


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram from a peer, opened and decoded."""

    sender: NodeId
    packet: AnyPacket


@dataclass(frozen=True, slots=True)
class Merged:
    """Updates that came over a link."""

    news: tuple[AnyUpdate, ...]


@dataclass(frozen=True, slots=True)
class StreamAnswered:
    """The peer answered over its link, or said anything there."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Broken:
    """First-hand evidence: the link broke. `refused`: and its address actively refused a new connection."""

    peer: NodeId
    refused: bool


@dataclass(frozen=True, slots=True)
class Advertised:
    """Our own advert has a new version."""

    version: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """This node is about to stop."""

    reason: str


Event = Received | Merged | StreamAnswered | Broken | Advertised | Leaving


@dataclass(frozen=True, slots=True)
class Send:
    """Send a packet to a peer."""

    peer: NodeId
    packet: AnyPacket


@dataclass(frozen=True, slots=True)
class PingStream:
    """Ping the peer over its link, and report StreamAnswered."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Changed:
    """A row changed; `before` is None for a node that was not known."""

    row: Row
    before: State | None


Effect = Send | PingStream | Changed
