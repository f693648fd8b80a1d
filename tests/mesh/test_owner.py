"""Owner first among real agents: a paused node is gone round, refuses what still comes, and works for its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meshnode
from tests.mesh.load import Load
from tests.mesh.rig import Agent, Rig, wait_for
from tests.mesh.test_tasks import with_echo
from tests.owner.machine import plant
from tests.owner.test_presence import interrupts, session

MODELS = Path(__file__).resolve().parents[2] / "models"
X = {"x": np.zeros((1, 1), np.float32)}


def paused(seen_by: Agent, node: Agent) -> str | None:
    """Why the node takes nothing, as the other one sees it."""
    row: dict[str, Any] = next(row for row in seen_by.status()["nodes"] if row["id"] == node.id)
    reason: str | None = row["paused"]
    return reason


def test_a_paused_node_is_gone_round_and_works_for_its_own(mesh_rig: Rig, tmp_path: Path) -> None:
    """The peer routes elsewhere and says why; a task for the paused node alone fails, typed; resume brings it back."""
    first, second = mesh_rig.mesh(2)
    with_echo([first, second])
    np.save(tmp_path / "x.npy", X["x"])

    answer = second.json("pause", "1h")
    assert answer["paused"].startswith("paused by hand until ")
    assert answer["until"] is not None
    wait_for(lambda: paused(first, second) == answer["paused"], within_s=15, why="the pause is known")

    with meshnode.Client(home=first.home) as client:
        assert {first.id} == {client.infer("echo", X, timeout=20).node for _ in range(20)}
        plan = client.plan("echo", X)
        assert [(second.id, "paused", answer["paused"])] == [
            (row["node"], row["reason"], row["detail"]) for row in plan["excluded"]
        ]
        with pytest.raises(meshnode.NoCapacity, match="paused by hand until"):
            client.infer("echo", X, node=second.id, timeout=20)
    failed = first.command("--json", "run", "echo", str(tmp_path / "x.npy"), "--node", second.id, check=1)
    assert "no_capacity" == json.loads(failed.stdout)["code"]
    assert "paused by hand until" in json.loads(failed.stdout)["message"]

    shown = first.command("status").stdout
    assert "paused" in shown
    assert "by hand" in shown
    assert "alive" == first.states()[second.id]
    (row,) = (row for row in second.json("doctor") if row["check"] == "owner")
    assert "meshnode resume" in row["fix"]
    with meshnode.Client(home=second.home) as client:
        assert second.id == client.infer("echo", X, node=second.id, timeout=20).node

    assert second.json("resume")["paused"] is None
    wait_for(lambda: paused(first, second) is None, within_s=15, why="the end of the pause is known")
    with meshnode.Client(home=first.home) as client:
        assert second.id == client.infer("echo", X, node=second.id, timeout=20).node


def test_nothing_is_lost_while_a_node_pauses_and_resumes(mesh_rig: Rig) -> None:
    """Under load, through an agent that runs nothing: what reaches a node just paused is refused and goes elsewhere."""
    agents = mesh_rig.mesh(2)
    with_echo(agents)
    submitter = mesh_rig.start("submitter", agents[0].command("invite", "--role", "submitter").stdout.strip())
    wait_for(lambda: submitter.status()["models"], within_s=10, why="the model is known")

    with Load(submitter.home, rate=50) as load:
        for _ in range(2):
            agents[1].command("pause")
            at = load.sent
            wait_for(lambda at=at: load.sent >= at + 30, within_s=30, why="the load went on")  # type: ignore[misc]
            agents[1].command("resume")
            at = load.sent
            wait_for(lambda at=at: load.sent >= at + 30, within_s=30, why="the load went on")  # type: ignore[misc]

    assert [] == load.errors
    assert 0 == load.wrong
    assert load.sent == load.answered


def test_a_task_moves_when_the_owner_wants_his_machine(mesh_rig: Rig) -> None:
    """It runs, its node is paused, and it is answered by another one; the first has stopped at once."""
    agents = mesh_rig.mesh(2)
    with meshnode.Client(home=agents[0].home) as client:
        client.add_model(MODELS / "slow" / "model.onnx", name="slow")
    submitter = mesh_rig.start("submitter", agents[0].command("invite", "--role", "submitter").stdout.strip())
    wait_for(lambda: submitter.status()["models"], within_s=10, why="the model is known")
    agents[0].command("pause")
    wait_for(lambda: paused(submitter, agents[0]), within_s=15, why="one worker is left")
    # Some eight seconds of work on a machine that has nothing else to do, so that the pause finds it running.
    inputs = {"x": np.full((1, 64), 0.5, np.float32), "rounds": np.int64(12_000_000)}
    with meshnode.Client(home=submitter.home) as client:
        future = client.submit("slow", inputs, timeout=300)
        wait_for(lambda: in_flight(agents[1]), within_s=60, why="it runs")
        agents[0].command("resume")
        wait_for(lambda: not paused(submitter, agents[0]), within_s=15, why="another worker is there")
        assert 1 == in_flight(agents[1])

        agents[1].command("pause")

        wait_for(lambda: not in_flight(agents[1]), within_s=2, why="the machine is its owner's")
        result = future.result(timeout=300)
    assert agents[0].id == result.node
    assert [(agents[1].id, "refused"), (agents[0].id, "ok")] == [(it.node, it.outcome) for it in result.attempts]


def in_flight(agent: Agent) -> int:
    """Tasks at that node, by its own word."""
    number: int = next(row for row in agent.status()["nodes"] if row["self"])["in_flight"]
    return number


def test_a_pause_outlives_a_restart(mesh_rig: Rig) -> None:
    """An agent that was killed while it was paused is paused when it is back, also for those who see it again."""
    first, second = mesh_rig.mesh(2)
    second.command("pause")
    second.kill()

    again = mesh_rig.start("n1")

    assert "paused by hand" == paused(again, again)
    wait_for(lambda: paused(first, again) == "paused by hand", within_s=30, why="the pause is known")


def test_what_the_sensors_say_reaches_the_peers(mesh_rig: Rig, tmp_path: Path) -> None:
    """A laptop is unplugged, plugged in, and its owner comes back: its peer knows why each time, and goes round it."""
    files = tmp_path / "laptop"
    battery, login = "sys/class/power_supply/BAT0", "run/systemd/sessions"
    plant(files, {f"{battery}/type": "Battery", f"{battery}/capacity": 63, f"{battery}/status": "Full"})
    (files / login).mkdir(parents=True)
    first = mesh_rig.start("n0")
    laptop_home = mesh_rig.folder / "laptop-home"
    laptop_home.mkdir(mode=0o700)
    (laptop_home / "config.toml").write_text("[owner]\nsettle_s = 0.5\n")
    laptop = mesh_rig.start(
        *("laptop-home", first.command("invite").stdout.strip(), "--manners", "polite"),
        command=[sys.executable, "-m", "tests.mesh.elsewhere", str(files)],
    )
    wait_for(lambda: first.states().get(laptop.id) == "alive", within_s=30, why="they see each other")
    with_echo([first, laptop])

    def known(reason: str | None) -> None:
        wait_for(lambda: paused(first, laptop) == reason, within_s=30, why=f"the first node knows: {reason}")
        with meshnode.Client(home=first.home) as client:
            excluded = {row["node"]: row["detail"] for row in client.plan("echo", X)["excluded"]}
            assert reason == excluded.get(laptop.id)
        with meshnode.Client(home=laptop.home) as client:
            assert laptop.id == client.infer("echo", X, node=laptop.id, timeout=20).node

    known(None)
    plant(files, {f"{battery}/status": "Discharging"})
    known("on battery (63 %)")
    plant(files, {f"{battery}/status": "Charging"})
    known(None)
    plant(files, {f"{login}/2": session("wayland"), "proc/interrupts": interrupts(1, 1)})
    known("owner is here")


@pytest.mark.parametrize(
    ("manners", "expected"), [("polite", None), ("free", None), ("off", "its owner lends nothing (manners = off)")]
)
def test_the_manners_of_a_machine_without_a_display(mesh_rig: Rig, manners: str, expected: str | None) -> None:
    """What runs the tests takes work when it is free to; `off` takes none; `resume` does not change that."""
    if manners == "polite" and meshnode_sees_a_person():
        manners = "free"
    agent = mesh_rig.start("n0", "--manners", manners)
    assert expected == paused(agent, agent)
    assert expected == agent.json("resume")["paused"]


def meshnode_sees_a_person() -> bool:
    """Whether somebody sits at this machine or it runs on battery: then polite agents are right to refuse."""
    from meshnode.config import Manners
    from meshnode.owner.sensing import Machine

    reading = Machine(Manners.POLITE).read(0.0)
    return bool(reading.display or reading.on_battery or reading.metered)
