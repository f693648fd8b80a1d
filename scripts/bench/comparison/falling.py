"""What the user of a server saw while a part of it was killed: errors, silence, and whether it came back."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

LAST_S = 2.0
"""The end of the load, by which one judges whether it came back."""


def said(error: Exception) -> str:
    """What a library told its user, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:240]


class Seen:
    """The requests of a load, and a kill in the middle."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._killed = self._ended = float("inf")
        self._open: dict[int, float] = {}
        self._answers: list[tuple[float, float]] = []
        """(asked, answered)"""
        self._errors: list[tuple[float, str]] = []

    def asked(self, number: int) -> None:
        """A request goes out."""
        self._open[number] = self._clock()

    def answered(self, number: int) -> None:
        """Its answer is there."""
        self._answers.append((self._open.pop(number), self._clock()))

    def failed(self, number: int, why: str) -> None:
        """It ended with an error."""
        self._errors.append((self._open.pop(number), why))

    def killed(self) -> None:
        """Now."""
        self._killed = self._clock()

    def ended(self) -> None:
        """From now on nothing new is asked."""
        self._ended = self._clock()

    def figures(self) -> dict[str, Any]:
        """Of everything that was asked before the end."""
        times = sorted(at for _, at in self._answers if self._killed < at < self._ended)
        edges = [self._killed, *times, self._ended]
        before = sum(at <= self._killed for _, at in self._answers) / (self._killed - self._began)
        last_s = min(LAST_S, self._ended - self._killed)
        last = sum(self._ended - last_s < at <= self._ended for _, at in self._answers) / last_s
        kinds = Counter(why for _, why in self._errors)
        return {
            "before_rate": before,
            "last_rate": last,
            "errors": len(self._errors),
            "unanswered": len(self._open),
            "gap_s": max(b - a for a, b in itertools.pairwise(edges)),
            "slowest_s": max((b - a for a, b in self._answers), default=0.0),
            "error": kinds.most_common(1)[0][0] if kinds else "",
        }
