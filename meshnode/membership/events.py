"""What can happen to the failure detector, and what it wants done: the values that go in and come out of `Swim`."""

from __future__ import annotations

from dataclasses import dataclass

from meshnode.membership.entropy import Told
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
    """Updates that came over a link, from anti-entropy or as somebody's word about itself."""

    told: tuple[Told, ...]


@dataclass(frozen=True, slots=True)
class StreamAnswered:
    """The peer answered a ping over its link."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class StreamsHeard:
    """These peers were heard on their links since the last time this was said."""

    peers: tuple[NodeId, ...]


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
class Woke:
    """The machine slept, or its network changed: what is held about others is old."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """This node is about to stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class Evicted:
    """A member was thrown out of the mesh."""

    peer: NodeId


Event = Received | Merged | StreamAnswered | StreamsHeard | Broken | Advertised | Woke | Leaving | Evicted


@dataclass(frozen=True, slots=True)
class Send:
    """Send a packet to a peer."""

    peer: NodeId
    packet: AnyPacket


@dataclass(frozen=True, slots=True)
class PingStream:
    """Ping the peer over its link, telling it `accusation`, and report StreamAnswered and its word."""

    peer: NodeId
    accusation: AnyUpdate | None = None


@dataclass(frozen=True, slots=True)
class Sync:
    """Even out views with the peer over a link, dialling it if need be, and report Merged."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Changed:
    """A row changed; `before` is None for a node that was not known."""

    row: Row
    before: State | None


@dataclass(frozen=True, slots=True)
class Reborn:
    """This start has a higher start counter from now on: keep it, draw new keys, advertise anew."""

    gen: int


@dataclass(frozen=True, slots=True)
class Isolated:
    """Nobody is heard any more; or, False, somebody is heard again."""

    now: bool


Effect = Send | PingStream | Sync | Changed | Reborn | Isolated
