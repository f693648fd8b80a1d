"""A steady load from a client in a thread of its own, and what became of each task."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import meshnode


@dataclass
class Load:
    """`rate` tasks a second through the agent of `home` until it is left.

    Of the echo model each task carries its number, and an answer that is not that number is wrong; with `rounds` it is
    the slow model, and an answer that differs from the first one is.
    """

    home: Path
    rate: float
    rounds: int = 0
    sent: int = 0
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    nodes: dict[str, int] = field(default_factory=dict)
    rerouted: int = 0
    answered: int = 0
    expected: Any = None

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        open_tasks: list[tuple[int, Future[Any]]] = []
        with meshnode.Client(home=self.home) as client:
            due = time.monotonic()
            while not self._stop.is_set():
                number = self.sent
                self.sent += 1
                open_tasks.append((number, client.submit(*self._task(number), timeout=20.0)))
                due += 1 / self.rate
                self._stop.wait(max(0.0, due - time.monotonic()))
            for number, future in open_tasks:
                self._judge(number, future)

    def _task(self, number: int) -> tuple[str, dict[str, Any]]:
        if self.rounds:
            return "slow", {"x": np.ones((1, 64), np.float32), "rounds": np.array(self.rounds, np.int64)}
        return "echo", {"x": np.full((1, 4), number, np.float32)}

    def _judge(self, number: int, future: Future[Any]) -> None:
        try:
            result = future.result(30)
        except Exception as error:  # whatever it is, it is a lost task
            self.errors.append(f"{number}: {error!r}")
            return
        self.answered += 1
        if self.rounds:
            self.expected = result["y"] if self.expected is None else self.expected
            self.wrong += not np.array_equal(result["y"], self.expected)
        else:
            self.wrong += not np.array_equal(result["y"], np.full((1, 4), number, np.float32))
        self.nodes[result.node] = self.nodes.get(result.node, 0) + 1
        self.rerouted += len(result.attempts) > 1
