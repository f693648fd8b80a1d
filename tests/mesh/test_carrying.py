"""Models between real agents: killed ones go on where they were."""

from __future__ import annotations

from pathlib import Path

from tests.mesh.carrying import PIECE, Journey
from tests.mesh.rig import rig


def test_a_model_survives_a_kill_of_either_side(tmp_path: Path) -> None:
    """The receiver and then the source are killed with -9 on the way: the file comes, nothing twice that was there."""
    with rig(tmp_path) as it:
        journey = Journey(it, nbytes=12_000_000, rate=2_000_000.0)
        journey.run(kills=1)
        assert journey.same()
        assert max(journey.resent) < PIECE
