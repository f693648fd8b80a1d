"""Several models one after the other as one task: how a pipeline is written, and run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from meshnode.client import options
from meshnode.client.options import Inputs
from meshnode.client.result import Result
from meshnode.errors import InvalidInput
from meshnode.wire.messages import Objective, Priority
from meshnode.wire.stages import STAGES_MAX
from meshnode.wire.stages import Stage as WireStage

if TYPE_CHECKING:
    from meshnode.client.task import AsyncClient


@dataclass(frozen=True, slots=True)
class Stage:
    """One model of a pipeline.

    Attributes:
        model: `name`, `name:version` or a digest.
        inputs: for inputs that are called otherwise than the output that feeds them: {input: output}.
        node: run this stage on this node only (a name or an id).
    """

    model: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    node: str | None = None


Given = str | tuple[str, Mapping[str, str]] | Stage
"""A stage as people write it: a model, or a model and which output feeds which of its inputs."""


class PipelineOptions(TypedDict, total=False):
    """The options of a pipeline, for all of its stages together; what each means is said at `TaskOptions`.

    node: run all stages that name no other on this one. outputs: those of the last stage that are wanted.
    """

    timeout: float
    node: str | None
    zone: str | None
    priority: Priority
    outputs: Sequence[str]
    idempotent: bool
    exact: bool
    objective: Objective


def checked_stages(given: Sequence[Given]) -> tuple[Stage, ...]:
    """Raises InvalidInput for what is no pipeline."""
    stages = tuple(_stage(one) for one in given)
    if not 1 <= len(stages) <= STAGES_MAX:
        raise InvalidInput(f"a pipeline has 1 to {STAGES_MAX} stages, not {len(stages)}")
    if stages[0].inputs:
        raise InvalidInput(
            f"nothing comes before {stages[0].model!r}, the first stage", hint="name its inputs when it is run"
        )
    return stages


def _stage(given: Given) -> Stage:
    if isinstance(given, str):
        given = Stage(given)
    elif isinstance(given, tuple | list) and len(given) == 2:
        given = Stage(*given)
    if not isinstance(given, Stage):
        raise InvalidInput(
            f"a stage is a model's name, (name, {{input: output}}) or a meshnode.Stage, not {type(given).__name__}"
        )
    options.checked_text(given.model, "model")
    if given.node is not None:
        options.checked_text(given.node, "node")
    if not isinstance(given.inputs, Mapping):
        raise InvalidInput(f"the inputs of stage {given.model!r} are a mapping of input to output, both names")
    for name, output in given.inputs.items():
        options.checked_text(name, f"an input of stage {given.model!r}")
        options.checked_text(output, f"an output for stage {given.model!r}")
    return given


def after_the_first(stages: Sequence[Stage], node: str | None) -> tuple[WireStage, ...]:
    """Those that follow the first, as they travel."""
    return tuple(WireStage(it.model, tuple(it.inputs.items()), (), it.node or node) for it in stages[1:])


class AsyncPipeline:
    """Several models as one task: call it with the inputs of the first, and get the outputs of the last."""

    def __init__(self, client: AsyncClient, stages: Sequence[Given]) -> None:
        self._client = client
        self.stages = checked_stages(stages)

    async def infer(self, inputs: Inputs, **task: Unpack[PipelineOptions]) -> Result:
        """Run all stages; `Result.stages` tells of each. What went wrong names its stage (`MeshError.stage`).

        What a stage brings stays where it is when the next one is run there, and else goes straight to its node.
        """
        return await self._client._infer_stages(self.stages, inputs, **task)

    def submit(self, inputs: Inputs, **task: Unpack[PipelineOptions]) -> asyncio.Task[Result]:
        """Like `infer`, begun at once; inputs are copied. Cancelling it cancels the stage that runs."""
        return asyncio.ensure_future(self.infer(options.snapshot(inputs), **task))

    async def __call__(self, value: Any = None, /, **inputs: Any) -> Result:
        """A single unnamed input, or inputs by name."""
        if value is not None:
            inputs = dict(
                options.named(await self._client.ask("model.show", model=self.stages[0].model), value, inputs)
            )
        return await self.infer(inputs)
