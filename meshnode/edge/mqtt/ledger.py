"""Each task once, each answer once: what became of the messages that came in. A core.

The broker delivers at least once, and a client that hears nothing sends again. A message's task id is made of what it
says (see `requests`), so that a second one is known for what it is:

    it runs here                   wait for the same end
    its answer is still to be sent wait for that
    it was answered                be silent, for the broker has the answer; but answer again, from what is kept, when
                                   the broker may have lost it (it began anew since) or the asker asks again later
    another node has it            pass it on to that node, as long as that lives

What is kept is bounded in time, in number and in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

KEPT_S = 120.0
KEPT_MAX, KEPT_BYTES_MAX = 10_000, 64 * 1024**2
TAKEN_MAX_S = 3600.0
QUIET_S = 10.0
"""Who asks again sooner after the broker took the answer is believed to have it on the way."""


class Turn(Enum):
    """What to do with a message."""

    RUN = auto()
    """It is new."""
    WAIT = auto()
    """It is in hand: end with it."""
    AGAIN = auto()
    """Send the kept answer once more."""
    SILENT = auto()
    """It was answered."""
    ELSEWHERE = auto()
    """Another node has it."""


@dataclass(slots=True)
class _Entry:
    """`session` is that of the broker which took the answer; None while none has."""

    until: float
    answer: Any
    nbytes: int
    session: int | None = None
    settled_at: float = 0.0


@dataclass(slots=True)
class Ledger:
    """See the module's docstring."""

    bytes: int = 0
    _open: dict[str, None] = field(default_factory=dict)
    _kept: dict[str, _Entry] = field(default_factory=dict)
    _elsewhere: dict[str, tuple[float, str]] = field(default_factory=dict)

    def arrived(self, now: float, task: str, *, again: bool, session: int) -> Turn:
        """A message. `again`: the broker says that it delivers it anew; `session` counts the broker's beginnings."""
        self._expire(now)
        if task in self._open:
            return Turn.WAIT
        if (entry := self._kept.get(task)) is None:
            if self.owner(now, task):
                return Turn.ELSEWHERE
            self._open[task] = None
            return Turn.RUN
        if entry.session is None:
            return Turn.AGAIN
        quiet = again or (entry.session == session and now - entry.settled_at < QUIET_S)
        return Turn.SILENT if quiet else Turn.AGAIN

    def take_over(self, task: str) -> None:
        """The node that had a task is gone: it is run here."""
        self._elsewhere.pop(task, None)
        self._open[task] = None

    def owner(self, now: float, task: str) -> str:
        """Which other node has it; empty when none is known."""
        until, owner = self._elsewhere.get(task, (0.0, ""))
        return owner if until > now else ""

    def taken(self, now: float, task: str, owner: str, seconds: float) -> None:
        """Another node says that it has this task, for so long."""
        if task not in self._open and task not in self._kept:
            self._elsewhere.pop(task, None)
            self._elsewhere[task] = (now + min(seconds, TAKEN_MAX_S), owner)
            while len(self._elsewhere) > KEPT_MAX:
                del self._elsewhere[next(iter(self._elsewhere))]

    def ended(self, now: float, task: str, answer: Any, nbytes: int) -> None:
        """There is an answer; the broker has yet to take it."""
        self._open.pop(task, None)
        self._drop(task)
        self._kept[task] = _Entry(now + KEPT_S, answer, nbytes)
        self.bytes += nbytes
        self._expire(now)

    def given_up(self, task: str) -> None:
        """There is none, and will not be: a later message begins anew."""
        self._open.pop(task, None)

    def settled(self, now: float, task: str, session: int) -> None:
        """The broker took the answer, for somebody who listens."""
        if (entry := self._kept.get(task)) is not None:
            entry.session, entry.settled_at = session, now

    def answer(self, task: str) -> Any:
        """The kept answer, None when there is none."""
        entry = self._kept.get(task)
        return None if entry is None else entry.answer

    def _drop(self, task: str) -> None:
        if (entry := self._kept.pop(task, None)) is not None:
            self.bytes -= entry.nbytes

    def _expire(self, now: float) -> None:
        while self._kept:
            task, entry = next(iter(self._kept.items()))
            if entry.until > now and len(self._kept) <= KEPT_MAX and self.bytes <= KEPT_BYTES_MAX:
                return
            self._drop(task)
