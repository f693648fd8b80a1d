"""Why a task went where it went: each decision with its candidates, quotes and exclusions, kept for a while.

What is kept is what the policy gave; the document for people is made when somebody asks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshnode.errors import InvalidInput, MeshError
from meshnode.routing.facts import Decision, Ranked
from meshnode.tasks.wanted import Wanted
from meshnode.wire.messages import NodeId

TASKS_MAX = 512
PREFIX_MIN = 4


@dataclass(slots=True)
class Decided:
    """One decision: what the policy said, who answered how, and what came of the attempt."""

    decision: Decision
    ranked: Sequence[Ranked]
    refusals: Mapping[NodeId, MeshError]
    outcome: str = ""
    actual_s: float | None = None


@dataclass(slots=True)
class _Story:
    wanted: Wanted
    decided: list[Decided] = field(default_factory=list)


@dataclass(slots=True)
class Explaining:
    """The decisions of the last tasks of this agent."""

    name: Callable[[NodeId], str]
    _stories: OrderedDict[str, _Story] = field(default_factory=OrderedDict)

    def decided(self, wanted: Wanted, decided: Decided) -> None:
        """A decision was made for a task."""
        story = self._stories.get(wanted.task)
        if story is None:
            if len(self._stories) >= TASKS_MAX:
                self._stories.popitem(last=False)
            story = self._stories[wanted.task] = _Story(wanted)
        story.decided.append(decided)

    def ended(self, task: str, node: NodeId, outcome: str, actual_s: float | None = None) -> None:
        """The attempt that followed brought this."""
        story = self._stories.get(task)
        for decided in reversed(story.decided if story is not None else ()):
            if decided.ranked and decided.ranked[0].peer.id == node and not decided.outcome:
                decided.outcome, decided.actual_s = outcome, actual_s
                return

    def why(self, task: str) -> dict[str, Any]:
        """All decisions of a task: by its id, the beginning of one, or the last when it is empty.

        Raises InvalidInput when no such task is remembered.
        """
        if not self._stories:
            raise InvalidInput("no task was submitted through this agent since it started")
        if not task:
            found = [next(reversed(self._stories))]
        elif len(task) >= PREFIX_MIN:
            found = [id for id in self._stories if id.startswith(task)]
        else:
            raise InvalidInput(f"{task!r} is too short for a task's id", hint=f"give at least {PREFIX_MIN} characters")
        if len(found) != 1:
            count = "no task" if not found else f"{len(found)} tasks"
            hint = f"the last {TASKS_MAX} of this agent are remembered; `meshnode why --last` shows the newest"
            raise InvalidInput(f"{count} whose id begins with {task!r}", hint=hint)
        story = self._stories[found[0]]
        manifest = story.wanted.manifest
        return {
            "task": found[0],
            "model": f"{manifest.name}:{manifest.version}",
            "digest": manifest.digest,
            "zone": story.wanted.zone,
            "priority": story.wanted.priority,
            "objective": story.wanted.objective,
            "decisions": [self.document(decided) for decided in story.decided],
        }

    def document(self, it: Decided) -> dict[str, Any]:
        """One decision as plain data; seconds from the moment of the decision."""
        answered = {ranked.peer.id for ranked in it.ranked}
        best = it.ranked[0] if it.ranked else None
        excluded: list[tuple[NodeId, str, str]]
        excluded = [(node, why.reason, why.detail) for node, why in it.decision.excluded.items()]
        excluded += [(node, error.code, str(error)) for node, error in it.refusals.items() if node not in answered]
        return {
            "kind": it.decision.kind,
            "choice": None if best is None else {"node": best.peer.id, "name": self.name(best.peer.id)},
            "expected_s": None if best is None else best.estimate_s,
            "actual_s": it.actual_s,
            "outcome": it.outcome,
            "candidates": [
                {
                    "node": ranked.peer.id,
                    "name": self.name(ranked.peer.id),
                    "estimate_s": ranked.estimate_s,
                    "score_s": ranked.score_s,
                    "weight": ranked.peer.capacity,
                    "loaded": ranked.peer.loaded,
                    "correction": ranked.peer.correction,
                    **ranked.terms,
                }
                for ranked in it.ranked
            ],
            "excluded": [
                {"node": node, "name": self.name(node), "reason": reason, "detail": detail}
                for node, reason, detail in excluded
            ],
        }
