"""The stages of a pipeline, as they travel: what is still to be run, and what became of those that were.

Part of `meshnode.wire.messages`, where all messages are found.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.wire.terms import Count, Hex64, Id, Name, Seconds

STAGES_MAX = 16
TensorName = Annotated[str, Meta(max_length=512)]
AttemptRow = tuple[str, str, str, float, str]
"""[node, name, outcome, seconds, detail]."""


class Stage(msgspec.Struct, frozen=True, array_like=True):
    """One model of a pipeline after the first.

    `inputs` says which output of the stage before feeds which input: [input, output]. From a client `model` may be a
    name, and what `inputs` leaves out is found by name; between agents `model` is a digest, `inputs` is whole, and
    `outputs` are those that are wanted of it, all when empty. `node` pins the stage.
    """

    model: Name
    inputs: Annotated[tuple[tuple[TensorName, TensorName], ...], Meta(max_length=1024)] = ()
    outputs: Annotated[tuple[TensorName, ...], Meta(max_length=1024)] = ()
    node: Annotated[str, Meta(max_length=128)] | None = None


class StageDone(msgspec.Struct, frozen=True, array_like=True):
    """What became of one stage. `seconds` is from its beginning to its result, as the node saw it that sent it."""

    model: Hex64
    node: Id
    name: Name
    seconds: Seconds
    queue_s: Seconds = 0.0
    run_s: Seconds = 0.0
    provider: Annotated[str, Meta(max_length=64)] = ""
    precision: Annotated[str, Meta(max_length=16)] = ""
    batch: Count = 1
    input_bytes: Count = 0
    attempts: Annotated[tuple[AttemptRow, ...], Meta(max_length=128)] = ()


Then = Annotated[tuple[Stage, ...], Meta(max_length=STAGES_MAX - 1)]
StagesDone = Annotated[tuple[StageDone, ...], Meta(max_length=STAGES_MAX)]
