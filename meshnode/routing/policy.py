"""Who should run a task: the whole choice, as pure functions with their reasons.

`route` filters the peers (each exclusion with its reason), runs the task here when that is plainly best, and
otherwise draws a few candidates at random, weighted by capacity, to be asked for quotes. `pick` ranks those that
answered by estimated completion. Gossip is used for slow facts only; load is asked for at the moment of use, which
keeps submitters from herding on yesterday's idle peer. Drawing by capacity keeps slow peers from being asked as often
as fast ones.

Everything is in seconds and bytes. No clock, no socket, no randomness but the one passed in. Figures behind the
defaults, from simulation of 20 peers of speeds 1x to 20x at 90 % load: p99 151 ms for this policy with d = 3, 353 ms
for peak EWMA with the same draw, 272 ms for Prequal, 43 s for the least loaded by gossip, 102 ms with perfect
knowledge. `scripts/bench/routing` repeats the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from meshnode.config import Routing
from meshnode.wire.messages import NodeId, Quote
from meshnode.wire.rng import Rng

Reason = Literal[
    "not_alive",
    "draining",
    "paused",
    "role",
    "zone",
    "node",
    "model",
    "memory",
    "battery",
    "tried",
    "deadline",
    "ejected",
    "suspect",
]

WARM, ON_DISK, FETCH = 1.0, 0.2, 0.05
"""Weight of a peer in the draw by where the model is."""
POWER = {"mains": 1.0, "battery": 1.3}
"""How much dearer a second is there."""
LINK_BYTES_S = 100e6
"""What a link is believed to carry before it was measured."""
LOAD_BYTES_S = 500e6
CLAIM_MAX = 1e12
"""Larger than any second or byte rate that is meant, and small enough that sums of it stay numbers."""
RTT_PRIOR_S = 0.002
SERVICE_PRIOR_S = 0.05
NEVER_S = 1e9
"""What a time that makes no sense counts as."""
EJECTED_SHARE = 3
"""At most one in so many peers is left out for its failures: when most seem to fail, the fault is here."""


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What a task needs. `node` pins it to one node, `remaining_s` is the time it has left."""

    input_bytes: int
    remaining_s: float
    model_bytes: int
    model_memory_bytes: int = 0
    zone: str | None = None
    node: NodeId | None = None


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What is known of a node without asking it.

    `service_s` is what the model is believed to take there; `weight` scales the draw (newcomers, past failures),
    never the estimate; `correction` is how many times longer it took than it said, lately, and `shortfall_s` how many
    seconds longer than even that explains. `suspect` and `ejected` peers are left out while others are there.
    """

    id: NodeId
    is_self: bool = False
    alive: bool = True
    suspect: bool = False
    draining: bool = False
    paused: str = ""
    worker: bool = True
    in_zone: bool = True
    can_run: bool = True
    loaded: bool = False
    on_disk: bool = False
    memory_free: int | None = None
    foreign_ok: bool = True
    battery: bool = False
    battery_percent: float | None = None
    slots: int = 1
    service_s: float = 0.05
    rtt_s: float | None = None
    bytes_s: float | None = None
    weight: float = 1.0
    correction: float = 1.0
    shortfall_s: float = 0.0
    ejected: bool = False


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why a node was not considered."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`local`: run it here, unasked. `ask`: ask the candidates for quotes. `none`: nobody can; `excluded` says why."""

    kind: Literal["local", "ask", "none"]
    candidates: tuple[PeerFacts, ...]
    excluded: Mapping[NodeId, Exclusion]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A node and when it would be done, seconds from now. `score_s` is what is compared: a battery makes it dearer."""

    peer: PeerFacts
    estimate_s: float
    score_s: float
    terms: Mapping[str, float] = field(default_factory=dict)


def route(
    task: TaskFacts,
    peers: Sequence[PeerFacts],
    own: Quote | None,
    rng: Rng,
    settings: Routing,
    exclude: frozenset[NodeId] = frozenset(),
) -> Decision:
    """Who is to be asked. `own` is this node's quote for itself, which is free; None when it cannot take the task."""
    excluded: dict[NodeId, Exclusion] = {}
    eligible: list[PeerFacts] = []
    for peer in peers:
        reason = _exclusion(task, peer, settings, exclude)
        if reason is None:
            eligible.append(peer)
        else:
            excluded[peer.id] = reason
    here = next((peer for peer in eligible if peer.is_self), None)
    fit = _trusted([peer for peer in eligible if not peer.is_self], excluded)
    if here is not None and own is not None:
        mine_s = estimate(task, here, own).estimate_s
        if not fit or mine_s <= min(_floor_s(task, peer) for peer in fit):
            return Decision("local", (here,), excluded)
    candidates = draw(fit, settings.candidates, rng)
    if here is not None and own is not None:
        candidates.append(here)
    return Decision("ask" if candidates else "none", tuple(candidates), excluded)


