"""Where the time of a task went, told while it goes: what the task's code says to whoever traces it.

A trace begins where a task is submitted, or before, in the program that submits it. Spans that other nodes make of the
same task hang on the context that travels with it.
"""

from __future__ import annotations

from typing import Protocol

from meshnode.tasks.outcomes import Served
from meshnode.wire.messages import Inferred


class Span(Protocol):
    """Something that takes time, and has begun."""

    @property
    def context(self) -> str:
        """For what is part of it, here or elsewhere: a W3C traceparent."""

    def tell(self, **facts: str | int | float) -> None:
        """More about it."""

    def end(self, outcome: str, **facts: str | int | float) -> None:
        """It is over: `ok`, `cancelled` or an error's code."""


class Spans(Protocol):
    """Whoever traces."""

    def submitted(self, parent: str, task: str, model: str) -> Span:
        """A task was given to this node; it begins a trace of its own when it is part of none."""

    def begin(self, name: str, parent: str, **facts: str | int | float) -> Span | None:
        """Something begins that is part of `parent`; None when that is not traced."""

    def served(self, parent: str, it: Served, done: Inferred | None) -> None:
        """This node ran a task, or did not; `done` says how long it waited and ran."""
