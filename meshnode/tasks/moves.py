"""What happens to a task, and what is to be done about it: the events and effects of `meshnode.tasks.lifecycle`."""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct

from meshnode.errors import Attempt, MeshError
from meshnode.wire.messages import NodeId


class State(Enum):
    """Where a task is."""

    ROUTING = "routing"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"


# --- events -----------------------------------------------------------------------------------------------------------


class Begin(Struct, frozen=True):
    """The agent has the task."""


class Chosen(Struct, frozen=True):
    """Routing picked a node. `late_s` after it is sent, a second copy may run; None for never."""

    node: NodeId
    name: str
    late_s: float | None = None


class Unroutable(Struct, frozen=True):
    """Routing found no node. `final` when no wait can change that (no such zone, no such node)."""

    error: MeshError
    final: bool


class Replied(Struct, frozen=True):
    """An attempt brought a result, which the core does not look into."""

    attempt: int
    result: Any


class Failed(Struct, frozen=True):
    """An attempt ended with an error."""

    attempt: int
    error: MeshError


class Cancel(Struct, frozen=True):
    """The client gave the task up."""


Event = Begin | Chosen | Unroutable | Replied | Failed | Cancel


# --- effects ----------------------------------------------------------------------------------------------------------


class Route(Struct, frozen=True):
    """Choose a node, none of `exclude`; feed back `Chosen` or `Unroutable`."""

    exclude: frozenset[NodeId]


class Send(Struct, frozen=True):
    """Send the attempt; feed back `Replied` or `Failed` with its number."""

    attempt: int
    number: int
    node: NodeId
    remaining_s: float
    deaths: int


class Recall(Struct, frozen=True):
    """Ask the node for the attempt's result, over a new link if need be; feed back `Replied` or `Failed`.

    `within_s` is for reaching it. `patient`: try until then, unless its address says that it is gone.
    """

    attempt: int
    number: int
    node: NodeId
    within_s: float
    patient: bool


class Abandon(Struct, frozen=True):
    """Stop routing, and tell every node that its attempt is no longer wanted."""


class Answer(Struct, frozen=True):
    """The one answer: a result."""

    result: Any
    attempts: tuple[Attempt, ...]


class Fail(Struct, frozen=True):
    """The one answer: an error, with every attempt in it."""

    error: MeshError


Effect = Route | Send | Recall | Abandon | Answer | Fail
