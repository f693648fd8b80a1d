"""The product's policy in a simulated mesh: it beats the policies of other systems and stays near the bound.

Short and small, so that it can run with every change; `scripts/bench/routing --check` is the long form.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshnode.sim.traffic.report import BOUND, PRODUCT, Cell, measure, missed
from meshnode.sim.traffic.scenarios import SCENARIOS

SECONDS, SEED = 36.0, 5
RIVALS = ("random", "weighted random", "least by gossip", "peak EWMA, weighted", "Prequal", "Prequal, weighted")
MARGIN = 1.25
"""Of one short run, over what is promised of the median of long ones."""


@pytest.mark.parametrize("name", ["A", "B90", "C", "D1", "F", "G", "H"])
def test_the_promises_of_each_scenario_are_kept(name: str) -> None:
    """p99 below every rival's and near the bound's; under overload, what can be done is done in time."""
    full = SCENARIOS[name]
    scenario = replace(full, workers=10, submitters=10, target=MARGIN * full.target)
    policies = (PRODUCT, BOUND, *(() if scenario.overload else RIVALS))
    cells = {policy: Cell(policy, (measure(scenario, policy, SEED, SECONDS),)) for policy in policies}
    assert [] == missed(scenario, cells)


def test_who_vanishes_takes_its_tasks_for_less_than_a_second() -> None:
    """Quotes find out who is gone; what was with it is noticed by the heartbeats, and nothing is without an answer."""
    run = measure(replace(SCENARIOS["D2"], workers=10, submitters=10), PRODUCT, SEED, SECONDS)
    assert 0 == run.unanswered
    assert run.longest_s < 0.75 + 2 * 0.4
    assert run.good > 0.995


def test_a_rush_on_a_model_makes_as_many_copies_as_it_needs() -> None:
    """92 % in time over the first half minute, and one load too many at most."""
    cells = {name: Cell(name, (measure(SCENARIOS["E"], name, SEED, SECONDS),)) for name in (PRODUCT, BOUND)}
    assert [] == missed(SCENARIOS["E"], cells)
    assert cells[PRODUCT].runs[0].loads >= 4


def test_a_seed_is_a_run() -> None:
    """The same latencies again, and others with another seed."""
    scenario = replace(SCENARIOS["B70"], workers=5, submitters=3)
    first, again, other = (measure(scenario, PRODUCT, seed, 25.0).latencies for seed in (1, 1, 2))
    assert first == again
    assert first != other
