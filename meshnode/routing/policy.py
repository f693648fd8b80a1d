"""Who should run a task: the whole choice, as pure functions with their reasons.

`route` filters the peers (each exclusion with its reason), runs the task here when that is plainly best, and
otherwise draws a few candidates at random, weighted by capacity, to be asked for quotes. A task that is over sooner
than three round trips is sent to the best of them unasked. `pick` ranks those that answered by estimated completion.
Gossip is used for slow facts only; load is asked for at the moment of use, which keeps submitters from herding on
yesterday's idle peer. Drawing by capacity keeps slow peers from being asked as often as fast ones.

Everything is in seconds and bytes. No clock, no socket, no randomness but the one passed in. `scripts/bench/routing`
compares the policy with those of other systems and with perfect knowledge.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

from meshnode.config import Routing
from meshnode.routing.facts import (
    LINK_BYTES_S,
    LOAD_BYTES_S,
    SERVICE_PRIOR_S,
    Decision,
    Exclusion,
    PeerFacts,
    Ranked,
    TaskFacts,
    finite,
    floor_s,
    transfer_s,
)
from meshnode.routing.filters import exclusion, trusted
from meshnode.wire.messages import NodeId, Quote
from meshnode.wire.rng import Rng

POWER = {"mains": 1.0, "battery": 1.3}
"""How much dearer a second is there."""
WAIT_WEIGHT = {"tail": 1.5, "latency": 3.0}
"""What a second of waiting counts by the objective: who waits at a fast peer makes the next wait there too. With 1.0,
the least completion time, p50 / p99 at 90 % load were 74 / 171 ms, with 1.5 59 / 149, with 3 41 / 139 to 180."""
WAIT_MARGIN = 1.3
NEVER_S = 1e9
"""What a time that makes no sense counts as."""


def route(
    task: TaskFacts,
    peers: Sequence[PeerFacts],
    own: Quote | None,
    rng: Rng,
    settings: Routing,
    exclude: frozenset[NodeId] = frozenset(),
    *,
    ask: bool = False,
) -> Decision:
    """Who is to run it, or to be asked.

    Args:
        own: this node's quote for itself, which is free; None when it cannot take the task.
        exclude: nodes that this task was tried on.
        ask: nobody is sent it unasked, because somebody has refused it already.
    """
    excluded: dict[NodeId, Exclusion] = {}
    others: list[PeerFacts] = []
    here, soonest_s = None, math.inf
    for peer in peers:
        soon_s = floor_s(task, peer)
        in_time = soon_s <= task.remaining_s or peer.is_self
        simple = peer.plain and in_time and task.node is None and peer.id not in exclude
        reason = None if simple else exclusion(task, peer, settings, exclude, soon_s)
        if reason is not None:
            excluded[peer.id] = reason
        elif peer.is_self:
            here = peer
        else:
            others.append(peer)
            soonest_s = min(soonest_s, soon_s)
    fit = trusted(others, excluded)
    if len(fit) < len(others):
        soonest_s = min((floor_s(task, peer) for peer in fit), default=math.inf)
    mine = estimate(task, here, own) if here is not None and own is not None else None
    if mine is not None and mine.estimate_s <= soonest_s:
        return Decision("local", (mine.peer,), excluded)
    candidates = draw(fit, settings.candidates, rng)
    if candidates and not ask and task.input_bytes < settings.unasked_bytes_max:
        decision = _unasked(task, candidates, mine, excluded)
        if decision is not None:
            return decision
    if mine is not None:
        candidates.append(mine.peer)
    return Decision("ask" if candidates else "none", tuple(candidates), excluded)


def _unasked(
    task: TaskFacts, candidates: list[PeerFacts], mine: Ranked | None, excluded: Mapping[NodeId, Exclusion]
) -> Decision | None:
    """Send it without a quote where asking would take longer than the task, or nobody else could be chosen."""
    ranked = [estimate(task, peer, believed(task, peer)) for peer in candidates]
    best = min(ranked, key=lambda it: it.score_s)
    only = len(candidates) == 1 and mine is None
    if not only and best.estimate_s > 3 * best.peer.trip_s:
        return None
    if mine is not None and mine.score_s <= best.score_s:
        return Decision("local", (mine.peer,), excluded)
    in_time_s = max(0.0, task.remaining_s - best.terms["service_s"] - best.terms["rtt_s"])
    patience_s = best.terms["wait_s"] + max(best.terms["service_s"], best.terms["rtt_s"])
    return Decision("go", (best.peer,), excluded, in_time_s if only else min(in_time_s, patience_s))


def believed(task: TaskFacts, peer: PeerFacts) -> Quote:
    """What a peer would quote, by what it told last and what is known of it."""
    return Quote(
        backlog_s=finite(peer.backlog_s, 0.0),
        service_s=finite(peer.service_s, SERVICE_PRIOR_S),
        slots=max(1, peer.slots),
        load_s=0.0 if peer.loaded else task.model_bytes / LOAD_BYTES_S,
        fetch_bytes=0 if peer.loaded or peer.on_disk else task.model_bytes,
    )


def draw(peers: Sequence[PeerFacts], count: int, rng: Rng) -> list[PeerFacts]:
    """`count` distinct peers, weighted by how much of this work they can do; one that is warm is always among them.

    Weighted sampling without replacement by exponential keys (Efraimidis and Spirakis, 2006).
    """
    random, log = rng.random, math.log
    keyed = [(-log(1.0 - random()) / peer.capacity, i) for i, peer in enumerate(peers)]
    chosen = [peers[i] for _, i in heapq.nsmallest(count, keyed)]
    if chosen and not any(peer.loaded for peer in chosen):
        warm = [peer for peer in peers if peer.loaded]
        if warm:
            chosen[-1] = max(warm, key=lambda peer: peer.capacity)
    return chosen


def pick(
    task: TaskFacts,
    quotes: Mapping[NodeId, Quote],
    peers: Sequence[PeerFacts],
    rng: Rng,
    settings: Routing,
) -> list[Ranked]:
    """Those that gave a quote, best first. Ties break at random; staying here is preferred to a small gain.

    One that would be done in time comes before all that would not.
    """
    ranked = [estimate(task, peer, quotes[peer.id]) for peer in peers if peer.id in quotes]
    if not ranked:
        return []
    rng.shuffle(ranked)
    best_s = min((r.score_s for r in ranked if not late(task, r)), default=min(r.score_s for r in ranked))
    band_s = best_s * (1 + settings.tie_band)
    order = sorted(ranked, key=lambda r: (late(task, r), best_s if r.score_s <= band_s else r.score_s))
    here = next((r for r in order if r.peer.is_self), None)
    if here is not None and late(task, here) == late(task, order[0]):
        margin_s = max(settings.hysteresis * here.score_s, settings.hysteresis_s)
        if here.score_s - best_s <= margin_s:
            order.remove(here)
            order.insert(0, here)
    return order


def ask_more(ranked: Sequence[Ranked], rounds: int, settings: Routing) -> bool:
    """Whether to ask as many others: a task would wait far longer at the best than another question takes."""
    if not ranked or rounds >= settings.rounds_max:
        return False
    trip_s = max(one.peer.trip_s for one in ranked)
    return ranked[0].terms["wait_s"] > settings.round_worth_rtts * trip_s > 0.0


def late(task: TaskFacts, ranked: Ranked) -> bool:
    """Whether the task's time would be up before it is done there."""
    return ranked.estimate_s > task.remaining_s


