"""Real agents of which two cannot send each other anything: they work through the third, and directly when they can."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import meshnode
from tests.mesh.pair import Pair, way
from tests.mesh.rig import MODELS, Rig, wait_for


def exchange(pair: Pair) -> None:
    """A runs a task of 5 MB on B, and B one on A; what comes back is bit for bit the same."""
    for here, there in ((pair.a, pair.b), (pair.b, pair.a)):
        x: Any = np.random.default_rng(1).standard_normal((1, 1_250_000)).astype(np.float32)
        with meshnode.Client(home=here.home) as client:
            result = client.infer("echo", {"x": x}, node=there.id, timeout=30)
        assert there.id == result.node
        assert x.tobytes() == result["y"].tobytes()


@pytest.fixture
def pair(mesh_rig: Rig) -> Pair:
    """Both see each other through the relay, and both have the model, which came through it."""
    pair = Pair(mesh_rig)
    wait_for(lambda: pair.linked("relay via r"), within_s=60, why="they are linked through r")
    pair.a.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
    wait_for(lambda: pair.b.status()["models"], within_s=10, why="the model is known")
    return pair


def test_two_behind_a_wall_work_for_each_other(pair: Pair) -> None:
    """Tasks and models go through the relay; when it is killed, through another; when the wall falls, directly."""
    exchange(pair)
    assert "relay via r" in pair.a.command("status").stdout

    other = pair.rig.start("q", pair.r.command("invite").stdout.strip())
    for agent in (pair.a, pair.b):
        wait_for(lambda agent=agent: way(agent, other) == "direct", within_s=30, why="q is there")  # type: ignore[misc]
    pair.r.kill()
    wait_for(lambda: pair.linked("relay via q"), within_s=20, why="they are linked through q")
    exchange(pair)

    pair.tear_down()
    wait_for(lambda: pair.linked("direct"), within_s=30, why="the direct way is found")
    exchange(pair)


def test_a_node_that_is_thrown_out_is_not_reached_through_members(pair: Pair) -> None:
    """Revocation ends the relayed link at both ends and at the relay, and no new one is opened."""
    pair.r.command("revoke", pair.b.id, "--reason", "stolen")
    wait_for(lambda: way(pair.a, pair.b) == "none", within_s=10, why="the link is gone")
    done = pair.b.command("run", "echo", "-i", "x=[[1.0]]", "--node", pair.a.id, "--timeout", "3", check=None)
    assert 0 != done.returncode
    assert "none" == way(pair.a, pair.b)
