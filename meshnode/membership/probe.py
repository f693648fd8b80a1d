"""The probes that are under way: our own, and those that we make for others. Times are monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass

from meshnode.wire.messages import NodeId


@dataclass(slots=True)
class Probe:
    """Of one target: a ping, then helpers."""

    target: NodeId
    seq: int
    began: float
    indirect_at: float
    ends: float
    asked: bool = False
    helpers: int = 0
    nacks: int = 0


@dataclass(slots=True)
class Relay:
    """A ping on behalf of another."""

    asker: NodeId
    asker_seq: int
    nack_at: float
