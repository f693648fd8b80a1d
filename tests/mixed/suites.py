"""The suites of tasks, membership and transfer once more, with every other agent of the previous release.

Run by `scripts/mixed`: the fixtures of this folder's conftest take the place of those that the tests were written for.
"""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.mesh import (
    test_batch,
    test_carrying,
    test_failover,
    test_fleet,
    test_membership,
    test_pipeline,
    test_tasks,
    test_types,
)
from tests.mixed.previous import unavailable

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "it can run here")

ALONE = {
    "test_one_agent_a_home",
    "test_the_demo_holds_its_promise",
    "test_a_file_that_is_no_model_is_refused",
    "test_tensors_travel_through_memory_that_was_used_before",
    "test_the_command_runs_a_pipeline",
    "test_bad_input_is_named",
    "test_drain_and_run_on_the_command_line",
}
"""Of one agent, or of what a command prints, which may change from version to version."""


def _of(module: ModuleType) -> dict[str, object]:
    names = [name for name in vars(module) if name.startswith("test_") and name not in ALONE]
    return {name: vars(module)[name] for name in names}


for _module in (
    test_batch,
    test_carrying,
    test_failover,
    test_fleet,
    test_membership,
    test_pipeline,
    test_tasks,
    test_types,
):
    globals().update(_of(_module))
trio = test_failover.trio
del test_batch, test_carrying, test_failover, test_fleet, test_membership, test_pipeline, test_tasks, test_types
