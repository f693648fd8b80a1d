"""Models that keep killing this node's worker are not run here for a while. A core, told the time.

What counts is a death whose culprit is known: one task ran, and nobody outside ended the process. The same input counts
once, so that one bad task, tried again, does not condemn the model. What does not even load rests at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshnode.errors import ModelRefused
from meshnode.wire.messages import Digest

CRASHES = 3
WINDOW_S = 600.0
REST_S = 600.0
INPUTS_MAX = 64


@dataclass(slots=True)
class Quarantine:
    """Deaths by model, and until when a model rests."""

    _crashes: dict[Digest, dict[bytes, float]] = field(default_factory=dict)
    _until: dict[Digest, float] = field(default_factory=dict)
    _why: dict[Digest, str] = field(default_factory=dict)

    def crashed(self, now: float, model: Digest, inputs: bytes, how: str) -> bool:
        """The model killed its worker on these inputs (a digest of them). True when it is to rest from now on."""
        seen = {k: at for k, at in self._crashes.get(model, {}).items() if now - at < WINDOW_S}
        seen[inputs] = now
        self._crashes[model] = dict(sorted(seen.items(), key=lambda item: item[1])[-INPUTS_MAX:])
        if len(seen) < CRASHES or self.rests_s(now, model) > 0:
            return False
        often = f"it killed its worker on {CRASHES} different inputs within {WINDOW_S / 60:.0f} minutes ({how})"
        self.condemn(now, model, often)
        return True

    def condemn(self, now: float, model: Digest, how: str) -> None:
        """The model is to rest from now on: it does not even load."""
        self._until[model], self._why[model] = now + REST_S, how

    def pardon(self, model: Digest) -> None:
        """Somebody who may say so says that it is well."""
        for of in (self._crashes, self._until, self._why):
            of.pop(model, None)

    def rests_s(self, now: float, model: Digest) -> float:
        """For how long the model is still not run here; 0 when it is."""
        left_s = self._until.get(model, now) - now
        if left_s <= 0 and self._until.pop(model, None) is not None:
            self._crashes.pop(model, None)
            self._why.pop(model, None)
        return max(left_s, 0.0)

    def check(self, now: float, model: Digest) -> None:
        """Raises ModelRefused for a model that rests."""
        if (left_s := self.rests_s(now, model)) > 0:
            raise ModelRefused(
                f"this node does not run the model for another {left_s:.0f} s: {self._why[model]}",
                hint="another node may run it",
                retry_after_s=left_s,
            )
