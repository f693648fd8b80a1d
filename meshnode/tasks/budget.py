"""What an agent may spend on second tries, so that they never become the load that they were to survive.

Every result earns a tenth of a token, every retry and every hedge costs one. When none is left a hedge is not made and
a retry waits for its back-off first: it is later, never lost. A task whose connection broke is not charged. Its node
is gone with whatever ran there, so that a second run adds no load; and a whole queue may have to move at once.
"""

from __future__ import annotations

from dataclasses import dataclass

TOKENS_MAX = 10.0
EARNED = 0.1


@dataclass(slots=True)
class Budget:
    """The tokens of one agent."""

    tokens: float = TOKENS_MAX

    def take(self) -> bool:
        """One token, if there is one."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def give_back(self) -> None:
        """What was taken was not used."""
        self.tokens = min(TOKENS_MAX, self.tokens + 1.0)

    def earn(self) -> None:
        """A task was answered."""
        self.tokens = min(TOKENS_MAX, self.tokens + EARNED)
