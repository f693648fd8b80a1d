"""Tasks through a mesh of real processes: routed, re-routed, refused, and never lost or wrong."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

import meshnode
from tests.mesh.load import Load
from tests.mesh.rig import MODELS, Agent, Rig, wait_for


def with_echo(agents: list[Agent]) -> None:
    """Add the echo model on the first agent and let it arrive on the disk of all others."""
    agents[0].command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
    with meshnode.Client(home=agents[0].home) as client:
        for agent in agents:
            wait_for(lambda: agents[0].status()["models"], within_s=10, why="the model is known")
            client.infer("echo", {"x": np.zeros((1, 1), np.float32)}, node=agent.id, timeout=20)


def test_nothing_is_lost_when_a_peer_is_killed(mesh_rig: Rig) -> None:
    """kill -9 of a busy peer, through an agent that runs nothing itself: every task is answered, and right."""
    agents = mesh_rig.mesh(3)
    agents[0].command("model", "add", str(MODELS / "slow" / "model.onnx"), "--name", "slow")
    submitter = mesh_rig.start("submitter", agents[0].command("invite", "--role", "submitter").stdout.strip())
    wait_for(lambda: submitter.status()["models"], within_s=10, why="the model is known")

    def busiest() -> Agent | None:
        """Whoever is at work at this moment, but for the only holder of the admin key."""
        doing = {node["id"]: node["in_flight"] or 0 for node in submitter.status()["nodes"]}
        found = max(agents[1:], key=lambda agent: doing.get(agent.id, 0))
        return found if doing.get(found.id, 0) >= 2 else None

    with Load(submitter.home, rate=40, rounds=60_000) as load:
        victim = wait_for(busiest, within_s=60, why="the work has spread")
        victim.kill()
        at = load.sent
        wait_for(lambda: load.sent >= at + 80, within_s=30, why="the load went on")

    assert [] == load.errors
    assert 0 == load.wrong
    assert load.sent == load.answered
    assert load.rerouted > 0, "the killed peer had work, and it was done elsewhere"
    assert submitter.id not in load.nodes


def test_nothing_is_lost_when_a_peer_is_stopped_by_its_user(mesh_rig: Rig) -> None:
    """SIGTERM under load: the agent is gone in 5 s with nothing left behind, and no task is lost."""
    agents = mesh_rig.mesh(3)
    with_echo(agents)
    children = psutil.Process(agents[1].process.pid).children(recursive=True)
    assert children, "the worker runs"

    with Load(agents[0].home, rate=50) as load:
        wait_for(lambda: load.sent >= 30, within_s=30, why="the load runs")
        assert agents[1].terminate(within_s=10) == 0
        at = load.sent
        wait_for(lambda: load.sent >= at + 30, within_s=30, why="the load went on")

    assert [] == load.errors
    assert 0 == load.wrong
    _, alive = psutil.wait_procs(children, timeout=5)
    assert [] == alive


def test_a_frozen_peer_costs_time_and_no_task(mesh_rig: Rig) -> None:
    """SIGSTOP of a peer with tasks inside: they are answered by others while it sleeps, and it returns."""
    agents = mesh_rig.mesh(3)
    with_echo(agents)
    frozen = agents[1]

    with Load(agents[0].home, rate=50) as load:
        wait_for(lambda: load.sent >= 30, within_s=30, why="the load runs")
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            at = load.sent
            wait_for(lambda: load.sent >= at + 100, within_s=30, why="the load went on")
        finally:
            frozen.process.send_signal(signal.SIGCONT)

    assert [] == load.errors
    assert 0 == load.wrong
    wait_for(lambda: agents[0].states()[frozen.id] == "alive", within_s=20, why="it is back")


def test_a_killed_worker_costs_no_task(mesh_rig: Rig) -> None:
    """kill -9 of a worker process under load: its agent lives, a new worker comes, no task is lost."""
    agents = mesh_rig.mesh(2)
    with_echo(agents)

    with Load(agents[0].home, rate=50) as load:
        wait_for(lambda: load.sent >= 30, within_s=30, why="the load runs")
        for worker in psutil.Process(agents[0].process.pid).children():
            os.kill(worker.pid, signal.SIGKILL)
        at = load.sent
        wait_for(lambda: load.sent >= at + 60, within_s=30, why="the load went on")

    assert [] == load.errors
    assert 0 == load.wrong


def test_bad_input_is_named(mesh_rig: Rig) -> None:
    """A wrong name, shape or type, a missing input and an unknown model are typed errors that say what was expected."""
    (agent,) = mesh_rig.mesh(1)
    agent.command("model", "add", str(MODELS / "digits" / "model.onnx"), "--name", "digits")
    image = np.zeros((1, 1, 8, 8), np.float32)

    with meshnode.Client(home=agent.home) as client:
        for inputs, expected in (
            ({"picture": image}, "picture"),
            ({"image": image[0]}, "image"),
            ({"image": np.zeros((1, 1, 9, 8), np.float32)}, "image"),
            ({"image": image.astype(np.float64)}, "double"),
            ({}, "image"),
            ({"image": image, "more": image}, "more"),
        ):
            with pytest.raises(meshnode.InvalidInput, match=expected):
                client.infer("digits", inputs, timeout=20)
        with pytest.raises(meshnode.ModelNotFound, match="digitz") as unknown:
            client.infer("digitz", {"image": image}, timeout=20)
        assert "digits" in unknown.value.hint
        with pytest.raises(meshnode.NoNodeInZone):
            client.infer("digits", {"image": image}, zone="mars", timeout=20)
        with pytest.raises(meshnode.DeadlineExceeded):
            client.infer("digits", {"image": image}, timeout=0.0)
        assert (1, 10) == client.infer("digits", {"image": image}, timeout=20)["probabilities"].shape


@pytest.mark.parametrize("kind", ["empty", "random", "truncated", "text"])
def test_a_file_that_is_no_model_is_refused(mesh_rig: Rig, tmp_path: Path, kind: str) -> None:
    """Files that are not whole ONNX models are refused with exit code 1 or 4, leave no trace, and hurt nobody."""
    (agent,) = mesh_rig.mesh(1)
    whole = (MODELS / "digits" / "model.onnx").read_bytes()
    data = {
        "empty": b"",
        "random": np.random.default_rng(7).bytes(5000),
        "truncated": whole[: len(whole) // 2],
        "text": b"this is not a model\n" * 20,
    }[kind]
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)

    refused = agent.command("model", "add", str(path), check=None)

    assert refused.returncode in (1, 4)
    assert "bad.onnx" in refused.stderr or "model" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert [] == agent.status()["models"]


def test_the_demo_holds_its_promise() -> None:
    """`meshnode demo` classifies every held-out digit across four agents, one killed; exit 0 means lost 0, wrong 0."""
    done = subprocess.run(
        [sys.executable, "-m", "meshnode.cli.main", "demo"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")
def test_tensors_travel_through_memory_that_was_used_before(mesh_rig: Rig) -> None:
    """Tasks of sizes that grow: neither the agent nor its worker touches fresh pages, which cost more than copies."""
    (agent,) = mesh_rig.mesh(1)
    with_echo([agent])
    processes = [agent.process.pid, *(child.pid for child in psutil.Process(agent.process.pid).children())]
    with meshnode.Client(home=agent.home) as client:
        for nbytes in (100_000, 600_000, 3_000_000):
            x = np.ones((1, nbytes // 4), np.float32)
            for _ in range(5):
                client.infer("echo", {"x": x})
            before = sum(map(page_faults, processes))
            for _ in range(20):
                client.infer("echo", {"x": x})
            faults = (sum(map(page_faults, processes)) - before) / 20
            assert faults < 200, f"{faults:.0f} a task of {nbytes} bytes, in which both ways are {nbytes // 2048} pages"


def page_faults(pid: int) -> int:
    """Of a process so far, those that no disk was needed for."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
