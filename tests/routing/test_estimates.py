"""Beliefs: learnt from what came, clamped, fading, and private."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.config import LAN
from meshnode.routing.estimates import (
    CORRECTION_MAX,
    CORRECTION_MIN,
    DISTRUST_S,
    EJECT_AFTER,
    EJECT_S,
    EJECT_S_MAX,
    JITTER,
    Estimates,
)
from meshnode.routing.facts import PeerFacts, TaskFacts
from meshnode.routing.policy import estimate, pick, route
from meshnode.wire.messages import Digest, NodeId, Quote

A, B = NodeId("a"), NodeId("b")
MODEL = Digest("0" * 64)
TASK = TaskFacts(input_bytes=0, remaining_s=30.0, model_bytes=1)


def believing() -> Estimates:
    return Estimates(LAN.routing, random.Random(1))


def succeed(it: Estimates, peer: NodeId = A, quoted_s: float | None = 0.1, actual_s: float = 0.1) -> None:
    it.succeeded(peer, MODEL, now=0.0, quoted_s=quoted_s, actual_s=actual_s, run_s=0.05)


def test_service_times_are_learnt_from_runs() -> None:
    """The first counts whole, later ones a fifth."""
    it = believing()
    it.succeeded(A, MODEL, now=0.0, quoted_s=None, actual_s=1.0, run_s=0.1)
    assert 0.1 == it.of(A).service_s[MODEL]
    it.succeeded(A, MODEL, now=0.0, quoted_s=None, actual_s=1.0, run_s=0.2)
    assert pytest.approx(0.12) == it.of(A).service_s[MODEL]


@pytest.mark.parametrize(("actual_s", "towards"), [(0.2, 2.0), (0.07, 0.7), (0.1, 1.0)])
def test_a_peer_that_is_wrong_by_a_factor_is_put_right(actual_s: float, towards: float) -> None:
    """The estimate becomes what comes: quoted 0.1 s each time by the peer, corrected by us."""
    it = believing()
    for _ in range(60):
        succeed(it, quoted_s=0.1 * it.of(A).correction + it.shortfall_s(A), actual_s=actual_s)
    assert pytest.approx(towards, rel=0.05) == it.of(A).correction
    assert 0.0 == it.shortfall_s(A)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), max_size=30))
def test_beliefs_stay_in_bounds(course: list[tuple[float, float]]) -> None:
    """Whatever is quoted and comes."""
    it = believing()
    for quoted_s, actual_s in course:
        succeed(it, quoted_s=quoted_s, actual_s=actual_s)
        assert CORRECTION_MIN <= it.of(A).correction <= CORRECTION_MAX
        assert 0 <= it.shortfall_s(A) <= 2e9
        assert 0 <= it.of(A).service_s[MODEL] <= 1e9


def test_one_surprise_is_not_a_habit() -> None:
    """A model that had to be loaded first, once: a fifth of it is expected again, and less with each good result."""
    it = believing()
    succeed(it, quoted_s=0.1, actual_s=5.1)
    assert pytest.approx(0.94) == it.shortfall_s(A)
    for _ in range(20):
        succeed(it, quoted_s=0.1 * it.of(A).correction + it.shortfall_s(A), actual_s=0.1)
    assert it.shortfall_s(A) < 0.02
    assert pytest.approx(1.0, rel=0.05) == it.of(A).correction


def test_what_is_too_short_to_tell_teaches_nothing() -> None:
    """Below two milliseconds the scheduler speaks, not the peer."""
    it = believing()
    succeed(it, quoted_s=0.0001, actual_s=0.0019)
    assert 1.0 == it.of(A).correction


def test_a_shortfall_fades_as_others_bring_results() -> None:
    """One bad moment does not bar a peer for ever."""
    it = believing()
    succeed(it, quoted_s=0.01, actual_s=10.0)
    before_s = it.shortfall_s(A)
    assert before_s > 1.0
    for _ in range(34):
        succeed(it, B)
    assert pytest.approx(before_s / 2, rel=0.02) == it.shortfall_s(A)
    for _ in range(400):
        succeed(it, B)
    assert 0.0 == it.shortfall_s(A)


def test_a_task_that_was_given_up_says_how_long_it_takes_at_least() -> None:
    """Far beyond what the peer said it counts as a result that took so long; a task with little time is no proof."""
    it = believing()
    for waited_s in (0.0019, 0.05, 0.4):
        it.unanswered(A, MODEL, now=0.0, quoted_s=0.1, waited_s=waited_s)
    assert (1.0, 0, {}) == (it.of(A).correction, it.of(A).slow, it.of(A).service_s)
    for _ in range(EJECT_AFTER):
        assert not it.ejected(A, 0.0)
        expected_s = it.of(A).correction * 0.1 + it.shortfall_s(A)
        it.unanswered(A, MODEL, now=0.0, quoted_s=expected_s, waited_s=2.0)
    assert it.ejected(A, 0.0)
    assert it.shortfall_s(A) > 1.0
    assert pytest.approx(2.0) == it.of(A).service_s[MODEL]


def test_a_wrong_result_is_not_made_good_by_the_next_one() -> None:
    """Who lies has quick results, and many on their way: he is left out for his time, and then for longer."""
    it = believing()
    it.distrust(A, 0.0)
    it.distrust(A, 1.0)
    succeed(it)
    assert it.ejected(A, DISTRUST_S - 0.001)
    assert not it.ejected(A, DISTRUST_S)
    it.distrust(A, DISTRUST_S)
    assert it.ejected(A, 3 * DISTRUST_S - 0.001)


def test_a_failure_makes_suspect_and_a_result_clears_it() -> None:
    """For the time that the settings say."""
    it = believing()
    it.failed(A, 10.0)
    assert 10.0 + LAN.routing.suspect_s == it.of(A).suspect_until
    succeed(it)
    assert 0.0 == it.of(A).suspect_until
    assert 0 == it.of(A).failures


def test_failures_in_a_row_eject_for_longer_each_time() -> None:
    """Five at first, then each one more; a result ends it."""
    it = believing()
    for _ in range(EJECT_AFTER - 1):
        it.failed(A, 0.0)
    assert not it.ejected(A, 0.0)
    now = 0.0
    for expected_s in (EJECT_S, 2 * EJECT_S, 4 * EJECT_S):
        it.failed(A, now)
        assert it.ejected(A, now + expected_s * (1 - JITTER) - 0.001)
        assert not it.ejected(A, now + expected_s)
        now += expected_s
    for _ in range(20):
        it.failed(A, now)
        now = it.of(A).ejected_until
    assert EJECT_S_MAX >= it.of(A).ejected_until - (now - EJECT_S_MAX)
    succeed(it)
    assert not it.ejected(A, 0.0)


def test_a_newcomer_earns_its_share_over_five_results() -> None:
    """From a fifth to all of it."""
    it = believing()
    shares = []
    for _ in range(7):
        shares.append(it.weight(A))
        succeed(it)
    assert pytest.approx([0.2, 0.36, 0.52, 0.68, 0.84, 1.0, 1.0]) == shares


def test_who_came_back_earns_its_share_within_ten_seconds() -> None:
    """Also one that brought results before it was away: a tenth at first, all of it after ten seconds."""
    it = believing()
    for _ in range(9):
        succeed(it)
    assert pytest.approx([0.1, 0.55, 1.0, 1.0]) == [it.weight(A, known_s) for known_s in (0.0, 5.0, 10.0, 1e9)]


def test_who_was_set_aside_begins_anew() -> None:
    """When its time is over it has the share of a newcomer, not the one it had."""
    it = believing()
    for _ in range(9):
        succeed(it)
    for _ in range(EJECT_AFTER):
        it.failed(A, 0.0)
    assert not it.ejected(A, EJECT_S)
    assert pytest.approx(0.2) == it.weight(A)


def test_a_peer_that_is_gone_is_forgotten() -> None:
    """When it comes back it is a newcomer."""
    it = believing()
    succeed(it)
    succeed(it, B)
    it.keep([B])
    assert (0, 1) == (it.of(A).results, it.of(B).results)


@pytest.mark.parametrize("claimed_s", [0.0, 0.001, 0.02])
def test_a_peer_that_promises_too_much_loses_its_share(claimed_s: float) -> None:
    """It says it is done at once and takes as long as its neighbours: after 20 of its tasks it gets less than twice
    a fair share. Ten equal peers, one liar among them, an estimate for each from what was learnt."""
    it, rng, true_s = believing(), random.Random(4), 0.2
    liar = NodeId("p0")
    names = [NodeId(f"p{i}") for i in range(10)]
    placed: list[NodeId] = []
    since = 0
    while since < 200:
        peers = [
            PeerFacts(
                name,
                loaded=True,
                rtt_s=0.002,
                service_s=it.of(name).service_s.get(MODEL, claimed_s if name == liar else true_s),
                weight=it.weight(name),
                correction=it.of(name).correction,
                shortfall_s=it.shortfall_s(name),
            )
            for name in names
        ]
        asked = route(TASK, peers, None, rng, LAN.routing).candidates
        said_s = {p.id: claimed_s if p.id == liar else true_s for p in asked}
        quotes = {name: Quote(backlog_s=0.0, service_s=service_s, slots=1) for name, service_s in said_s.items()}
        best = pick(TASK, quotes, asked, rng, LAN.routing)[0]
        name = best.peer.id
        it.succeeded(name, MODEL, now=0.0, quoted_s=best.estimate_s, actual_s=true_s + 0.002, run_s=said_s[name])
        placed.append(name)
        since += placed.count(liar) > 20
        assert len(placed) < 2000
    assert placed[-200:].count(liar) / 200 < 2 / 10


def test_a_corrected_estimate_is_what_came() -> None:
    """Quoted 0, taking 0.2 s each time: soon expected to take that, and rather more than less."""
    it = believing()
    expected = 0.0
    for _ in range(20):
        facts = PeerFacts(A, loaded=True, rtt_s=0.0, correction=it.of(A).correction, shortfall_s=it.shortfall_s(A))
        expected = estimate(TASK, facts, Quote(backlog_s=0.0, service_s=0.0, slots=1)).estimate_s
        succeed(it, quoted_s=expected, actual_s=0.2)
    assert 0.2 <= expected <= 0.31
