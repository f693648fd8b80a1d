"""What the policy looks at: a task, the peers, and what it says of them. Everything in seconds and bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import force_setattr

from meshnode.wire.messages import NodeId, Objective

Reason = Literal[
    "not_alive",
    "draining",
    "paused",
    "role",
    "zone",
    "node",
    "provider",
    "model",
    "memory",
    "battery",
    "tried",
    "deadline",
    "ejected",
    "suspect",
]

LINK_BYTES_S = 100e6
"""What a link is believed to carry before it was measured."""
LOAD_BYTES_S = 500e6
RTT_PRIOR_S = 0.002
SERVICE_PRIOR_S = 0.05
WARM, ON_DISK, FETCH = 1.0, 0.2, 0.05
"""Weight of a peer in the draw by where the model is…"""
FAR = 0.05
"""…and without a link to it, which takes each end 2 ms of processor to make: beyond 32 nodes few have one."""
CLAIM_MAX = 1e12
"""Larger than any second or byte rate that is meant, and small enough that sums of it stay numbers."""


class TaskFacts(Struct, frozen=True):
    """What a task needs. `node` pins it to one node, `remaining_s` is the time it has left.

    `output_bytes` is what such tasks brought lately; `provider` names the only one that will do.
    """

    input_bytes: int
    remaining_s: float
    model_bytes: int
    model_memory_bytes: int = 0
    zone: str | None = None
    """Of the task; or, where it names none, of its model."""
    node: NodeId | None = None
    output_bytes: int = 0
    provider: str = ""
    objective: Objective = "tail"


class PeerFacts(Struct, frozen=True):
    """What is known of a node without asking it.

    `service_s` is what the model is believed to take there, `claimed_s` what the peer itself says; `weight` scales the
    draw (newcomers, past failures), never the estimate; `correction` is how many times longer it took than it said,
    lately, and `shortfall_s` how many seconds longer than even that explains. `backlog_s` is the wait that it told
    last, less the time since; None when it told nothing. `suspect` and `ejected` peers are left out while others are
    there. `way_leaves` is the zone of the task that the only link to it leaves, through a relay.
    """

    id: NodeId
    is_self: bool = False
    alive: bool = True
    suspect: bool = False
    draining: bool = False
    paused: str = ""
    worker: bool = True
    in_zone: bool = True
    way_leaves: str = ""
    can_run: bool = True
    provides: bool = True
    loaded: bool = False
    on_disk: bool = False
    memory_free: int | None = None
    battery: bool = False
    battery_percent: float | None = None
    slots: int = 1
    service_s: float = SERVICE_PRIOR_S
    claimed_s: float | None = None
    rtt_s: float | None = None
    bytes_s: float | None = None
    backlog_s: float | None = None
    weight: float = 1.0
    correction: float = 1.0
    shortfall_s: float = 0.0
    ejected: bool = False
    distrusted: bool = False
    """Its result was wrong lately: it is left out, whoever else is there, unless it is asked by name."""
    trip_s: float = 0.0
    """To the peer and back. What is worked out of the above, once: facts live longer than decisions."""
    byte_s: float = 0.0
    """What one byte of a tensor takes."""
    ready_s: float = 0.0
    """The soonest it could be done with an empty tensor and the model loaded: one trip for the quote, one for the
    task. What we believe counts here only if it is less than what the peer says: who is left out for our belief never
    gets to refute it."""
    capacity: float = 0.0
    """Its weight in the draw: runs a second, scaled by where the model is and by how far the peer is trusted."""
    plain: bool = False
    """No rule that asks only about the peer speaks against it."""

    def __post_init__(self) -> None:
        put = force_setattr
        service_s = finite(self.service_s, SERVICE_PRIOR_S)
        trip_s = 0.0 if self.is_self else finite(self.rtt_s, RTT_PRIOR_S)
        put(self, "trip_s", trip_s)
        put(self, "byte_s", 0.0 if self.is_self else 1 / max(1.0, finite(self.bytes_s, LINK_BYTES_S)))
        believed_s = service_s * finite(self.correction, 1.0)
        put(self, "ready_s", 2 * trip_s + min(believed_s, finite(self.claimed_s, believed_s)))
        warm = WARM if self.loaded else ON_DISK if self.on_disk else FETCH
        near = 1.0 if self.is_self or self.rtt_s is not None else FAR
        trust = warm * near * min(1.0, finite(self.weight, 0.0))
        put(self, "capacity", max(1e-9, max(1, self.slots) / max(service_s, 1e-6) * trust))
        there = (
            self.alive
            and self.in_zone
            and not self.way_leaves
            and self.worker
            and self.can_run
            and self.provides
            and not self.draining
        )
        roomy = self.loaded or self.memory_free is None
        put(
            self,
            "plain",
            there and roomy and not self.distrusted and (self.is_self or not (self.paused or self.battery)),
        )


class Exclusion(Struct, frozen=True):
    """Why a node was not considered."""

    reason: Reason
    detail: str


class Decision(Struct, frozen=True):
    """What to do with a task.

    `local`: run it here, unasked. `go`: send it to the one candidate, unasked, to be refused when it would wait longer
    than `max_wait_s`. `ask`: ask the candidates for quotes. `none`: nobody can. `excluded` says why the others are not
    considered.
    """

    kind: Literal["local", "go", "ask", "none"]
    candidates: tuple[PeerFacts, ...]
    excluded: Mapping[NodeId, Exclusion]
    max_wait_s: float | None = None


class Ranked(Struct, frozen=True):
    """A node and when it would be done, seconds from now.

    `score_s` is what is compared: waiting counts more in it than running, and a second on battery more than another.
    """

    peer: PeerFacts
    estimate_s: float
    score_s: float
    terms: Mapping[str, float] = field(default_factory=dict)


def finite(value: float | None, otherwise: float) -> float:
    """A claim of a peer within reason, or what is believed instead when it makes no sense."""
    return min(value, CLAIM_MAX) if value is not None and math.isfinite(value) and value >= 0 else otherwise


def transfer_s(task: TaskFacts, peer: PeerFacts) -> float:
    """What the tensors take on the way there and back."""
    return (task.input_bytes + task.output_bytes) * peer.byte_s


def floor_s(task: TaskFacts, peer: PeerFacts) -> float:
    """The soonest a peer could be done by what is known without asking: as if it were idle."""
    before_s = (task.input_bytes + task.output_bytes) * peer.byte_s
    if not peer.loaded:
        before_s = max(before_s, task.model_bytes / (LOAD_BYTES_S if peer.on_disk else LINK_BYTES_S))
    return peer.ready_s + before_s
