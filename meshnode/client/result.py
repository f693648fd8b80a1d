"""What came of a task: its outputs, and how it went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from meshnode.errors import Attempt
from meshnode.wire import tensors
from meshnode.wire.messages import StageDone, Submitted
from meshnode.wire.tensors import Array


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage of a pipeline, and how it went; `seconds` from its beginning to its result. See `Result`."""

    model: str
    node: str
    node_name: str
    seconds: float
    run_seconds: float
    queue_seconds: float
    provider: str
    precision: str
    batch: int
    input_bytes: int
    attempts: tuple[Attempt, ...]


class Result(Mapping[str, Array]):
    """The outputs of a task by name, and how it went.

    Attributes:
        node: the id of the node that ran it; `node_name` its name.
        attempts: every try, the last one "ok".
        seconds: from submission to result, as the agent saw it.
        run_seconds, queue_seconds: at the node that ran it.
        provider: the ONNX Runtime provider that ran it.
        precision: the widest float type of the model's inputs and weights, "" when it has none.
        batch: how many tasks ran as one.
        quoted_seconds: what was expected of the attempt that brought it; None when nothing was.
        model: the digest of the model.
        stages: of a pipeline, one for each stage; node, provider and what was measured are then the last one's, and
            `attempts` those of all stages.
        index: of a result of `map` or `stream`, which input it belongs to, from 0.
    """

    __slots__ = (
        "_outputs",
        "attempts",
        "batch",
        "index",
        "model",
        "node",
        "node_name",
        "precision",
        "provider",
        "queue_seconds",
        "quoted_seconds",
        "run_seconds",
        "seconds",
        "stages",
    )

    def __init__(self, message: Submitted, body: memoryview) -> None:
        arrays = tensors.decode(message.outputs, body)
        # The caller's own, to be written to, as onnxruntime's are; what lies in a buffer of ours is its own already.
        self._outputs = {name: a if a.flags.writeable else a.copy() for name, a in arrays.items()}
        self.node = message.node
        self.node_name = message.name
        self.model = message.model
        self.seconds = message.seconds
        self.run_seconds = message.run_s
        self.queue_seconds = message.queue_s
        self.provider = message.provider
        self.precision = message.precision
        self.batch = message.batch
        self.quoted_seconds = message.quoted_s
        self.stages = tuple(_stage(number, done) for number, done in enumerate(message.stages))
        self.attempts = tuple(attempt for stage in self.stages for attempt in stage.attempts)
        if not self.stages:
            self.attempts = tuple(Attempt(*row) for row in message.attempts)
        self.index = 0

    def __getitem__(self, name: str) -> Array:
        return self._outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    # Two results are never asked for being equal: a mapping's comparison would compare arrays, which have no yes or no.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name}: {a.dtype}{list(a.shape)}" for name, a in self._outputs.items())
        return f"<Result {outputs} from {self.node_name} in {self.seconds * 1000:.1f} ms>"


def _stage(number: int, done: StageDone) -> StageResult:
    return StageResult(
        model=done.model,
        node=done.node,
        node_name=done.name,
        seconds=done.seconds,
        run_seconds=done.run_s,
        queue_seconds=done.queue_s,
        provider=done.provider,
        precision=done.precision,
        batch=done.batch,
        input_bytes=done.input_bytes,
        attempts=tuple(Attempt(*row, number) for row in done.attempts),
    )
