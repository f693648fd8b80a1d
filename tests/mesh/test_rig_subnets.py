"""Two subnets with one host on both: members that have no way to each other meet through it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mesh.rig import MODELS, wait_for
from tests.rig.net import net, unavailable, until_all_alive

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "it can run here")


def test_members_of_two_subnets_meet_through_the_one_on_both(tmp_path: Path) -> None:
    """All see all alive, tasks run across, and `status` names the way."""
    with net(tmp_path, [[0, 1], [0], [1]]) as it:
        both, left, right = agents = it.mesh([0, 1, 2])
        until_all_alive(agents, 60, "all three see each other")
        left.command("model", "add", str(MODELS / "digits" / "model.onnx"), "--name", "digits")
        wait_for(
            lambda: [m for m in right.status()["models"] if m["name"] == "digits"], within_s=30, why="the model spread"
        )

        def run_across() -> bool:
            picture = str(MODELS / "digits" / "7.png")
            return right.command("run", "digits", picture, "--node", left.id, check=None).returncode == 0

        wait_for(run_across, within_s=60, why="a task runs across")
        (row,) = [node for node in right.status()["nodes"] if node["id"] == left.id]
        assert row["path"] == f"relay via {both.home.name}"
