"""Tasks that did not go the straight way: re-routed, failed or refused, each kind of story once, with a count. A core.

Of a thousand tasks that leave a dead node all tell the same story; it is kept once, with how often and when last.
Tasks that went well cost nothing here.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from meshnode.errors import Attempt
from meshnode.tasks.outcomes import Ended, Served
from meshnode.wire.messages import Digest, NodeId, TaskId

KEPT = 64
STEPS_MAX = 6
REASON_CHARS = 300
Kind = Literal["moved", "failed", "refused"]
Key = tuple[Kind, Digest, str, tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class Story:
    """What happened, most lately to `task`.

    `moved`: a task of this agent that ended well on another node than the first; `failed`: one that ended with an
    error; `refused`: one of another node, `by`, that was not done here. `steps` are its attempts.
    """

    number: int
    kind: Kind
    model: Digest
    outcome: str
    task: TaskId
    by: NodeId | None
    zone: str | None
    steps: tuple[Attempt, ...]
    reason: str
    first: float
    last: float
    seconds: float
    count: int = 1


@dataclass(slots=True)
class Notable:
    """The last stories, the newest last."""

    _stories: OrderedDict[Key, Story] = field(default_factory=OrderedDict)
    _number: int = 0

    def ended(self, now: float, it: Ended) -> None:
        """A task that was submitted here ended."""
        if it.outcome == "ok":
            bad = next((step for step in reversed(it.tried) if step.outcome not in ("ok", "cancelled")), None)
            if bad is None:  # straight on, or a second copy that was slower
                return
            self._note(now, "moved", it, bad.detail or bad.outcome, it.tried)
        elif it.outcome != "cancelled":
            self._note(now, "failed", it, it.detail, it.tried)

    def served(self, now: float, it: Served) -> None:
        """A task of another node ended here."""
        if it.outcome not in ("ok", "cancelled"):
            self._note(now, "refused", it, it.detail, ())

    def stories(self) -> list[Story]:
        """The newest first."""
        return list(reversed(self._stories.values()))

    def _note(self, now: float, kind: Kind, it: Ended | Served, reason: str, tried: tuple[Attempt, ...]) -> None:
        steps = tried if len(tried) <= STEPS_MAX else (*tried[: STEPS_MAX - 1], tried[-1])
        by = it.submitter if isinstance(it, Served) else None
        # Who did it in the end does not matter, nor where it failed for good: a wrong input is wrong everywhere.
        way = [("" if kind == "failed" else step.node, step.outcome) for step in steps if step.outcome != "ok"]
        way = way or [(by or "", "")]
        key: Key = (kind, it.model, it.outcome, tuple(way))
        known = self._stories.pop(key, None)
        self._number += 1
        self._stories[key] = Story(
            number=self._number if known is None else known.number,
            kind=kind,
            model=it.model,
            outcome=it.outcome,
            task=it.task,
            by=by,
            zone=it.zone,
            steps=steps,
            reason=reason[:REASON_CHARS],
            first=now if known is None else known.first,
            last=now,
            seconds=it.seconds,
            count=1 if known is None else known.count + 1,
        )
        if len(self._stories) > KEPT:
            self._stories.popitem(last=False)
