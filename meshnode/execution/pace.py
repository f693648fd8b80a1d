"""How long a model runs here by how many tasks run as one, and how many should: what is learnt from each run.

Run times are means per bucket of sizes, powers of two. The size goes up by one task for each full batch within its
target and down by a tenth for each beyond: AIMD, as Clipper does it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

ALPHA = 0.2
ALPHA_EARLY = 0.5
EARLY = 5
TARGET_S = 0.05
"""A batch is to take no longer…"""
PATIENCE_SHARE = 0.25
"""…nor more than this share of what the most urgent task in it had left when it began."""
BACK_OFF = 0.9
FIRST_SIZE = 2.0
WIDE_AGAIN = 500
WIDE_PAYS = 1.1
WIDE_FROM_S = 0.004
"""Below, handing parts of a run to other threads costs about what they save."""


@dataclass(slots=True)
class _Mean:
    mean_s: float
    seen: int = 1

    def learn(self, run_s: float) -> None:
        alpha = ALPHA_EARLY if self.seen < EARLY else ALPHA
        self.mean_s += alpha * (run_s - self.mean_s)
        self.seen += 1


@dataclass(slots=True)
class Pace:
    """One model on one device. `proven`: whether its tasks may run as one; None while nobody knows."""

    prior_s: float
    size_max: int
    proven: bool | None = None
    proving: bool = False
    size: float = FIRST_SIZE
    wide: bool | None = None
    """Whether a run on all threads is worth it when nothing else wants them; None while nobody knows."""
    wide_due: int = 0
    """So many runs until it is worth finding out: a machine that was busy then may not be so now."""
    _wide: _Mean | None = None
    _means: dict[int, _Mean] = field(default_factory=dict)

    @property
    def limit(self) -> int:
        """So many tasks may run as one now."""
        return max(1, min(int(self.size), self.size_max)) if self.proven else 1

    @property
    def service_s(self) -> float | None:
        """The mean time of a run as small as was ever seen; None before the first."""
        return self._means[min(self._means)].mean_s if self._means else None

    @property
    def worth_proving(self) -> bool:
        """Whether anybody should find out: nobody did, and two of its tasks would run within the target."""
        if self.proven is not None or self.proving or self.size_max < 2:
            return False
        return self.service_s is not None and 2 * self.service_s <= TARGET_S

    @property
    def worth_widening(self) -> bool:
        """Whether anybody should find out if a run on all threads pays."""
        return not self.wide and self.wide_due <= 0 and (self.service_s or 0.0) >= WIDE_FROM_S

    @property
    def wide_s(self) -> float:
        """What a run on all threads is believed to take."""
        return self.run_s(1) if self._wide is None else self._wide.mean_s

    def learn_wide(self, run_s: float) -> None:
        """One task ran on all threads. Runs that keep being no quicker end that for a while."""
        if self._wide is None:
            self._wide = _Mean(run_s)
            return
        self._wide.learn(run_s)
        if self._wide.seen > EARLY and self._wide.mean_s * WIDE_PAYS > (self.service_s or 0.0):
            self.wide, self.wide_due, self._wide = False, WIDE_AGAIN, None

    def learn(self, count: int, run_s: float, patience_s: float) -> None:
        """`count` tasks ran as one; the most urgent had `patience_s` left when they began."""
        bucket = _bucket(count)
        self.wide_due -= 1
        known = self._means.get(bucket)
        if known is None:
            self._means[bucket] = _Mean(run_s)
        else:
            known.learn(run_s)
        if run_s > min(TARGET_S, PATIENCE_SHARE * patience_s):
            self.size = max(1.0, self.size * BACK_OFF)
        elif count >= int(self.size):
            self.size = min(self.size + 1, max(float(self.size_max), FIRST_SIZE))

    def run_s(self, count: int) -> float:
        """What `count` tasks as one are believed to take: at worst as long as one after the other."""
        if not self._means:
            return self.prior_s * count
        bucket = _bucket(count)
        if (known := self._means.get(bucket)) is not None:
            return known.mean_s
        below = max((b for b in self._means if b < bucket), default=None)
        above = min((b for b in self._means if b > bucket), default=None)
        most_s = math.inf if above is None else self._means[above].mean_s
        return most_s if below is None else min(most_s, self._means[below].mean_s * count / (1 << below))

    def work_s(self, count: int) -> float:
        """What `count` waiting tasks will take."""
        if count <= 0:
            return 0.0
        together = min(self.limit, count)
        return math.ceil(count / together) * self.run_s(together)

    @property
    def marginal_s(self) -> float:
        """What one more task adds when many wait."""
        return self.run_s(self.limit) / self.limit


def _bucket(count: int) -> int:
    """0 for 1, 1 for 2, 2 for 3 and 4, 3 for up to 8…"""
    return (count - 1).bit_length()
