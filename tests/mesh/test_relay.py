"""Real agents of which two cannot send each other anything: they work through the third, and directly when they can."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meshnode
from tests.mesh.rig import MODELS, Agent, Rig, wait_for

WALLED = (sys.executable, str(Path(__file__).parent / "walled.py"))
SETTINGS = "[links]\nrelay_retry_s = 0.5\nrelay_retry_max_s = 2\nrelay_bytes_s = 0\nrelay_total_bytes_s = 0\n"


def free_port() -> int:
    """A port that nobody has, TCP or UDP, at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(tcp.getsockname())
        return int(tcp.getsockname()[1])


class Pair:
    """Two agents with a wall between them, in the mesh of a third."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.r = rig.start("r")
        ports = free_port(), free_port()
        self.a, self.b = (self._start(name, *ports[::step]) for name, step in (("a", 1), ("b", -1)))

    def _start(self, name: str, port: int, other: int) -> Agent:
        home = self.rig.folder / name
        home.mkdir(mode=0o700)
        (home / "wall").write_text(str(other))
        (home / "config.toml").write_text(SETTINGS)
        token = self.r.command("invite").stdout.strip()
        return self.rig.start(name, token, listen=f"127.0.0.1:{port}", command=WALLED)

    def tear_down(self) -> None:
        """From now on everything gets through."""
        for agent in (self.a, self.b):
            (agent.home / "wall").unlink()


def way(agent: Agent, other: Agent) -> str:
    """How an agent reaches another, and that it may be used."""
    row = next((node for node in agent.status()["nodes"] if node["id"] == other.id), None)
    return str(row["path"]) if row is not None and row["usable"] and row["state"] == "alive" else "none"


def linked(pair: Pair, path: str) -> bool:
    return [path, path] == [way(pair.a, pair.b), way(pair.b, pair.a)]


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
    wait_for(lambda: linked(pair, "relay via r"), within_s=60, why="they are linked through r")
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
    wait_for(lambda: linked(pair, "relay via q"), within_s=20, why="they are linked through q")
    exchange(pair)

    pair.tear_down()
    wait_for(lambda: linked(pair, "direct"), within_s=30, why="the direct way is found")
    exchange(pair)


def test_a_node_that_is_thrown_out_is_not_reached_through_members(pair: Pair) -> None:
    """Revocation ends the relayed link at both ends and at the relay, and no new one is opened."""
    pair.r.command("revoke", pair.b.id, "--reason", "stolen")
    wait_for(lambda: way(pair.a, pair.b) == "none", within_s=10, why="the link is gone")
    done = pair.b.command("run", "echo", "-i", "x=[[1.0]]", "--node", pair.a.id, "--timeout", "3", check=None)
    assert 0 != done.returncode
    assert "none" == way(pair.a, pair.b)
