"""The policy: who may be asked, who is asked, who is chosen. Properties first, then the reasons one by one."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import structs

from meshnode.config import LAN
from meshnode.routing.facts import Decision, PeerFacts, Ranked, Reason, TaskFacts
from meshnode.routing.policy import ask_more, draw, estimate, hopeless, pick, route
from meshnode.wire.messages import NodeId, Quote

ROUTING = LAN.routing
NO_MARGIN = replace(ROUTING, hysteresis=0.0, hysteresis_s=0.0, tie_band=0.0)
SELF = NodeId("self")
TASK = TaskFacts(input_bytes=1000, remaining_s=30.0, model_bytes=100_000, model_memory_bytes=1_000_000)

absurd = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e300]) | st.floats()
sane_s = st.floats(1e-4, 10.0)
quotes = st.builds(Quote, backlog_s=sane_s, service_s=sane_s, slots=st.just(1), load_s=st.just(0.0) | sane_s)


def peer(name: str, **facts: Any) -> PeerFacts:
    return PeerFacts(NodeId(name), **{"loaded": True, "rtt_s": 0.002, **facts})


def quote(backlog_s: float = 0.0, service_s: float = 0.05, **more: Any) -> Quote:
    return Quote(backlog_s=backlog_s, service_s=service_s, slots=1, **more)


def chosen(task: TaskFacts, given_: dict[NodeId, Quote], peers: Sequence[PeerFacts], **how: Any) -> list[NodeId]:
    rng = how.get("rng") or random.Random(1)
    return [it.peer.id for it in pick(task, given_, peers, rng, how.get("settings", NO_MARGIN))]


def believable(claim: float | None) -> float:
    """A number of seconds, or 0 where it is none."""
    return claim if claim is not None and math.isfinite(claim) and claim >= 0 else 0.0


@st.composite
def any_peer(draw_: st.DrawFn, name: str) -> PeerFacts:
    """A node with claims as wild as gossip can carry them, and more."""
    flags = {
        key: draw_(st.booleans())
        for key in ("alive", "suspect", "draining", "worker", "in_zone", "can_run", "provides", "loaded", "on_disk")
    }
    return PeerFacts(
        NodeId(name),
        is_self=name == "self",
        paused=draw_(st.sampled_from(["", "the owner is here"])),
        memory_free=draw_(st.none() | st.integers(-1, 10**12)),
        battery=draw_(st.booleans()),
        battery_percent=draw_(st.none() | absurd),
        slots=draw_(st.integers(-5, 5000)),
        service_s=draw_(absurd),
        claimed_s=draw_(st.none() | absurd),
        backlog_s=draw_(st.none() | absurd),
        rtt_s=draw_(st.none() | absurd),
        bytes_s=draw_(st.none() | absurd),
        weight=draw_(absurd),
        correction=draw_(absurd),
        shortfall_s=draw_(absurd),
        ejected=draw_(st.booleans()),
        **flags,
    )


@st.composite
def any_mesh(draw_: st.DrawFn) -> list[PeerFacts]:
    names = ["self", *"abcdefgh"][: draw_(st.integers(0, 9))]
    return [draw_(any_peer(name)) for name in names]


any_task = st.builds(
    TaskFacts,
    input_bytes=st.integers(0, 10**10),
    remaining_s=st.floats(-1.0, 100.0),
    model_bytes=st.integers(0, 10**12),
    model_memory_bytes=st.integers(0, 10**12),
    zone=st.none() | st.just("eu"),
    node=st.none() | st.sampled_from([NodeId("a"), NodeId("nobody")]),
)


@settings(max_examples=70, deadline=None)
@given(any_task, any_mesh(), st.none() | quotes, st.sets(st.sampled_from("abc")), st.integers(0, 10))
def test_whatever_is_gossiped_no_rule_is_broken(
    task: TaskFacts, peers: list[PeerFacts], own: Quote | None, tried: set[str], seed: int
) -> None:
    """No claim of any peer gets an excluded node asked: each is a candidate, excluded, or simply not drawn."""
    exclude = frozenset(NodeId(name) for name in tried)
    decision = route(task, peers, own, random.Random(seed), ROUTING, exclude)
    asked = [it.id for it in decision.candidates]
    assert len(asked) == len(set(asked))
    assert len(asked) <= ROUTING.candidates + 1
    assert not set(asked) & set(decision.excluded)
    assert not set(asked) & exclude
    for it in decision.candidates:
        assert it.alive
        assert it.worker
        assert it.in_zone
        assert it.can_run
        assert it.provides
        assert not it.draining
        assert it.is_self or not it.paused
        assert it.is_self or not (
            it.battery and 0 <= (it.battery_percent or 0.0) < 40 and it.battery_percent is not None
        )
        assert it.loaded or it.memory_free is None or it.memory_free >= int(1.25 * task.model_memory_bytes)
        assert task.node in (None, it.id)
        assert it.is_self or task.node is not None or believable(it.rtt_s) <= task.remaining_s
    assert ("none" == decision.kind) == (not asked)
    if decision.kind == "local":
        assert [SELF] == asked
    if decision.kind == "go":
        assert 1 == len(asked)
        assert SELF not in asked
        assert decision.max_wait_s is not None
        assert 0 <= decision.max_wait_s < math.inf
    out = [it for it in peers if (why := decision.excluded.get(it.id)) is not None and why.reason == "ejected"]
    assert len(out) <= len(peers) // 3
    assert all(it.ejected for it in out)


@settings(max_examples=70, deadline=None)
@given(any_mesh(), st.dictionaries(st.sampled_from(["self", *"abcdefgh"]), quotes), st.integers(0, 10))
def test_whatever_is_believed_the_ranking_is_a_number_for_each_quote(
    peers: list[PeerFacts], given_: dict[str, Quote], seed: int
) -> None:
    """No belief is so wild that the choice crashes or an estimate is no number."""
    answered = {NodeId(name): it for name, it in given_.items()}
    ranked = pick(TASK, answered, peers, random.Random(seed), ROUTING)
    assert sorted(it.id for it in peers if it.id in answered) == sorted(it.peer.id for it in ranked)
    assert all(math.isfinite(it.estimate_s) and it.estimate_s >= 0 for it in ranked if it.peer.correction < 1e9)


def test_a_claim_that_is_no_number_never_wins() -> None:
    """NaN, infinity and below zero count as never, or as what is believed of a stranger."""
    liars = {
        f"{field}{value}": Quote(**{"backlog_s": 0.0, "service_s": 0.001, "slots": 1, field: value})
        for field in ("backlog_s", "service_s", "load_s")
        for value in (math.nan, math.inf, -1.0)
    }
    peers = [peer("honest"), *(peer(name) for name in liars)]
    given_ = {NodeId("honest"): quote(1.0), **{NodeId(name): it for name, it in liars.items()}}
    assert "honest" == chosen(TASK, given_, peers)[0]


def test_a_claim_of_endless_power_gets_a_place_in_the_draw_and_no_more() -> None:
    """What a peer says of itself decides whether it is asked, never whether it is chosen."""
    peers = [peer(name) for name in "abcdefgh"] + [peer("boaster", service_s=1e-12, slots=4096, weight=1e9)]
    drawn = Counter(it.id for seed in range(200) for it in draw(peers, 3, random.Random(seed)))
    assert 200 == drawn[NodeId("boaster")]
    assert 400 == sum(drawn.values()) - 200
    given_ = {it.id: quote(0.0 if it.id != "boaster" else 0.5) for it in peers}
    assert "boaster" == chosen(TASK, given_, peers)[-1]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(quotes, min_size=2, max_size=6), st.integers(0, 5), st.sampled_from(["backlog", "rtt", "bytes"]), sane_s
)
def test_worse_never_raises_the_rank(given_: list[Quote], which: int, what: str, more_s: float) -> None:
    """More backlog, a longer way or a slower link of one peer never brings it forward."""
    assume(which < len(given_))
    peers = [peer(f"p{i}", bytes_s=1e7) for i in range(len(given_))]
    answers = {it.id: quote for it, quote in zip(peers, given_, strict=True)}
    target = peers[which].id
    before = chosen(TASK, answers, peers).index(target)
    match what:
        case "backlog":
            old = answers[target]
            answers[target] = Quote(
                backlog_s=old.backlog_s + more_s, service_s=old.service_s, slots=1, load_s=old.load_s
            )
        case "rtt":
            peers[which] = structs.replace(peers[which], rtt_s=0.002 + more_s)
        case _:
            peers[which] = structs.replace(peers[which], bytes_s=1e7 / (1 + more_s))
    assert chosen(TASK, answers, peers).index(target) >= before


@settings(max_examples=200, deadline=None)
@given(
    st.lists(quotes, min_size=2, max_size=6, unique_by=lambda q: q.backlog_s), st.sampled_from([0.125, 0.5, 2.0, 16.0])
)
def test_the_choice_does_not_depend_on_the_unit_of_time(given_: list[Quote], k: float) -> None:
    """Everything k times as long is the same choice."""
    task = structs.replace(TASK, input_bytes=0, remaining_s=1e6)
    peers = [peer(f"p{i}", rtt_s=0.01) for i in range(len(given_))]
    scaled_peers = [structs.replace(it, rtt_s=0.01 * k) for it in peers]
    answers = {it.id: q for it, q in zip(peers, given_, strict=True)}
    scaled = {
        name: Quote(backlog_s=q.backlog_s * k, service_s=q.service_s * k, slots=1, load_s=q.load_s * k)
        for name, q in answers.items()
    }
    assert chosen(task, answers, peers)[0] == chosen(task, scaled, scaled_peers)[0]


def test_the_order_of_the_peers_does_not_matter_to_the_draw() -> None:
    """Each peer's share is the same wherever it stands in the list."""
    peers = [peer(f"p{i}", service_s=0.01 * (i + 1)) for i in range(6)]
    forward, backward = Counter[str](), Counter[str]()
    rng = random.Random(3)
    for _ in range(6000):
        forward.update(it.id for it in draw(peers, 2, rng))
        backward.update(it.id for it in draw(peers[::-1], 2, rng))
    assert all(abs(forward[it.id] - backward[it.id]) < 250 for it in peers)


