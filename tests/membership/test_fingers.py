"""The links that a large mesh keeps: few, the same from both ends, and everybody is reached over them."""

from __future__ import annotations

import math
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from meshnode.membership.fingers import fingers
from meshnode.wire.messages import NodeId

IDS = st.sets(st.text("abcdefgh234567", min_size=4, max_size=4).map(NodeId), min_size=1, max_size=200)


def links(ids: set[NodeId]) -> dict[NodeId, frozenset[NodeId]]:
    return {one: fingers(one, ids) for one in ids}


def hops(graph: dict[NodeId, frozenset[NodeId]], start: NodeId) -> dict[NodeId, int]:
    """To everybody who is reached."""
    known, edge, far = {start: 0}, {start}, 0
    while edge:
        far += 1
        edge = {other for one in edge for other in graph[one]} - set(known)
        known |= dict.fromkeys(edge, far)
    return known


@given(IDS)
def test_both_ends_keep_a_link_and_there_are_few(ids: set[NodeId]) -> None:
    """Nobody keeps one to itself, and it is all one whether a node is among those that it is given."""
    graph = links(ids)
    for one, kept in graph.items():
        assert one not in kept
        assert all(one in graph[other] for other in kept)
        assert len(kept) <= 2 * math.log2(len(ids))
        assert kept == fingers(one, ids - {one})


@given(IDS)
def test_everybody_is_reached_in_few_hops(ids: set[NodeId]) -> None:
    """The logarithm of their number."""
    reached = hops(links(ids), min(ids))
    assert ids == set(reached)
    assert max(reached.values()) <= math.log2(len(ids))


@given(IDS.filter(lambda ids: len(ids) > 8), st.randoms(use_true_random=False))
def test_a_few_that_died_unnoticed_cut_nobody_off(ids: set[NodeId], rng: Random) -> None:
    """Views lag: who keeps links to two dead neighbours has others."""
    ordered = sorted(ids)
    at = rng.randrange(len(ordered))
    dead = {ordered[at], ordered[(at + 1) % len(ordered)]}
    graph = {one: kept - dead for one, kept in links(ids).items() if one not in dead}
    assert ids - dead == set(hops(graph, min(ids - dead)))
