"""What a system shows to be compared. A new one is a module in `systems/` and a row in `register.py`.

The module runs in that system's own environment, where only numpy, onnxruntime and what its requirements name are
there. It has

    def commands(place: Place) -> list[list[str]]     the processes to start; none for what needs no server
    class Client                                      of `Place`: async start(), infer(model, x) -> y, close()

and may have

    def prepare(place: Place) -> None                 what a user did long before, and is no part of a start
    def victims(busiest: int) -> list[int]            whom kill -9 takes, if not only the process that runs models

A server is as good as its documents make it: its quickest door, raw bytes where it takes them, one process or thread
that runs models for each of `place.workers`, sessions of `session()`. `infer` may be called 16 times at once, raises
what its user would see, and tries nothing again that its library does not.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

SHAPES = {"mlp": (1, 64), "cnn": (1, 3, 224, 224)}
"""The models and what they take as `x`; both answer `y`, ten numbers."""
INPUTS = 8
"""Different ones of each model, in turn: an answer to another question is found out."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a system runs in this turn."""

    folder: str
    """Its own, empty when it first sees it, and there until the end of the run."""
    models: str
    """The folder of `mlp.onnx` and `cnn.onnx`."""
    tools: str
    """The folder of programs that no Python package brings."""
    ports: tuple[int, ...]
    """Free ones on 127.0.0.1."""
    workers: int
    """How many requests may run at the same time."""

    def model(self, name: str) -> str:
        """The file of a model."""
        return str(Path(self.models) / f"{name}.onnx")

    def text(self) -> str:
        """For a command line; `read` takes it back."""
        return json.dumps(asdict(self))


def read(text: str) -> Place:
    """What `Place.text` wrote."""
    fields = json.loads(text)
    return Place(**(fields | {"ports": tuple(fields["ports"])}))


def module(name: str, place: Place, *words: str) -> list[str]:
    """The command that runs a system's own module as a program, in the environment of who asks."""
    return [sys.executable, "-m", f"scripts.bench.comparison.systems.{name}", place.text(), *words]


class Client(Protocol):
    """How questions are put to a system: the way its documents show."""

    def __init__(self, place: Place) -> None: ...

    async def start(self) -> None:
        """Connect; raises when nobody is there yet."""

    async def infer(self, model: str, x: Array) -> Array:
        """The model's `y`."""

    async def close(self) -> None:
        """Let go."""


def session(place: Place, model: str) -> Any:
    """The same ONNX Runtime session for everybody: one thread, the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(place.model(model), options, providers=["CPUExecutionProvider"])


def questions(model: str) -> list[Array]:
    """The inputs: the same in every process."""
    rng = np.random.default_rng(7)
    return [rng.standard_normal(SHAPES[model], np.float32) for _ in range(INPUTS)]