def test_the_draw_follows_capacity() -> None:
    """Chi-square of 20,000 single draws against the weights, at the 0.1 % level with 9 degrees of freedom."""
    peers = [peer(f"p{i}", service_s=0.2 / (1 + i)) for i in range(10)]
    total, rng = 20_000, random.Random(5)
    seen = Counter(draw(peers, 1, rng)[0].id for _ in range(total))
    weight = sum(it.capacity for it in peers)
    chi = sum((seen[it.id] - total * it.capacity / weight) ** 2 / (total * it.capacity / weight) for it in peers)
    assert chi < 27.9


def spread(
    speeds: Sequence[float], choose: Callable[[list[PeerFacts], dict[NodeId, float], random.Random], PeerFacts]
) -> float:
    """A hundred submitters place five tasks each by one frozen picture of the peers: how many times its share of the
    capacity the most favoured node got. What waits at a node is what those before placed there."""
    peers = [peer(f"p{i}", service_s=0.2 / speed) for i, speed in enumerate(speeds)]
    backlog_s = {it.id: 0.0 for it in peers}
    placed: Counter[NodeId] = Counter()
    submitters = [random.Random(seed) for seed in range(100)]
    for rng in 5 * submitters:
        best = choose(peers, backlog_s, rng)
        placed[best.id] += 1
        backlog_s[best.id] += best.service_s
    fair = placed.total() / sum(speeds)
    return max(placed[it.id] / (fair * speed) for it, speed in zip(peers, speeds, strict=True))


