"""One node as seen from here: what the members agreed on, and what this node knows first-hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from meshnode.links.address import Address
from meshnode.membership.advert import Advert
from meshnode.membership.roster import Row, State
from meshnode.membership.updates import Alive
from meshnode.wire.messages import NodeId

FoundBy = Literal["self", "mdns", "seed", "token", "remembered", "rendezvous", "gossip", "inbound"]


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

    since: float
    found_by: FoundBy = "gossip"
    proven: Address | None = None
    trouble: str = ""


COPIED = (
    "its home was copied and runs on two machines; stop one, and let that machine join anew with a token of its own"
)


def member_of(
    row: Row,
    known: Known,
    advert: Advert | None,
    addresses: tuple[Address, ...],
    *,
    path: str,
    granted_name: str | None,
    revoked: bool,
) -> Member:
    """The row and what is known beside it, as one thing to look at."""
    twice = isinstance(row.word, Alive) and row.word.twin != 0
    reason = {"left": f"it left: {row.reason}", "dead": "it does not answer: declared dead by its peers"}.get(
        row.state, known.trouble or (COPIED if twice else "")
    )
    here = row.state == "alive" and not known.trouble and not revoked
    return Member(
        id=row.id,
        name=advert.name if advert is not None else granted_name or row.id[:8],
        state="left" if revoked else row.state,
        usable=here and (path == "self" or advert is not None),
        advert=advert,
        addresses=addresses,
        address=known.proven or next(iter(addresses), None),
        found_by=known.found_by,
        path=path,
        reason="revoked" if revoked else reason,
        since=known.since,
    )


def peers_of(view: Sequence[Member]) -> list[tuple[NodeId, tuple[Address, ...]]]:
    """Who to remember for the next start: nodes that were there lately, and where."""
    return [(m.id, m.addresses) for m in view if m.path != "self" and m.addresses and m.state != "left"]
