"""What must hold of every decision, whatever the peers claim: exact, by properties rather than by examples."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from meshnode.routing.facts import PeerFacts, TaskFacts
from meshnode.routing.policy import draw, pick, route
from meshnode.wire.messages import NodeId, Quote
from tests.routing.test_policy import NO_MARGIN, ROUTING, TASK, chosen, peer, quote, sane_s

NAMES = "abcdefgh"
nonsense = st.sampled_from([math.nan, math.inf, -math.inf, -1e-300, -1.0, -1e9])
anything = nonsense | st.sampled_from([0.0, 1e-300, 1e300]) | st.floats()


@st.composite
def lies(draw_: st.DrawFn) -> Quote:
    """A quote in which one field at least is no time at all, and the others are whatever makes it look best."""
    fields = {name: draw_(anything) for name in ("backlog_s", "service_s", "load_s")}
    fields[draw_(st.sampled_from(sorted(fields)))] = draw_(nonsense)
    return Quote(**fields, slots=draw_(st.integers(-1, 2**53)), fetch_bytes=draw_(st.integers(0, 2**53)))


@settings(max_examples=150, deadline=None)
@given(st.lists(lies(), min_size=1, max_size=8), sane_s, sane_s, st.integers(0, 9))
def test_no_quote_that_makes_no_sense_beats_an_honest_one(
    given_: list[Quote], backlog_s: float, service_s: float, seed: int
) -> None:
    """NaN, infinity, less than nothing, in any combination: whoever says a time, however long, is chosen."""
    liars = [peer(name) for name in NAMES[: len(given_)]]
    answers = {it.id: lie for it, lie in zip(liars, given_, strict=True)} | {
        NodeId("honest"): quote(backlog_s, service_s)
    }
    task = replace(TASK, remaining_s=1.0)
    for settings_ in (ROUTING, NO_MARGIN):
        order = chosen(task, answers, [*liars, peer("honest")], rng=random.Random(seed), settings=settings_)
        assert "honest" == order[0]
        assert len(answers) == len(order)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.builds(Quote, anything, anything, st.just(1), anything)))
def test_whatever_is_quoted_is_ranked(given_: dict[str, Quote]) -> None:
    """Each answer has its place, and no time is none."""
    peers = [peer(name) for name in NAMES]
    ranked = pick(TASK, {NodeId(name): it for name, it in given_.items()}, peers, random.Random(1), ROUTING)
    assert sorted(given_) == sorted(it.peer.id for it in ranked)
    assert all(0 <= it.estimate_s < math.inf and 0 <= it.score_s < math.inf for it in ranked)


@pytest.mark.parametrize("seed", range(5))
def test_what_a_peer_would_do_if_its_boast_were_true_is_not_believed_twice(seed: int) -> None:
    """A thousand million times as fast as all others: it is asked, and what it answers is compared like any answer."""
    peers = [peer(name) for name in NAMES] + [peer("boaster", service_s=5e-11, slots=65536, bytes_s=1e300)]
    large = replace(TASK, input_bytes=ROUTING.unasked_bytes_max)
    decision = route(large, peers, None, random.Random(seed), ROUTING)
    assert ("ask", 3) == (decision.kind, len(decision.candidates))
    answers = {it.id: quote(0.0 if it.id != "boaster" else 0.2) for it in decision.candidates}
    assert "boaster" == chosen(large, answers, decision.candidates)[-1]


class Values(random.Random):
    """Gives these numbers, in this order."""

    def __init__(self, values: list[float]) -> None:
        super().__init__(0)
        self._values = iter(values)

    def random(self) -> float:
        """The next one."""
        return next(self._values)


@st.composite
def shuffled(draw_: st.DrawFn) -> tuple[list[PeerFacts], list[float], list[int]]:
    """Peers of different capacity, a number between 0 and 1 for each, and another order of both."""
    times = draw_(st.lists(st.integers(1, 10**6), min_size=1, max_size=8, unique=True))
    warm = draw_(st.lists(st.booleans(), min_size=len(times), max_size=len(times)))
    values = draw_(st.lists(st.integers(1, 10**6 - 1), min_size=len(times), max_size=len(times), unique=True))
    peers = [peer(NAMES[i], service_s=time / 1e4, loaded=warm[i], on_disk=True) for i, time in enumerate(times)]
    return peers, [value / 1e6 for value in values], draw_(st.permutations(range(len(times))))


@settings(max_examples=150, deadline=None)
@given(shuffled(), st.integers(1, 4))
def test_the_draw_is_the_same_in_any_order_of_the_peers(
    made: tuple[list[PeerFacts], list[float], list[int]], count: int
) -> None:
    """Chance moved with the peers draws the same ones: where a peer stands in the list has no part in its chance."""
    peers, values, order = made
    drawn = draw(peers, count, Values(values))
    again = draw([peers[i] for i in order], count, Values([values[i] for i in order]))
    assert [it.id for it in drawn] == [it.id for it in again]
    assert min(count, len(peers)) == len({it.id for it in drawn})


@st.composite
def mesh(draw_: st.DrawFn) -> list[PeerFacts]:
    """Able peers that have the model, of all speeds and distances."""
    time = st.floats(1e-3, 1.0)
    return [
        peer(name, service_s=draw_(time), claimed_s=draw_(time), backlog_s=draw_(time), rtt_s=draw_(time))
        for name in NAMES[: draw_(st.integers(1, 8))]
    ]


def times(k: float, it: PeerFacts) -> PeerFacts:
    """The same peer in a world in which everything takes k times as long."""
    changed: dict[str, Any] = {
        name: k * getattr(it, name) for name in ("service_s", "claimed_s", "backlog_s", "rtt_s", "shortfall_s")
    }
    return replace(it, **changed)


@settings(max_examples=150, deadline=None)
@given(mesh(), st.sampled_from([0.25, 4.0, 64.0]), sane_s, st.booleans(), st.integers(0, 9))
def test_a_decision_does_not_depend_on_the_unit_of_time(
    peers: list[PeerFacts], k: float, remaining_s: float, here: bool, seed: int
) -> None:
    """Who is asked, who is sent it unasked, who is left out, and for how long it may wait: everything k times as long
    is the same decision."""
    task = TaskFacts(0, remaining_s, model_bytes=0)
    own = quote(0.5, 0.25) if here else None
    slower = None if own is None else quote(0.5 * k, 0.25 * k)
    me = [peer("self", is_self=True)] if here else []
    decision = route(task, [*me, *peers], own, random.Random(seed), ROUTING)
    scaled = route(
        replace(task, remaining_s=k * remaining_s),
        [*me, *(times(k, it) for it in peers)],
        slower,
        random.Random(seed),
        ROUTING,
    )
    assert decision.kind == scaled.kind
    assert [it.id for it in decision.candidates] == [it.id for it in scaled.candidates]
    assert decision.excluded.keys() == scaled.excluded.keys()
    if decision.max_wait_s is not None:
        assert scaled.max_wait_s is not None
        assert math.isclose(k * decision.max_wait_s, scaled.max_wait_s, rel_tol=1e-9, abs_tol=1e-12)
