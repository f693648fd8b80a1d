"""Messages about work: how busy a node is, what a task would take there, the task, and its answer.

Part of `meshnode.wire.messages`, where all messages are found.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from meshnode.wire.stages import AttemptRow, StagesDone, Then
from meshnode.wire.terms import (
    Count,
    Hex64,
    Id,
    Message,
    Name,
    Objective,
    Priority,
    Seconds,
    Task,
    Tensors,
    Trace,
    Zone,
)

Outputs = Annotated[tuple[Annotated[str, Meta(max_length=512)], ...], Meta(max_length=1024)]
Provider = Annotated[str, Meta(max_length=64)]
NodeName = Annotated[str, Meta(max_length=128)]
Share = Annotated[float, Meta(ge=0, le=1)]

# --- the fast facts: asked for when they are needed, never gossiped ------------------------------------------------


class VitalsAsk(Message, frozen=True, tag="vitals_ask"):
    """What is your load right now?"""


class Vitals(Message, frozen=True, tag="vitals"):
    """A node's load at this moment. `available_bytes` is memory; shares are 0..1."""

    in_flight: Count
    backlog_s: Seconds
    tasks_done: Count
    cpu_load: Annotated[float, Meta(ge=0, le=1e6)]
    available_bytes: Count
    uptime_s: Seconds
    gpu_free_bytes: tuple[Count, ...] = ()
    loaded: Annotated[tuple[Hex64, ...], Meta(max_length=4096)] = ()
    power_source: str = ""
    power_percent: float | None = None


# --- tasks between agents ------------------------------------------------------------------------------------------


class QuoteAsk(Message, frozen=True, tag="quote_ask"):
    """How soon could you finish this? The answer holds a place for `Quote.hold_s`.

    `provider`: only a run on this one counts; empty for any. `warm`: so many of those that are asked at once have the
    model in memory; 0 when others were asked about the task before.
    """

    task: Task
    model: Hex64
    deadline_s: Seconds
    priority: Priority = "normal"
    zone: Zone | None = None
    input_bytes: Count = 0
    provider: Provider = ""
    warm: Count = 0


class Warm(Message, frozen=True, tag="warm"):
    """Have this model in memory: those that have it are asked for too much. Answered by `Done` when it is there."""

    model: Hex64


class Quote(Message, frozen=True, tag="quote"):
    """The wait before the task would start, how long it would run, and what loading or fetching would cost first."""

    backlog_s: Seconds
    service_s: Seconds
    slots: Annotated[int, Meta(ge=1, le=4096)]
    load_s: Seconds = 0.0
    fetch_bytes: Count = 0
    hold_s: Seconds = 0.0


class Infer(Message, frozen=True, tag="infer"):
    """Run this. The tensors follow as the body.

    `deaths` counts the workers this task has already killed anywhere in the mesh. `max_wait_s`: refuse it, with a hint,
    when it would wait longer before it starts. `provider`: run it on this one or refuse it. `once`: it must never be
    run twice, whatever happens to the first run. `then`: the rest of a pipeline, of which this is stage `stage`, from
    0; whoever runs this submits the rest, or answers with what this stage brought. `trace`: the span that this is part
    of.
    """

    task: Task
    attempt: Annotated[int, Meta(ge=1, le=16)]
    model: Hex64
    deadline_s: Seconds
    inputs: Tensors
    priority: Priority = "normal"
    zone: Zone | None = None
    outputs: Outputs = ()
    deaths: Count = 0
    max_wait_s: Seconds | None = None
    provider: Provider = ""
    once: bool = False
    then: Then = ()
    stage: Count = 0
    objective: Objective = "tail"
    trace: Trace = ""


class Inferred(Message, frozen=True, tag="inferred"):
    """The answer of `Infer`; the output tensors follow as the body. `checksum` is CRC-32 over that body.

    `precision` is the widest float type that the model computes in; `batch` is how many tasks ran as one, and
    `backlog_s` the work that waits at the node now. `stages` are those of `then` that were run, in `rest_s` seconds:
    the outputs are those of the last one, and all else is about the stage that was asked for.
    """

    outputs: Tensors
    model: Hex64
    node: Id
    queue_s: Seconds
    run_s: Seconds
    checksum: Count
    provider: str = ""
    precision: Annotated[str, Meta(max_length=16)] = ""
    batch: Count = 1
    backlog_s: Seconds = 0.0
    stages: StagesDone = ()
    rest_s: Seconds = 0.0


class ResultAsk(Message, frozen=True, tag="result_ask"):
    """The link broke before your answer came: is it kept? Answered by `Inferred`, once more, or by an error."""

    task: Task
    attempt: Annotated[int, Meta(ge=1, le=16)]


# --- local clients ------------------------------------------------------------------------------------------------


class Submit(Message, frozen=True, tag="submit"):
    """Run this on the best node. The tensors follow as the body; `model` is `name`, `name:version` or a digest.

    `exact`: on the CPU provider only, which gives one answer everywhere. `once`: never run it twice. `hedge`: a second
    copy may run when the first is late. `verify` is the share of such tasks that a second node is to repeat. `then`:
    the other stages of a pipeline, to which all of this applies but `node`; `outputs` are the last one's. `trace`: the
    span that this is part of.
    """

    task: Task
    model: Name
    inputs: Tensors
    deadline_s: Seconds
    priority: Priority = "normal"
    node: NodeName | None = None
    zone: Zone | None = None
    outputs: Outputs = ()
    objective: Objective = "tail"
    exact: bool = False
    once: bool = False
    hedge: bool = False
    verify: Share = 0.0
    then: Then = ()
    trace: Trace = ""


class Submitted(Message, frozen=True, tag="submitted"):
    """The one final answer of a task; the output tensors follow as the body.

    `attempts` are [node, name, outcome, seconds, detail]; `seconds` is the agent's time for the whole task,
    and `quoted_s` what was expected of the attempt that brought it; None when nothing was. Of a pipeline, `stages` are
    all of them, and `model`, `node` and what was measured are the last one's.
    """

    outputs: Tensors
    model: Hex64
    node: Id
    name: Name
    seconds: Seconds
    queue_s: Seconds = 0.0
    run_s: Seconds = 0.0
    provider: str = ""
    attempts: tuple[AttemptRow, ...] = ()
    precision: Annotated[str, Meta(max_length=16)] = ""
    batch: Count = 1
    quoted_s: Seconds | None = None
    stages: StagesDone = ()


class Plan(Message, frozen=True, tag="plan"):
    """Decide where this task would run, without running it. The answer is a `Document`."""

    model: Name
    inputs: Tensors
    deadline_s: Seconds
    priority: Priority = "normal"
    node: NodeName | None = None
    zone: Zone | None = None
    objective: Objective = "tail"
    exact: bool = False