def ours(peers: list[PeerFacts], backlog_s: dict[NodeId, float], rng: random.Random) -> PeerFacts:
    """Candidates by the picture, and then what they say."""
    decision = route(TASK, peers, None, rng, ROUTING)
    answers = {it.id: quote(backlog_s[it.id], it.service_s) for it in decision.candidates}
    return pick(TASK, answers, decision.candidates, rng, ROUTING)[0].peer


@pytest.mark.parametrize("speeds", [[1.0] * 20, [20.0 ** (i / 19) for i in range(20)]], ids=["equal", "1x to 20x"])
def test_many_submitters_with_one_picture_do_not_herd(speeds: list[float]) -> None:
    """Nobody gets more than 1.3 times its share; the least loaded by the same picture would get everything."""
    assert spread(speeds, ours) <= 1.3
    everything = spread(speeds, lambda peers, _backlog_s, _rng: min(peers, key=lambda it: it.service_s))
    assert everything > 6


def test_equal_peers_are_chosen_equally() -> None:
    """Ties within the band break at random."""
    peers = [peer(name) for name in "abcd"]
    answers = {it.id: quote(0.1 + 0.0005 * i) for i, it in enumerate(peers)}
    rng = random.Random(2)
    firsts = Counter(pick(TASK, answers, peers, rng, ROUTING)[0].peer.id for _ in range(2000))
    assert all(400 < firsts[it.id] < 600 for it in peers)