def _trusted(others: list[PeerFacts], excluded: dict[NodeId, Exclusion]) -> list[PeerFacts]:
    """Without those that failed lately, as long as enough others are left."""
    failing = sorted((peer for peer in others if peer.ejected), key=lambda peer: (-peer.correction, peer.id))
    out = {peer.id for peer in failing[: len(others) // EJECTED_SHARE]}
    rest = [peer for peer in others if peer.id not in out]
    fit = [peer for peer in rest if not peer.suspect] or rest
    for peer in others:
        if peer.id in out:
            excluded[peer.id] = Exclusion("ejected", "it failed several times in a row and is tried again later")
        elif peer.suspect and len(fit) < len(rest):
            excluded[peer.id] = Exclusion("suspect", "it broke or fell silent a moment ago, and others are there")
    return [peer for peer in fit if peer.id not in excluded]


def draw(peers: Sequence[PeerFacts], count: int, rng: Rng) -> list[PeerFacts]:
    """`count` distinct peers, weighted by how much of this work they can do; one that is warm is always among them.

    Weighted sampling without replacement by exponential keys (Efraimidis and Spirakis, 2006).
    """
    keyed = sorted(((-math.log(1.0 - rng.random()) / capacity(peer), i) for i, peer in enumerate(peers)))
    chosen = [peers[i] for _, i in keyed[:count]]
    if chosen and not any(peer.loaded for peer in chosen):
        warm = [peer for peer in peers if peer.loaded]
        if warm:
            chosen[-1] = max(warm, key=capacity)
    return chosen


def capacity(peer: PeerFacts) -> float:
    """Runs a second, scaled by where the model is and by how far the peer is trusted."""
    warm = WARM if peer.loaded else ON_DISK if peer.on_disk else FETCH
    service_s = max(_finite(peer.service_s, SERVICE_PRIOR_S), 1e-6)
    return max(1e-9, max(1, peer.slots) / service_s * warm * min(1.0, _finite(peer.weight, 0.0)))


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
    best_s = min((r.score_s for r in ranked if not _late(task, r)), default=min(r.score_s for r in ranked))
    band_s = best_s * (1 + settings.tie_band)
    order = sorted(ranked, key=lambda r: (_late(task, r), best_s if r.score_s <= band_s else r.score_s))
    here = next((r for r in order if r.peer.is_self), None)
    if here is not None and _late(task, here) == _late(task, order[0]):
        margin_s = max(settings.hysteresis * here.score_s, settings.hysteresis_s)
        if here.score_s - best_s <= margin_s:
            order.remove(here)
            order.insert(0, here)
    return order


def _late(task: TaskFacts, ranked: Ranked) -> bool:
    return ranked.estimate_s > task.remaining_s


def estimate(task: TaskFacts, peer: PeerFacts, quote: Quote) -> Ranked:
    """When the peer would be done. Waiting, moving bytes and fetching the model overlap, so the longest counts."""
    rtt_s = 0.0 if peer.is_self else _finite(peer.rtt_s, RTT_PRIOR_S)
    transfer_s = _transfer_s(task, peer)
    correction = _finite(peer.correction, 1.0)
    wait_s = _finite(quote.backlog_s, NEVER_S) * correction
    fetch_s = _finite(quote.load_s, NEVER_S) + quote.fetch_bytes / LINK_BYTES_S
    service_s = _finite(quote.service_s, NEVER_S) * correction
    shortfall_s = _finite(peer.shortfall_s, 0.0)
    total_s = rtt_s + max(wait_s, transfer_s, fetch_s) + service_s + shortfall_s
    terms = {"rtt_s": rtt_s, "wait_s": wait_s, "transfer_s": transfer_s, "fetch_s": fetch_s, "service_s": service_s}
    if shortfall_s:
        terms["shortfall_s"] = shortfall_s
    return Ranked(peer, total_s, total_s * POWER["battery" if peer.battery else "mains"], terms)


def _transfer_s(task: TaskFacts, peer: PeerFacts) -> float:
    if peer.is_self:
        return 0.0
    return task.input_bytes / max(1.0, _finite(peer.bytes_s, LINK_BYTES_S))


def _finite(value: float | None, otherwise: float) -> float:
    """A claim of a peer within reason, or what is believed instead when it makes no sense."""
    return min(value, CLAIM_MAX) if value is not None and math.isfinite(value) and value >= 0 else otherwise


def _floor_s(task: TaskFacts, peer: PeerFacts) -> float:
    """The soonest a peer could be done by what is known without asking: as if it were idle."""
    load_s = 0.0 if peer.loaded else task.model_bytes / (LOAD_BYTES_S if peer.on_disk else LINK_BYTES_S)
    service_s = _finite(peer.service_s, SERVICE_PRIOR_S) * _finite(peer.correction, 1.0)
    # One round trip for the quote, one for the task.
    return 2 * _finite(peer.rtt_s, RTT_PRIOR_S) + max(load_s, _transfer_s(task, peer)) + service_s


def _exclusion(task: TaskFacts, peer: PeerFacts, settings: Routing, exclude: frozenset[NodeId]) -> Exclusion | None:
    """The first hard rule that the peer breaks."""
    if task.node is not None and peer.id != task.node:
        return Exclusion("node", "the task names another node")
    if not peer.alive:
        return Exclusion("not_alive", "it is not alive, or cannot be reached from here")
    if not peer.in_zone:
        return Exclusion("zone", f"it is not in zone {task.zone!r}")
    if not peer.worker:
        return Exclusion("role", "its grant lacks the role `worker`")
    if peer.draining:
        return Exclusion("draining", "it is finishing its work and takes no more")
    if peer.paused and not peer.is_self:
        return Exclusion("paused", peer.paused)
    if not peer.can_run:
        return Exclusion("model", "it has no worker that runs models")
    if not peer.is_self and peer.battery and _finite(peer.battery_percent, 100.0) < settings.battery_percent_min:
        return Exclusion("battery", f"on battery at {peer.battery_percent:g} %, and takes no work of others")
    if not peer.loaded and peer.memory_free is not None:
        needed = int(task.model_memory_bytes * settings.memory_factor)
        if peer.memory_free < needed:
            return Exclusion("memory", f"{peer.memory_free} bytes are free, the model needs {needed}")
    if peer.id in exclude:
        return Exclusion("tried", "this task was already tried there")
    if task.node is None and not peer.is_self and _floor_s(task, peer) > task.remaining_s:
        return Exclusion("deadline", f"it could not be done there in the {task.remaining_s:.3g} s that are left")
    return None
