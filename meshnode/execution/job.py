"""What execution is asked and what it answers, as values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshnode.execution.control import TensorInfo
from meshnode.wire.messages import Digest, Priority, TaskId, TensorSpec
from meshnode.wire.tensors import Buffer


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model by its digest, and where its .onnx file lies."""

    digest: Digest
    path: Path


@dataclass(frozen=True, slots=True)
class Job:
    """A task to run here; `deadline` is monotonic seconds."""

    task: TaskId
    model: ModelFile
    inputs: tuple[TensorSpec, ...]
    body: memoryview
    outputs: tuple[str, ...]
    deadline: float
    priority: Priority = "normal"
    foreign: bool = False
    deaths: int = 0
    provider: str = ""
    """Run it on this one only; empty for any."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a job brought: the outputs' specs and bytes."""

    specs: tuple[TensorSpec, ...]
    body: Buffer
    queue_s: float
    run_s: float
    provider: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a model declares, and what running it on zeros told (None when zeros do not suit it)."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    memory_bytes: int
    run_s: float | None
    metadata: dict[str, str]
    provider: str
    runtime: str


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in a worker's memory. `last_used_s` is seconds ago."""

    digest: Digest
    bytes: int
    last_used_s: float
    in_flight: int
    service_s: float | None
    provider: str
