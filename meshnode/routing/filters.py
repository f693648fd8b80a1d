"""The hard rules: who must not get a task, each with the reason that a person is told."""

from __future__ import annotations

from meshnode.config import Routing
from meshnode.routing.facts import Exclusion, PeerFacts, TaskFacts, finite
from meshnode.wire.messages import NodeId

EJECTED_SHARE = 3
"""At most one in so many peers is left out for its failures: when most seem to fail, the fault is here."""

# One of each: a decision among many nodes makes one a node, and the decisions of 512 tasks are remembered.
NODE = Exclusion("node", "the task names another node")
NOT_ALIVE = Exclusion("not_alive", "it is not alive, or cannot be reached from here")
ROLE = Exclusion("role", "its grant lacks the role `worker`")
DRAINING = Exclusion("draining", "it is finishing its work and takes no more")
NO_WORKER = Exclusion("model", "it has no worker that runs models")
TRIED = Exclusion("tried", "this task was already tried there")
LIED = Exclusion("ejected", "its result was not what two others agree on, and it is tried again later")
EJECTED = Exclusion("ejected", "it failed several times in a row and is tried again later")
SUSPECT = Exclusion("suspect", "it broke or fell silent a moment ago, and others are there")


def exclusion(
    task: TaskFacts, peer: PeerFacts, settings: Routing, exclude: frozenset[NodeId], floor_s: float
) -> Exclusion | None:
    """The first hard rule that the peer breaks. `floor_s` is the soonest that it could be done there."""
    if task.node is not None and peer.id != task.node:
        return NODE
    if not peer.alive:
        return NOT_ALIVE
    if not peer.in_zone:
        return Exclusion("zone", f"it is not in zone {task.zone!r}")
    if peer.way_leaves:
        return Exclusion("zone", f"it is reached only through a member outside of zone {peer.way_leaves!r}")
    if not peer.worker:
        return ROLE
    if peer.draining:
        return DRAINING
    if peer.paused and not peer.is_self:
        return Exclusion("paused", peer.paused)
    if not peer.can_run:
        return NO_WORKER
    if not peer.provides:
        return Exclusion("provider", f"it has no worker that runs on {task.provider}")
    if not peer.is_self and peer.battery and finite(peer.battery_percent, 100.0) < settings.battery_percent_min:
        return Exclusion("battery", f"on battery at {peer.battery_percent:g} %, and takes no work of others")
    if not peer.loaded and peer.memory_free is not None:
        needed = int(task.model_memory_bytes * settings.memory_factor)
        if peer.memory_free < needed:
            return Exclusion("memory", f"{peer.memory_free} bytes are free, the model needs {needed}")
    if peer.id in exclude:
        return TRIED
    if peer.distrusted and task.node is None:
        return LIED
    if task.node is None and not peer.is_self and floor_s > task.remaining_s:
        return Exclusion("deadline", f"it could not be done there in the {task.remaining_s:.3g} s that are left")
    return None


def trusted(others: list[PeerFacts], excluded: dict[NodeId, Exclusion]) -> list[PeerFacts]:
    """Without those that failed lately, as long as enough others are left; who is left out is added to `excluded`."""
    if not any(peer.ejected or peer.suspect for peer in others):
        return others
    failing = sorted((peer for peer in others if peer.ejected), key=lambda peer: (-peer.correction, peer.id))
    out = {peer.id for peer in failing[: len(others) // EJECTED_SHARE]}
    rest = [peer for peer in others if peer.id not in out]
    fit = [peer for peer in rest if not peer.suspect] or rest
    for peer in others:
        if peer.id in out:
            excluded[peer.id] = EJECTED
        elif peer.suspect and len(fit) < len(rest):
            excluded[peer.id] = SUSPECT
    return [peer for peer in fit if peer.id not in excluded]