def test_the_battery_makes_a_peer_dearer_but_not_slower() -> None:
    """What is compared is not what is expected, so learning does not undo it."""
    on_battery, on_mains = peer("b", battery=True, battery_percent=90.0), peer("m")
    answers = {on_battery.id: quote(0.1), on_mains.id: quote(0.12)}
    assert ["m", "b"] == chosen(TASK, answers, [on_battery, on_mains])
    ranked = estimate(TASK, on_battery, quote(0.1))
    assert pytest.approx(0.002 + 0.1 + 0.05) == ranked.estimate_s
    assert pytest.approx(1.3 * estimate(TASK, on_mains, quote(0.1)).score_s) == ranked.score_s


def test_waiting_counts_more_than_running_and_more_still_for_latency() -> None:
    """Of two that would be done together the one with the shorter line is better; for latency, a slower one too."""
    waits, slow = peer("w", service_s=0.01), peer("s", service_s=0.1)
    answers = {waits.id: quote(0.1, 0.01), slow.id: quote(0.0, 0.12)}
    assert ["s", "w"] == chosen(TASK, answers, [waits, slow])
    slower = {waits.id: quote(0.1, 0.01), slow.id: quote(0.0, 0.2)}
    assert ["w", "s"] == chosen(TASK, slower, [waits, slow])
    assert ["s", "w"] == chosen(structs.replace(TASK, objective="latency"), slower, [waits, slow])


# --- unasked ---


def test_what_is_over_sooner_than_three_trips_goes_unasked_with_a_guard() -> None:
    """It is refused there when it would wait longer than is believed and once more as long as it takes."""
    far = [peer(name, rtt_s=0.01, service_s=0.005, backlog_s=0.002) for name in "abc"]
    decision = route(TASK, far, None, random.Random(1), ROUTING)
    assert "go" == decision.kind
    assert pytest.approx(0.002 + 0.01) == decision.max_wait_s
    assert "ask" == route(TASK, far, None, random.Random(1), ROUTING, ask=True).kind
    slow = [peer(name, rtt_s=0.01, service_s=0.05) for name in "abc"]
    assert "ask" == route(TASK, slow, None, random.Random(1), ROUTING).kind


def test_large_tensors_are_never_sent_unasked() -> None:
    """From 64 KiB on, even to the only peer there is."""
    only = [peer("a")]
    assert "go" == route(TASK, only, None, random.Random(1), ROUTING).kind
    large = structs.replace(TASK, input_bytes=ROUTING.unasked_bytes_max)
    assert "ask" == route(large, only, None, random.Random(1), ROUTING).kind


