"""Placement: the same answer on every node, few moves, and a reason for each node that is left out."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.fleet.blueprint import Canary, Trial, Want
from meshnode.fleet.placement import Site, seats, trial_seats, unfit
from meshnode.wire.messages import Digest, NodeId

DIGEST = Digest("a" * 64)
NEXT = Digest("b" * 64)


def want(**more: object) -> Want:
    return Want(**{"model": "digits", "version": 1, "digest": DIGEST, "replicas": 2, **more})  # type: ignore[arg-type]


def sites(count: int, **more: object) -> list[Site]:
    return [Site(NodeId(f"node{i:04}"), **more) for i in range(count)]  # type: ignore[arg-type]


@given(st.integers(1, 40), st.integers(0, 10), st.randoms(use_true_random=False))
def test_every_node_comes_to_the_same_answer(count: int, replicas: int, rng: random.Random) -> None:
    """Whatever order the nodes are known in; as many as wanted, or as there are."""
    nodes = sites(count)
    shuffled = list(nodes)
    rng.shuffle(shuffled)
    mine = seats(want(replicas=replicas), nodes)
    assert mine == seats(want(replicas=replicas), shuffled)
    assert (min(replicas, count) if replicas else count) == len(set(mine))


@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 29))
def test_a_death_moves_nothing_but_what_it_held(count: int, replicas: int, victim: int) -> None:
    """Those who had the model and live go on having it; at most one more has it; and back again."""
    nodes = sites(count)
    before = seats(want(replicas=replicas), nodes)
    after = seats(want(replicas=replicas), [site for i, site in enumerate(nodes) if i != victim % count])
    dead = nodes[victim % count].id
    assert {node for node in before if node != dead} <= set(after)
    assert len(set(after) - set(before)) <= (dead in before)


def test_among_a_thousand_nodes_one_death_moves_what_was_lost() -> None:
    """Fifty models with three copies each: moves are at most the replicas that died, and one in a hundred."""
    nodes, wants = sites(1000), [want(model=f"m{i}", replicas=3) for i in range(50)]
    before = [set(seats(it, nodes)) for it in wants]
    for victim in random.Random(7).sample(nodes, 25):
        left = [site for site in nodes if site is not victim]
        lost = sum(victim.id in had for had in before)
        moves = sum(len(set(seats(it, left)) - had) for it, had in zip(wants, before, strict=True))
        assert moves <= 1.01 * lost


def test_models_spread_over_the_nodes() -> None:
    """A thousand models of two copies on ten nodes: everybody has between half and twice his share."""
    nodes = sites(10)
    held = [node for i in range(1000) for node in seats(want(model=f"m{i}"), nodes)]
    counts = [held.count(site.id) for site in nodes]
    assert 100 < min(counts) <= max(counts) < 400, counts


@pytest.mark.parametrize(
    ("wish", "node", "says"),
    [
        ({}, {}, ""),
        ({}, {"alive": False}, "alive"),
        ({}, {"works": False}, "runs no models"),
        ({}, {"draining": True}, "draining"),
        ({"zone": "eu"}, {"zone": "eu/berlin"}, ""),
        ({"zone": "eu"}, {"zone": "europe"}, "zone 'europe', not in 'eu'"),
        ({"zone": "eu"}, {}, "no zone"),
        ({"labels": {"kind": "till"}}, {"labels": {"kind": "till", "floor": "2"}}, ""),
        ({"labels": {"kind": "till"}}, {"labels": {"kind": "desk"}}, "label kind is 'desk'"),
        ({"labels": {"kind": "till"}}, {}, "no label kind"),
        ({"provider": "cuda"}, {"providers": ("CUDAExecutionProvider",)}, ""),
        ({"provider": "cuda"}, {"providers": ("CPUExecutionProvider",)}, "no cuda"),
        ({"memory_bytes": 2}, {"memory_bytes": 1}, "1 bytes of memory, not 2"),
        ({}, {"declined": frozenset({DIGEST})}, "cannot have"),
    ],
)
def test_who_does_not_match_is_left_out_and_why(wish: dict[str, object], node: dict[str, object], says: str) -> None:
    """One reason a node, in words."""
    site = Site(NodeId("n"), **node)  # type: ignore[arg-type]
    reason = unfit(want(**wish), DIGEST, site)
    assert bool(says) == bool(reason)
    assert says in reason
    assert ([] if says else [site.id]) == seats(want(**wish), [site])


def test_a_version_is_tried_on_a_share_of_those_that_have_the_model() -> None:
    """A tenth of ten is one, and the first in line; once it did well, all of them."""
    tried = want(replicas=10, canary=Canary(share_permille=100), trial=Trial(2, NEXT))
    nodes = sites(20)
    assert seats(tried, nodes)[:1] == trial_seats(tried, nodes)
    everywhere = want(replicas=10, canary=Canary(share_permille=100), trial=Trial(2, NEXT, everywhere=True))
    assert seats(tried, nodes) == trial_seats(everywhere, nodes)
    first = seats(tried, nodes)[0]
    nodes = [replace(site, declined=frozenset({NEXT})) if site.id == first else site for site in nodes]
    assert seats(tried, nodes)[1:2] == trial_seats(tried, nodes)
