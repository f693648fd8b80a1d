"""The promises of the mesh in their short form, with real agents on hosts of their own.

The experiments are in tests/rig/promises; many share one town of eight agents. What was seen is printed (`pytest -s`).
`scripts/promises --full` runs the full form, and judges times as they are promised.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig.net import unavailable
from tests.rig.promises import PROMISES
from tests.rig.promises.figures import table
from tests.rig.promises.town import Stage

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "it can run here")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Where they are tried; everything ends with it."""
    it = Stage(tmp_path_factory.mktemp("promises"))
    yield it
    it.close()


@pytest.mark.parametrize("name", PROMISES)
def test_a_promise_is_kept(stage: Stage, name: str) -> None:
    """Each figure of it is within what is promised; times, within what a loaded machine may need."""
    if why := PROMISES[name].lacks():
        pytest.skip(why)
    try:
        figures = PROMISES[name].keep(stage, False)
    except BaseException:
        stage.renew()
        raise
    print(f"\n{table([(name, figure) for figure in figures])}")
    assert [] == [figure for figure in figures if not (figure.ok or figure.nearly)]
