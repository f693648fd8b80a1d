"""Whom a node of a large mesh keeps a link to, whatever there is to say. Pure.

Statements are pushed over links, from each node to all that it is linked with, and adverts are asked for over them: so
the links that stay must reach everybody. In the ring of all ids in order, a node keeps those to the members 1, 2, 4,
8, … places before and behind it, as the fingers of Chord (Stoica et al., 2001) but both ways: both ends know that the
link stays, whoever is missing in the ring leaves a way around, and news is everywhere after log2(n) hops at most.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from meshnode.wire.messages import NodeId


def fingers(me: NodeId, living: Iterable[NodeId]) -> frozenset[NodeId]:
    """The members that `me` keeps a link to, of those that live: at most 2 log2(n)."""
    ring = sorted({me, *living})
    at, count = bisect_left(ring, me), len(ring)
    found = set()
    step = 1
    while step <= count // 2:
        found |= {ring[(at + step) % count], ring[at - step]}
        step *= 2
    return frozenset(found - {me})