def hopeless(task: TaskFacts, ranked: Ranked) -> bool:
    """Whether the time would be up even if the peer takes no longer than it says."""
    return surely_s(ranked) > task.remaining_s


def surely_s(ranked: Ranked, *, moving: bool = True) -> float:
    """What the peer needs if it takes no longer than it says, and its line moves as it may; without the tensors' way
    when not `moving`.

    What is begun and comes too late is lost to others: with half as much again to do as can be done, 83 % of the work
    came in time without the margin on the wait, and 100 % with it.
    """
    terms, correction = ranked.terms, max(1.0, finite(ranked.peer.correction, 1.0))
    waiting_s = max(WAIT_MARGIN * terms["wait_s"] / correction, terms["transfer_s"] * moving, terms["fetch_s"])
    return terms["rtt_s"] + waiting_s + terms["service_s"] / correction


def estimate(task: TaskFacts, peer: PeerFacts, quote: Quote) -> Ranked:
    """When the peer would be done. Waiting, moving bytes and fetching the model overlap, so the longest counts."""
    trip_s, moving_s = peer.trip_s, transfer_s(task, peer)
    correction = finite(peer.correction, 1.0)
    wait_s = finite(quote.backlog_s, NEVER_S) * correction
    fetch_s = finite(quote.load_s, NEVER_S) + quote.fetch_bytes / LINK_BYTES_S
    service_s = finite(quote.service_s, NEVER_S) * correction
    shortfall_s = finite(peer.shortfall_s, 0.0)
    before_s = max(wait_s, moving_s, fetch_s)
    total_s = trip_s + before_s + service_s + shortfall_s
    terms = {"rtt_s": trip_s, "wait_s": wait_s, "transfer_s": moving_s, "fetch_s": fetch_s, "service_s": service_s}
    if shortfall_s:
        terms["shortfall_s"] = shortfall_s
    weighed_s = total_s + (WAIT_WEIGHT[task.objective] - 1.0) * before_s
    score_s = weighed_s * POWER["battery" if peer.battery else "mains"]
    return Ranked(peer, total_s, score_s, terms)