def test_the_only_peer_may_let_it_wait_as_long_as_the_task_has() -> None:
    """There is nobody else to go to; it is refused when it could not be done in time."""
    decision = route(structs.replace(TASK, remaining_s=1.0), [peer("a")], None, random.Random(1), ROUTING)
    assert pytest.approx(1.0 - 0.05 - 0.002) == decision.max_wait_s


# --- another round ---


def test_others_are_asked_when_the_best_lets_it_wait_for_long() -> None:
    """Eight round trips of waiting are worth one more question, once."""
    asked = [peer("a"), peer("b")]
    short = pick(TASK, {it.id: quote(0.015) for it in asked}, asked, random.Random(1), ROUTING)
    long = pick(TASK, {it.id: quote(0.017) for it in asked}, asked, random.Random(1), ROUTING)
    assert [False, True, False] == [ask_more(short, 1, ROUTING), ask_more(long, 1, ROUTING), ask_more(long, 2, ROUTING)]
    assert not ask_more([], 1, ROUTING)


def test_what_could_not_be_done_in_time_is_hopeless_and_what_does_not_wait_is_judged_without_margin() -> None:
    """The line may move slower than it says, so its part counts a third more; a run alone counts as it is."""
    one, task = peer("a"), structs.replace(TASK, remaining_s=1.0)
    assert not hopeless(task, estimate(task, one, quote(0.0, 0.99)))
    assert hopeless(task, estimate(task, one, quote(0.0, 1.01)))
    assert not hopeless(task, estimate(task, one, quote(0.7, 0.05)))
    assert hopeless(task, estimate(task, one, quote(0.75, 0.05)))


def test_waiting_moving_and_fetching_overlap() -> None:
    """The longest of the three counts, not their sum."""
    task = structs.replace(TASK, input_bytes=10_000_000)
    there = peer("p", rtt_s=0.01, bytes_s=1e8)
    for backlog_s, load_s, longest_s in ((0.05, 0.0, 0.1), (0.2, 0.15, 0.2), (0.2, 0.5, 0.5)):
        ranked = estimate(task, there, quote(backlog_s, 0.03, load_s=load_s))
        assert pytest.approx(0.01 + longest_s + 0.03) == ranked.estimate_s
    fetched = estimate(task, there, quote(0.0, 0.03, load_s=0.1, fetch_bytes=100_000_000))
    assert pytest.approx(0.01 + 1.1 + 0.03) == fetched.estimate_s


# --- local first ---


def test_an_idle_node_runs_its_own_tasks_without_a_message() -> None:
    """When nobody could be done sooner even if idle, nobody is asked."""
    me = peer("self", is_self=True)
    decision = route(TASK, [me, peer("a")], quote(0.0, 0.05), random.Random(1), ROUTING)
    assert Decision("local", (me,), {}) == decision


def test_a_node_alone_runs_everything_itself() -> None:
    """However long its queue."""
    decision = route(TASK, [peer("self", is_self=True)], quote(20.0), random.Random(1), ROUTING)
    assert "local" == decision.kind


def test_a_busy_node_asks_others_and_itself() -> None:
    """Its own quote is free and takes part."""
    me = peer("self", is_self=True)
    decision = route(TASK, [me, peer("a"), peer("b")], quote(1.0), random.Random(1), ROUTING)
    assert ("ask", {"self", "a", "b"}) == (decision.kind, {it.id for it in decision.candidates})


def test_staying_is_preferred_to_a_small_gain() -> None:
    """Ten per cent or two milliseconds are not worth the way; more is."""
    me, other = peer("self", is_self=True), peer("a", rtt_s=0.0)
    task = structs.replace(TASK, input_bytes=0)
    for gain_s, first in ((0.005, "self"), (0.02, "a")):
        answers = {me.id: quote(0.05, 0.05), other.id: quote(0.05 - gain_s, 0.05)}
        assert first == chosen(task, answers, [me, other], settings=ROUTING)[0]


