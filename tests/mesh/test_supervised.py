"""Agents under a service manager: what it hears of them, and that restarting them loses no task.

The manager here is a few lines that do as systemd does: a socket, a watchdog, SIGTERM, a start after each end.
`tests/service/test_systemd.py` has the same with systemd itself, where it can be had.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh.load import Load
from tests.mesh.rig import MODELS, Agent, Rig, wait_for

WATCHDOG_S = 2.0


class Manager:
    """The socket that systemd would listen on; what came is kept with its time."""

    def __init__(self, address: str) -> None:
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._door.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._door.setblocking(False)
        self.heard: list[tuple[float, str]] = []
        self.environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6))}

    def lines(self) -> list[str]:
        """All that came until now."""
        while True:
            try:
                data = self._door.recv(4096)
            except BlockingIOError:
                return [line for _, text in self.heard for line in text.splitlines()]
            self.heard.append((time.monotonic(), data.decode()))

    def count(self, line: str) -> int:
        return self.lines().count(line)

    def close(self) -> None:
        self._door.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@meshnode-test-{os.getpid()}"
    it = Manager(address)
    yield it
    it.close()


def test_it_says_when_it_is_up_that_it_lives_and_that_it_stops(mesh_rig: Rig, manager: Manager) -> None:
    """Over both kinds of sockets; a process that is held says nothing, so that the watchdog would end it."""
    agent = mesh_rig.start("ann", environment=manager.environment)
    wait_for(lambda: manager.count("READY=1") == 1, within_s=10, why="it says that it is up")
    assert any(line.startswith("STATUS=in the mesh ") for line in manager.lines())
    beats = manager.count("WATCHDOG=1")
    wait_for(lambda: manager.count("WATCHDOG=1") >= beats + 3, within_s=20 * WATCHDOG_S, why="it lives")
    agent.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{agent.process.pid}/stat").read_text().split()[2] == "T", within_s=5, why="held")
    held, since = manager.count("WATCHDOG=1"), time.monotonic()
    wait_for(lambda: time.monotonic() > since + WATCHDOG_S, within_s=10, why="the watchdog's time is up")
    assert held == manager.count("WATCHDOG=1")
    agent.process.send_signal(signal.SIGCONT)
    assert 0 == agent.terminate()
    assert (1, 1) == (manager.count("READY=1"), manager.count("STOPPING=1"))


def test_one_that_joins_another_mesh_says_that_it_begins_anew(mesh_rig: Rig, tmp_path: Path) -> None:
    """RELOADING, and READY again in the same process."""
    other = mesh_rig.start("bob")
    manager = Manager(str(tmp_path / "notify"))
    agent = mesh_rig.start("ann", environment=manager.environment)
    token = other.command("invite").stdout.strip()
    agent.command("join", token)
    wait_for(lambda: manager.count("READY=1") == 2, within_s=60, why="it is up again")
    lines = manager.lines()
    assert lines.index("READY=1") < lines.index("RELOADING=1") < len(lines) - lines[::-1].index("READY=1")
    assert any(line.startswith("MONOTONIC_USEC=") for line in lines)
    manager.close()


def restarted(rig: Rig, agent: Agent, manager: Manager) -> Agent:
    """As `systemctl restart` does it."""
    ups = manager.count("READY=1")
    assert 0 == agent.terminate()
    options = [it for it in agent.options if not it.startswith("mesh1-")]
    again = rig.start(agent.home.name, *options, listen=agent.address, environment=manager.environment)
    wait_for(lambda: manager.count("READY=1") == ups + 1, within_s=10, why="it is up again")
    assert again.id == agent.id
    return again


def test_restarting_every_node_under_load_loses_no_task(mesh_rig: Rig, tmp_path: Path) -> None:
    """The workers one by one, then the one whose clients give the tasks: each answer comes, once, and right."""
    agents = mesh_rig.mesh(3)
    agents[0].command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
    wait_for(lambda: agents[2].status()["models"], within_s=10, why="the model is known")
    manager = Manager(str(tmp_path / "notify"))
    with Load(agents[2].home, rate=60, timeout_s=60.0) as load:
        for number in (0, 1, 2):
            done = load.answered
            wait_for(lambda done=done: load.answered > done + 30, within_s=60, why="there is load")  # type: ignore[misc]
            agents[number] = restarted(mesh_rig, agents[number], manager)
        done = load.answered
        wait_for(lambda: load.answered > done + 30, within_s=60, why="there is load")
    manager.close()
    assert ([], 0, 0) == (load.errors, load.wrong, load.twice)
    assert load.sent > 120
    print(f"{load.sent} tasks, {load.rerouted} went elsewhere")
