"""What this agent's own tasks did lately: how many, how fast, and where. A core."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from meshnode.wire.messages import NodeId

KEPT = 4096
WINDOW_S = 10.0


@dataclass(slots=True)
class Recent:
    """The last answers, with when they were given (monotonic seconds), by whom, and how long the whole task took."""

    _answers: deque[tuple[float, NodeId, float]] = field(default_factory=lambda: deque(maxlen=KEPT))
    _failures: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def answered(self, now: float, node: NodeId, seconds: float) -> None:
        """A task brought a result."""
        self._answers.append((now, node, seconds))

    def failed(self, now: float) -> None:
        """A task ended with an error."""
        self._failures.append(now)

    def document(self, now: float) -> dict[str, Any]:
        """Of the last ten seconds, or of as many as the last 4,096 answers go back; seconds, and tasks a second."""
        answers = [answer for answer in self._answers if now - answer[0] <= WINDOW_S]
        full = len(self._answers) == KEPT and len(answers) == KEPT
        window_s = max(now - answers[0][0], 1e-3) if full else WINDOW_S
        by_node: dict[NodeId, list[float]] = {}
        for _, node, seconds in answers:
            by_node.setdefault(node, []).append(seconds)
        return {
            "window_s": window_s,
            "per_s": len(answers) / window_s,
            "failed_per_s": sum(now - at <= window_s for at in self._failures) / window_s,
            **_percentiles([seconds for _, _, seconds in answers]),
            "nodes": [
                {"node": node, "share": len(took) / len(answers), "per_s": len(took) / window_s, **_percentiles(took)}
                for node, took in sorted(by_node.items(), key=lambda item: -len(item[1]))
            ],
        }


def _percentiles(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"p50_s": None, "p99_s": None}
    values = sorted(values)
    return {"p50_s": values[len(values) // 2], "p99_s": values[len(values) * 99 // 100]}