def test_staying_is_not_preferred_when_it_would_be_too_late() -> None:
    """The deadline decides before comfort does; when nobody is in time, the soonest is first."""
    me, other = peer("self", is_self=True), peer("a", rtt_s=0.0)
    answers = {me.id: quote(0.05, 0.052), other.id: quote(0.05, 0.05)}
    for remaining_s, first in ((0.101, "a"), (1.0, "self"), (0.01, "self")):
        task = structs.replace(TASK, input_bytes=0, remaining_s=remaining_s)
        assert first == chosen(task, answers, [me, other], settings=ROUTING)[0]


# --- who is asked ---


def test_one_that_has_the_model_loaded_is_always_asked() -> None:
    """A draw of strangers that would all have to fetch it gets the best warm one."""
    cold = [peer(f"c{i}", loaded=False, service_s=0.001) for i in range(50)]
    warm = [peer("slow", service_s=1.0), peer("fast", service_s=0.5)]
    for seed in range(50):
        asked = {it.id for it in route(TASK, cold + warm, None, random.Random(seed), ROUTING, ask=True).candidates}
        assert 3 == len(asked)
        assert asked & {"slow", "fast"}


def test_a_peer_that_failed_a_moment_ago_is_left_out_unless_nobody_else_is_there() -> None:
    """And the decision says so."""
    good, bad = peer("good"), peer("bad", suspect=True)
    decision = route(TASK, [good, bad], None, random.Random(1), ROUTING)
    assert ["good"] == [it.id for it in decision.candidates]
    assert "suspect" == decision.excluded[bad.id].reason
    alone = route(TASK, [bad], None, random.Random(1), ROUTING)
    assert ["bad"] == [it.id for it in alone.candidates]
    assert {} == alone.excluded


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_never_more_than_a_third_is_ejected(count: int) -> None:
    """When all seem to fail, the fault is more likely here; the worst go first."""
    peers = [peer(f"p{i}", ejected=True, correction=1.0 + i / 10) for i in range(count)]
    excluded = route(TASK, peers, None, random.Random(1), replace(ROUTING, candidates=99)).excluded
    assert {f"p{i}" for i in range(count - count // 3, count)} == set(excluded)
    assert {"ejected"} == {it.reason for it in excluded.values()} or count < 3


def test_a_newcomer_is_drawn_less_often() -> None:
    """Only the draw is scaled, never the estimate."""
    old, new = peer("old"), peer("new", weight=0.2)
    seen = Counter(draw([old, new], 1, random.Random(seed))[0].id for seed in range(3000))
    assert 0.13 < seen[NodeId("new")] / 3000 < 0.21
    assert estimate(TASK, old, quote()).estimate_s == estimate(TASK, new, quote()).estimate_s


def test_who_has_no_link_is_drawn_less_often() -> None:
    """Of two that are alike; one that can do fifty times as much is worth a new connection."""
    near, far, mighty = peer("near"), peer("far", rtt_s=None), peer("mighty", rtt_s=None, slots=50)
    for other, least, most in ((far, 0.03, 0.07), (mighty, 0.66, 0.76)):
        seen = Counter(draw([near, other], 1, random.Random(seed))[0].id for seed in range(3000))
        assert least < seen[other.id] / 3000 < most


REASONS: list[tuple[Reason, dict[str, Any], str]] = [
    ("not_alive", {"alive": False}, "not alive"),
    ("zone", {"in_zone": False}, "'eu'"),
    ("role", {"worker": False}, "worker"),
    ("draining", {"draining": True}, "finishing"),
    ("paused", {"paused": "the owner is here"}, "the owner is here"),
    ("model", {"can_run": False}, "no worker"),
    ("battery", {"battery": True, "battery_percent": 39.0}, "39 %"),
    ("memory", {"loaded": False, "memory_free": 1_249_999}, "1250000"),
    ("deadline", {"service_s": 31.0}, "30 s"),
    ("deadline", {"rtt_s": 16.0}, "30 s"),
    ("deadline", {"loaded": False, "bytes_s": 1.0}, "30 s"),
]


@pytest.mark.parametrize(("reason", "facts", "says"), REASONS, ids=lambda it: str(it)[:30])
def test_each_rule_excludes_with_its_reason(reason: Reason, facts: dict[str, Any], says: str) -> None:
    """And the words that a person sees."""
    task = structs.replace(TASK, zone="eu")
    decision = route(task, [peer("p", **facts), peer("ok")], None, random.Random(1), ROUTING)
    assert ["ok"] == [it.id for it in decision.candidates]
    assert reason == decision.excluded[NodeId("p")].reason
    assert says in decision.excluded[NodeId("p")].detail


def test_what_just_fits_is_not_excluded() -> None:
    """At the limits of battery and memory, and with the model loaded, a node takes part."""
    peers = [
        peer("battery", battery=True, battery_percent=40.0),
        peer("memory", loaded=False, memory_free=1_250_000),
        peer("loaded", memory_free=0),
        peer("unknown", battery=True, battery_percent=None),
    ]
    assert {} == route(TASK, peers, None, random.Random(1), ROUTING).excluded


def test_the_owner_of_a_paused_or_flat_machine_may_still_use_it() -> None:
    """Own work always."""
    me = peer("self", is_self=True, paused="the owner is here", battery=True, battery_percent=5.0)
    assert "local" == route(TASK, [me], quote(), random.Random(1), ROUTING).kind


def test_a_task_for_one_node_goes_nowhere_else() -> None:
    """Also when that node is slow, and never when it is gone."""
    task = structs.replace(TASK, node=NodeId("b"), remaining_s=0.01)
    decision = route(task, [peer("a"), peer("b", service_s=9.0)], None, random.Random(1), ROUTING)
    assert ["b"] == [it.id for it in decision.candidates]
    assert "node" == decision.excluded[NodeId("a")].reason
    gone = route(task, [peer("a"), peer("b", alive=False)], None, random.Random(1), ROUTING)
    assert "none" == gone.kind


def test_a_peer_that_was_tried_is_not_tried_again() -> None:
    """A retry is a first try with one name fewer."""
    decision = route(TASK, [peer("a"), peer("b")], None, random.Random(1), ROUTING, frozenset({NodeId("a")}))
    assert ["b"] == [it.id for it in decision.candidates]
    assert "tried" == decision.excluded[NodeId("a")].reason


def test_nobody_left_is_no_decision() -> None:
    """With every reason counted."""
    decision = route(TASK, [peer("a", alive=False), peer("b", draining=True)], None, random.Random(1), ROUTING)
    assert ("none", ()) == (decision.kind, decision.candidates)
    assert Counter(not_alive=1, draining=1) == Counter(it.reason for it in decision.excluded.values())


def test_only_those_that_answered_are_ranked() -> None:
    """A silent peer is no candidate any more."""
    ranked: list[Ranked] = pick(TASK, {}, [peer("a")], random.Random(1), ROUTING)
    assert [] == ranked
    assert ["b"] == chosen(TASK, {NodeId("b"): quote()}, [peer("a"), peer("b")])


def test_who_is_thought_slow_is_still_asked_when_it_says_otherwise() -> None:
    """Our belief makes a peer the last choice; only its own word excludes it, or it could never refute us."""
    short = structs.replace(TASK, remaining_s=1.0)
    slow = {"service_s": 0.9, "correction": 4.0}
    asked = route(short, [peer("a", claimed_s=0.05, **slow), peer("b")], None, random.Random(1), ROUTING)
    assert {"a", "b"} == {it.id for it in asked.candidates}
    for claimed_s in (None, 2.0):
        asked = route(short, [peer("a", claimed_s=claimed_s, **slow), peer("b")], None, random.Random(1), ROUTING)
        assert "deadline" == asked.excluded[NodeId("a")].reason
