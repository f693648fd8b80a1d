"""What execution is asked and what it answers, as values."""

from __future__ import annotations

import hashlib
from pathlib import Path

from msgspec import Struct

from meshnode.execution.control import TensorInfo
from meshnode.wire.messages import Digest, Priority, TaskId, TensorSpec
from meshnode.wire.tensors import Buffer


class ModelFile(Struct, frozen=True):
    """A model by its digest, where its .onnx file lies, and the bytes of memory that it takes at least."""

    digest: Digest
    path: Path
    needs_bytes: int = 0


class Job(Struct, frozen=True):
    """A task to run here; `deadline` is monotonic seconds.

    `max_wait_s`: it is to begin within that, or be refused. `provider`: on this one, or not at all. `once`: it must
    never be run a second time.
    """

    task: TaskId
    model: ModelFile
    inputs: tuple[TensorSpec, ...]
    body: memoryview
    outputs: tuple[str, ...]
    deadline: float
    priority: Priority = "normal"
    foreign: bool = False
    deaths: int = 0
    max_wait_s: float | None = None
    provider: str = ""
    once: bool = False


def fingerprint(job: Job) -> bytes:
    """A digest of what the model is given: the same for the same task, sent by whomever."""
    inputs = hashlib.sha256(repr(job.inputs).encode())
    inputs.update(job.body)
    return inputs.digest()


class Done(Struct, frozen=True):
    """What a job brought: the outputs' specs and bytes.

    `batch` is how many tasks ran as one, `precision` the widest float type that the model computes in, `backlog_s` the
    work that waits here now.
    """

    specs: tuple[TensorSpec, ...]
    body: Buffer
    queue_s: float
    run_s: float
    provider: str
    precision: str = ""
    batch: int = 1
    backlog_s: float = 0.0


class ProbeReport(Struct, frozen=True):
    """What a model declares, and what running it on zeros told (None when zeros do not suit it)."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    memory_bytes: int
    run_s: float | None
    metadata: dict[str, str]
    provider: str
    runtime: str


class LoadedModel(Struct, frozen=True):
    """A model in a worker's memory. `last_used_s` is seconds ago."""

    digest: Digest
    bytes: int
    last_used_s: float
    in_flight: int
    service_s: float | None
    provider: str
