"""Who announces on a crowded link: a core. Past sixteen announced services of a mesh only the eight lowest go on.

Eight answers to a question are enough to get in, and gossip tells the rest. The labels are random and new at each
start, so their order is as fair as a draw, and it is the same for all without a word. A node without links always
announces: it has no other voice, and a liar who fills the link with low labels silences nobody who needs one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from meshnode.membership.candidates import Gone, Heard, Links
from meshnode.wire.rng import Rng

CROWDED, KEPT = 16, 8
ANNOUNCE_S = 900.0
"""Those that announce say so again so often: to caches, and to those who hear but are not heard."""
EXPIRE_S = 2.5 * ANNOUNCE_S
CHECK_S = 300.0
"""Who is silent looks so often whether others fell silent."""
RETURN_S = 30.0
"""Who may announce again waits up to so long, for others may as well."""
LABELS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Mine:
    """This node's label from now on; it is announced."""

    label: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Say once more that this node is here."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take the announcement back, and answer no questions."""


@dataclass(frozen=True, slots=True)
class Return:
    """Announce again."""


Event = Mine | Heard | Gone | Links
Effect = Announce | Withdraw | Return


class Crowd:
    """See the module's docstring."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._label = ""
        self._alone = True
        self._others: dict[str, float] = {}
        self._due: float | None = None
        self.announcing = False

    def next_deadline(self) -> float | None:
        """When to announce again, or to see whether to return; None before the first label."""
        return self._due

    def handle(self, now: float, event: Event | None = None) -> list[Effect]:
        """What was heard, or None for the passing of time."""
        match event:
            case None:
                pass
            case Mine(label):
                self._label, self.announcing, self._others = label, True, {}
                self._due = self._later(now)
            case Heard(label):
                if label != self._label and (label in self._others or len(self._others) < LABELS_MAX):
                    self._others[label] = now
            case Gone(label):
                self._others.pop(label, None)
            case Links(any=linked):
                self._alone = not linked
            case _:
                assert_never(event)
        return self._judge(now) if self._label else []

    def _judge(self, now: float) -> list[Effect]:
        self._others = {label: at for label, at in self._others.items() if now - at < EXPIRE_S}
        before = sum(label < self._label for label in self._others)
        due = self._due is not None and self._due <= now
        if self.announcing:
            if before >= KEPT and len(self._others) + 1 > CROWDED and not self._alone:
                self.announcing = False
                self._due = now + CHECK_S
                return [Withdraw()]
            if due:
                self._due = self._later(now)
                return [Announce()]
            return []
        if self._alone or (due and before < KEPT):
            self.announcing = True
            self._due = self._later(now)
            return [Return()]
        if due or self._due is None:
            self._due = now + CHECK_S
        elif before < KEPT and self._due > now + RETURN_S:
            self._due = now + self._rng.uniform(0.0, RETURN_S)
        return []

    def _later(self, now: float) -> float:
        return now + ANNOUNCE_S * self._rng.uniform(0.8, 1.0)
