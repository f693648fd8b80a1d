"""Agents of very different speed under load, while some are killed and one is frozen: the short form of a bench.

The experiments are in tests/mesh/live, and `scripts/bench/mesh` runs them in full and judges times as they are
promised. Here counts are judged; times only as far as a loaded machine may need.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import pytest

import meshnode
from tests.mesh.live.phases import PHASES, Stage
from tests.mesh.live.town import Town, town
from tests.rig.promises.figures import table

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are throttled by way of /proc and pidfd")
NODES = 4
SCALE = 0.2


@pytest.fixture(scope="module")
def small_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Four agents of unequal speed and one that submits."""
    with town(tmp_path_factory.mktemp("live"), NODES) as it:
        yield it


@pytest.mark.parametrize("phase", ["killed", "frozen"])
async def test_no_task_is_lost_wrong_or_delivered_twice(small_town: Town, phase: str) -> None:
    """Two agents killed with their workers, or one stopped for two seconds, at 60 % load."""
    async with meshnode.AsyncClient(small_town.submitter.home) as client:
        stage = Stage(small_town, client, random.Random(1), SCALE)
        await small_town.until_whole()
        figures = [*await stage.measure(2.0), *await PHASES[phase](stage)]
    print(f"\n{table([(phase, figure) for figure in figures])}")
    assert [] == [figure for figure in figures if not (figure.ok or figure.nearly)]
