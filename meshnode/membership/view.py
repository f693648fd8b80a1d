"""One node as seen from here: what the members agreed on, and what this node knows first-hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from meshnode.links.pool import Address
from meshnode.membership.advert import Advert
from meshnode.membership.roster import State
from meshnode.wire.messages import NodeId

FoundBy = Literal["self", "mdns", "seed", "token", "remembered", "gossip", "inbound"]


@dataclass(frozen=True, slots=True)
class Member:
    """One node as seen from here.

    `since` is monotonic seconds, `reason` why it is absent or not used, `path` is `self`, `direct`, `relay via NAME`
    or `none`.
    """

    id: NodeId
    name: str
    state: State
    usable: bool
    advert: Advert | None
    addresses: tuple[Address, ...]
    address: Address | None
    found_by: FoundBy
    path: str
    reason: str
    since: float


@dataclass(slots=True)
class Known:
    """What is remembered of a peer beside its row."""

    found_by: FoundBy = "gossip"
    proven: Address | None = None
    trouble: str = ""
    since: float = field(default_factory=time.monotonic)


def peers_of(view: Sequence[Member]) -> list[tuple[NodeId, tuple[Address, ...]]]:
    """Who to remember for the next start: nodes that were there lately, and where."""
    return [(m.id, m.addresses) for m in view if m.path != "self" and m.addresses and m.state != "left"]
