"""A steady load from a client in a thread of its own, and what became of each task."""

from __future__ import annotations

import functools
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import meshnode
from tests.mesh.history import Task, judge

MODELS = Path(__file__).parent.parent.parent / "models"
KINDS = 16
"""So many different inputs of the slow model, whose answers are known from a run of onnxruntime itself."""
END_S = 30.0


@functools.cache
def expected(rounds: int, kind: int) -> Any:
    """What the slow model says, by onnxruntime itself."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(MODELS / "slow" / "model.onnx"), options)
    return session.run(None, {"x": _slow_input(kind), "rounds": np.array(rounds, np.int64)})[0]


def _slow_input(kind: int) -> Any:
    return np.full((1, 64), (kind + 1) / KINDS, np.float32)


def task_of(number: int, rounds: int = 0) -> tuple[str, dict[str, Any]]:
    """The model and the inputs of a task."""
    if rounds:
        return "slow", {"x": _slow_input(number % KINDS), "rounds": np.array(rounds, np.int64)}
    return "echo", {"x": np.full((1, 4), number, np.float32)}


def wanted_of(number: int, rounds: int = 0) -> Any:
    """The answer to that task."""
    return expected(rounds, number % KINDS) if rounds else np.full((1, 4), number, np.float32)


@dataclass
class Load:
    """`rate` tasks a second through the agent of `home` until it is left, which waits for the answers.

    Of the echo model each task carries its number, and an answer that is not that number is wrong; with `rounds` it is
    the slow model, and an answer that onnxruntime itself would not give is.
    """

    home: Path
    rate: float
    rounds: int = 0
    timeout_s: float = 20.0
    history: list[Task] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def sent(self) -> int:
        return len(self.history)

    @property
    def answered(self) -> int:
        return sum(task.good for task in self.history)

    @property
    def wrong(self) -> int:
        return len(judge(self.history).wrong)

    @property
    def twice(self) -> int:
        """Tasks that were answered more than once."""
        return len(judge(self.history).twice)

    @property
    def errors(self) -> list[str]:
        """A line for each lost task: it ended in an error, or not at all."""
        return list(judge(self.history).lost)

    @property
    def nodes(self) -> dict[str, int]:
        """How many tasks each node did."""
        ids = [task.node for task in self.history if task.node]
        return {node: ids.count(node) for node in set(ids)}

    @property
    def rerouted(self) -> int:
        return sum(len(task.attempts) > 1 for task in self.history)

    def _run(self) -> None:
        with meshnode.Client(home=self.home) as client:
            open_tasks = []
            due = time.monotonic()
            while not self._stop.is_set():
                task = Task(len(self.history), time.monotonic())
                self.history.append(task)
                future = client.submit(*task_of(task.number, self.rounds), timeout=self.timeout_s)
                task.follow(future, functools.partial(wanted_of, task.number, self.rounds))
                open_tasks.append(future)
                due += 1 / self.rate
                self._stop.wait(max(0.0, due - time.monotonic()))
            end = time.monotonic() + self.timeout_s + END_S
            for future in open_tasks:
                try:
                    future.exception(max(0.0, end - time.monotonic()))
                except TimeoutError:
                    break  # it has no answer, and counts as lost
