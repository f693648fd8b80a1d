"""How tasks ended: told to whoever keeps count or a record. Sizes are bytes, times seconds."""

from __future__ import annotations

from msgspec import Struct

from meshnode.errors import Attempt
from meshnode.wire.messages import Digest, NodeId, TaskId


class Served(Struct, frozen=True):
    """A task that this node was given and how it ended there: `ok`, an error's code, or `cancelled`."""

    task: TaskId
    model: Digest
    submitter: NodeId
    zone: str | None
    outcome: str
    seconds: float
    run_s: float
    input_bytes: int
    output_bytes: int
    detail: str = ""
    """The error's text."""


class Ended(Struct, frozen=True):
    """A task that was submitted here: the node that did it, or none; `ok`, an error's code, or `cancelled`."""

    task: TaskId
    model: Digest
    zone: str | None
    node: NodeId | None
    outcome: str
    attempts: int
    seconds: float
    input_bytes: int
    tried: tuple[Attempt, ...] = ()
    """Every attempt, where there was more than one or none ended well."""
    detail: str = ""
    """The error's text."""
