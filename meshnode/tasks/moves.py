"""What happens to a task, and what is to be done about it: the events and effects of `meshnode.tasks.lifecycle`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from meshnode.errors import Attempt, MeshError
from meshnode.wire.messages import NodeId


class State(Enum):
    """Where a task is."""

    ROUTING = "routing"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """The agent has the task."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Routing picked a node. `late_s` after it is sent, a second copy may run; None for never."""

    node: NodeId
    name: str
    late_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unroutable:
    """Routing found no node. `final` when no wait can change that (no such zone, no such node)."""

    error: MeshError
    final: bool


@dataclass(frozen=True, slots=True)
class Replied:
    """An attempt brought a result, which the core does not look into."""

    attempt: int
    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt ended with an error."""

    attempt: int
    error: MeshError


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client gave the task up."""


Event = Begin | Chosen | Unroutable | Replied | Failed | Cancel


# --- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    """Choose a node, none of `exclude`; feed back `Chosen` or `Unroutable`."""

    exclude: frozenset[NodeId]


@dataclass(frozen=True, slots=True)
class Send:
    """Send the attempt; feed back `Replied` or `Failed` with its number."""

    attempt: int
    number: int
    node: NodeId
    remaining_s: float
    deaths: int


@dataclass(frozen=True, slots=True)
class Recall:
    """Ask the node for the attempt's result, over a new link if need be; feed back `Replied` or `Failed`.

    `within_s` is for reaching it. `patient`: try until then, unless its address says that it is gone.
    """

    attempt: int
    number: int
    node: NodeId
    within_s: float
    patient: bool


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop routing, and tell every node that its attempt is no longer wanted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The one answer: a result."""

    result: Any
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Fail:
    """The one answer: an error, with every attempt in it."""

    error: MeshError


Effect = Route | Send | Recall | Abandon | Answer | Fail
