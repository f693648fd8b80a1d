"""The history of tasks, recorded while they run and checked afterwards: the one checker of every experiment.

Each task has to have one answer and no second one, the right one, and by a node that may: inside of its zone, and not
one that was thrown out before the task was sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from meshnode.errors import Attempt, MeshError


@dataclass(slots=True)
class Task:
    """One task's story; `due` and `ended` are monotonic seconds."""

    number: int
    due: float
    zone: str = ""
    ended: float = 0.0
    answers: int = 0
    error: str = ""
    code: str = ""
    """Of the error."""
    right: bool = False
    node: str = ""
    run_s: float = 0.0
    attempts: tuple[Attempt, ...] = ()

    @property
    def good(self) -> bool:
        return self.answers > 0 and not self.error

    @property
    def seconds(self) -> float:
        """From when it was due to the answer."""
        return self.ended - self.due

    @property
    def last_sent(self) -> float:
        """When the last attempt was sent, as far as it came to one."""
        return self.ended - (self.attempts[-1].seconds if self.attempts else 0.0)

    def outcomes(self, node: str | None = None) -> list[str]:
        """How its attempts ended, of one node or of all."""
        return [it.outcome for it in self.attempts if node in (None, it.node)]

    def failed(self, error: BaseException) -> None:
        """It has ended, in an error; whatever that is, it is a lost task unless the experiment asked for it."""
        if isinstance(error, MeshError):
            self.error, self.code, self.attempts = f"{error.code}: {error}", error.code, tuple(error.attempts)
        else:
            self.error = repr(error)

    def answered(self, result: Any, wanted: Any, output: str = "y") -> None:
        """It has an answer, which should be this."""
        self.right = bool(np.array_equal(result[output], wanted))
        self.node, self.run_s, self.attempts = result.node, result.run_seconds, result.attempts

    def follow(self, future: Future[Any], wanted: Callable[[], Any], output: str = "y") -> None:
        """Write down how it ends."""

        def ended(_: Future[Any]) -> None:
            self.answers += 1
            self.ended = time.monotonic()
            if (error := future.exception()) is not None:
                self.failed(error)
            else:
                self.answered(future.result(), wanted(), output)

        future.add_done_callback(ended)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a history; each a line a task."""

    tasks: int
    lost: tuple[str, ...]
    wrong: tuple[str, ...]
    twice: tuple[str, ...]
    outside: tuple[str, ...]


def within(zone: str, place: str) -> bool:
    """Whether a node of that place may have what is bound to the zone; no zone binds nothing."""
    return not zone or f"{place}/".startswith(f"{zone}/")


def judge(
    history: Sequence[Task], places: Mapping[str, str] | None = None, refused: Mapping[str, float] | None = None
) -> Verdict:
    """Check a history.

    Args:
        places: the zone of each node by its id; who is not named lies in none.
        refused: nodes that the submitter knew to be thrown out, and since when.
    """
    where, out = places or {}, refused or {}
    return Verdict(
        len(history),
        tuple(f"{it.number}: {it.error or 'no answer'}" for it in history if not it.good),
        tuple(f"{it.number} by {it.node[:8]}" for it in history if it.good and not it.right),
        tuple(f"{it.number}: {it.answers} answers" for it in history if it.answers > 1),
        tuple(
            f"{it.number} ({it.zone or 'anywhere'}) by {it.node[:8]}"
            for it in history
            if it.good and (not within(it.zone, where.get(it.node, "")) or it.due > out.get(it.node, float("inf")))
        ),
    )
