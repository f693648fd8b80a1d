"""Cells of the comparison: one policy in one scenario over some seeds, and what is said of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from meshnode.sim.traffic.baselines import BASELINES, BOUNDS
from meshnode.sim.traffic.product import Product
from meshnode.sim.traffic.scenarios import SCENARIOS, TROUBLE_S, Scenario
from meshnode.sim.traffic.world import DEADLINE_S, Task, World

PRODUCT, BOUND = "meshnode", "bound"
POLICIES = (*BASELINES, PRODUCT, *BOUNDS)
OVERLOAD_S = 10.0
COLD_GOOD, COLD_LOADS = 0.92, 7
"""At most 60 % of each copy used is seven copies, so six loads; one more is forgiven."""


@dataclass(frozen=True, slots=True)
class Run:
    """One seed. `good` is the share back in time; `extra` are runs beyond one a task.

    `latencies` are sorted; what was given up is not in them. The last two are the product's: microseconds of this
    machine for a decision, and the median error of the expected completion.
    """

    latencies: tuple[float, ...]
    good: float
    longest_s: float
    unanswered: int
    extra: int
    capacity_share: float
    recovery_s: float
    loads: int = 0
    decision_us: float = 0.0
    error: float = 0.0

    def at(self, share: float) -> float:
        """The latency that so large a share stays within."""
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


@dataclass(frozen=True, slots=True)
class Cell:
    """All seeds of one policy in one scenario."""

    policy: str
    runs: tuple[Run, ...]

    def median(self, share: float) -> float:
        """Of the seeds' latencies at a share, seconds."""
        return statistics.median(run.at(share) for run in self.runs)

    def spread(self, share: float) -> tuple[float, float]:
        """The lowest and highest of the seeds'."""
        values = [run.at(share) for run in self.runs]
        return min(values), max(values)

    @property
    def good(self) -> float:
        """The median share that was back in time."""
        return statistics.median(run.good for run in self.runs)


def measure(scenario: Scenario, policy: str, seed: int, seconds: float) -> Run:
    """One seed of one policy."""
    world = World(scenario, seed, seconds)
    chosen = Product(world) if policy == PRODUCT else (BASELINES | BOUNDS)[policy](world)
    world.run(chosen)
    begins, ends = scenario.window
    counted = [task for task in world.tasks if begins <= task.began < ends]
    served = [_latency_s(task, world.now) for task in counted if not task.failed]
    run = Run(
        latencies=tuple(sorted(served)),
        good=sum(map(_good, counted)) / len(counted),
        longest_s=max(served),
        unanswered=sum(task.done_at is None for task in world.tasks),
        extra=sum(max(0, task.runs - 1) for task in world.tasks),
        capacity_share=_capacity_share(scenario, world.tasks),
        recovery_s=_recovery_s(scenario, world.tasks),
        loads=world.loads,
    )
    if not isinstance(chosen, Product):
        return run
    return replace(run, decision_us=statistics.median(chosen.decision_s) * 1e6, error=statistics.median(chosen.errors))


def missed(scenario: Scenario, cells: dict[str, Cell]) -> list[str]:
    """The promises that these cells do not keep."""
    ours, bound, said = cells[PRODUCT], cells[BOUND], []
    if not (scenario.overload or scenario.cold):
        ratio = ours.median(0.99) / bound.median(0.99)
        if ratio > scenario.target:
            said.append(f"{scenario.name}: p99 is {ratio:.2f}x the bound's, and {scenario.target}x is promised")
        worse = [name for name in BASELINES if name in cells and cells[name].median(0.99) <= ours.median(0.99)]
        said += [f"{scenario.name}: p99 is not better than that of {name}" for name in worse]
    for run in ours.runs:
        if run.unanswered:
            said.append(f"{scenario.name}: {run.unanswered} tasks have no answer")
        if scenario.overload and run.capacity_share < 0.9:
            said.append(f"{scenario.name}: {run.capacity_share:.0%} of what can be done was done in time, not 90 %")
        if scenario.cold and run.good < COLD_GOOD:
            said.append(f"{scenario.name}: {run.good:.1%} was done in time, not {COLD_GOOD:.0%}")
        if scenario.cold and run.loads > COLD_LOADS:
            said.append(f"{scenario.name}: {run.loads} loads, and {COLD_LOADS} are enough")
        if scenario.overload and run.recovery_s > 2.0:
            said.append(f"{scenario.name}: it took {run.recovery_s:.1f} s to recover, not 2")
    return said


def scenarios(names: Sequence[str]) -> dict[str, Scenario]:
    """Those that are named, or all."""
    return {name: SCENARIOS[name] for name in names or SCENARIOS}


def _latency_s(task: Task, now: float) -> float:
    return (now if task.done_at is None else task.done_at) - task.began


def _good(task: Task) -> bool:
    return task.done_at is not None and not task.failed and task.done_at - task.began <= DEADLINE_S


def _capacity_share(scenario: Scenario, tasks: Sequence[Task]) -> float:
    """Of what could be done while there was too much, what was done in time."""
    if not scenario.overload:
        return 1.0
    during = [task for task in tasks if TROUBLE_S <= task.began < TROUBLE_S + OVERLOAD_S]
    return sum(map(_good, during)) / len(during) * scenario.overload


def _recovery_s(scenario: Scenario, tasks: Sequence[Task]) -> float:
    """From the end of the overload until no task is late any more."""
    if not scenario.overload:
        return 0.0
    ended = TROUBLE_S + OVERLOAD_S
    return max((task.began - ended for task in tasks if task.began >= ended and not _good(task)), default=0.0)
