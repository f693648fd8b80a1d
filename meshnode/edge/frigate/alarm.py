"""When a camera is blind: a core that is told what became of each frame and says when that is news.

One late frame is no outage; several in a row are, and so is a detector that nobody can run at all. It is over with the
first answer.
"""

from __future__ import annotations

from dataclasses import dataclass

MISSES = 3
"""So many frames in a row without an answer."""


@dataclass(frozen=True, slots=True)
class Blind:
    """Frames are not answered any more."""

    why: str


@dataclass(frozen=True, slots=True)
class Seeing:
    """They are again."""

    unanswered: int
    """So many frames were not."""


@dataclass(slots=True)
class Alarm:
    """See the module's docstring."""

    on: bool = False
    _missed: int = 0

    def answered(self) -> Seeing | None:
        """A frame was, in time."""
        missed, was = self._missed, self.on
        self._missed, self.on = 0, False
        return Seeing(missed) if was else None

    def unanswered(self, why: str, *, hopeless: bool = False) -> Blind | None:
        """A frame was not; `hopeless` when no frame can be."""
        self._missed += 1
        if self.on or (self._missed < MISSES and not hopeless):
            return None
        self.on = True
        return Blind(why)
