"""The randomness a core may be given: the part of `random.Random` that cores use, so that they need not import it."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Rng(Protocol):
    """A seeded source; `random.Random` is one."""

    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def randrange(self, stop: int, /) -> int:
        """An int in [0, stop)."""
        ...

    def uniform(self, a: float, b: float) -> float:
        """A float between a and b."""
        ...

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """k distinct items."""
        ...

    def shuffle(self, x: MutableSequence[T]) -> None:
        """Shuffle in place."""
        ...
