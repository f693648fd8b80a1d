"""Whether a new version goes on to all nodes, back, or is tried a little longer: from what both versions did. Pure.

What counts is what ran since the trial began, on all nodes together. A version that plainly fails goes back at once;
nothing goes on before its time is up and enough was run to tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from meshnode.fleet.blueprint import Canary

RUNS_MIN = 20
"""Tasks of the new version before it may go on to all…"""
FAILED_MIN = 5
"""…and failures before it goes back early: one may be the input's fault."""
TIMED_MIN = 5
"""Runs before their mean time says anything."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of one version's tasks: runs that gave a result, runs that failed, and seconds of the former."""

    runs: int = 0
    failed: int = 0
    run_s: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.runs + other.runs, self.failed + other.failed, self.run_s + other.run_s)

    def since(self, before: Tally) -> Tally:
        """What was added; a node that was restarted began from nothing."""
        if before.runs > self.runs or before.failed > self.failed:
            return self
        return Tally(self.runs - before.runs, self.failed - before.failed, self.run_s - before.run_s)

    @property
    def error_share(self) -> float:
        """0 when nothing ran."""
        return self.failed / max(1, self.runs + self.failed)

    @property
    def mean_s(self) -> float:
        """Of a run that gave a result; 0 when there was none."""
        return self.run_s / max(1, self.runs)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done, and why in words."""

    do: Literal["wait", "forward", "back"]
    why: str


def judge(canary: Canary, old: Tally, new: Tally, elapsed_s: float) -> Verdict:
    """Compare a version that is tried with the one that it is to replace."""
    allowed = old.error_share + canary.errors_permille / 1000
    errors = f"{new.failed} of {new.runs + new.failed} tasks failed"
    if new.failed >= FAILED_MIN and new.error_share > allowed:
        return Verdict("back", f"{errors}; {allowed:.1%} may")
    if elapsed_s < canary.for_s:
        return Verdict("wait", f"tried for {elapsed_s:.0f} of {canary.for_s} s: {errors}")
    if new.runs + new.failed < RUNS_MIN:
        return Verdict("wait", f"{new.runs + new.failed} tasks used it, and {RUNS_MIN} are needed to tell")
    if new.error_share > allowed:
        return Verdict("back", f"{errors}; {allowed:.1%} may")
    limit_s = old.mean_s * canary.slower_percent / 100
    if min(old.runs, new.runs) >= TIMED_MIN and new.mean_s > limit_s:
        times = f"a run takes {new.mean_s * 1000:.3g} ms, the old version's {old.mean_s * 1000:.3g}"
        return Verdict("back", f"{times}; {limit_s * 1000:.3g} are allowed")
    return Verdict("forward", f"{errors} in {elapsed_s:.0f} s")
