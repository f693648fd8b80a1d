"""The service on systemd itself: a user's manager in a mount namespace, so that nothing of the machine changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshnode import Client
from meshnode.cli.service import made_of
from meshnode.service.texts import Service, systemd
from tests.mesh.load import Load
from tests.mesh.rig import COMMAND, MODELS, rig, wait_for

SYSTEMD = next((it for it in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if Path(it).exists()), "")
FIRST = """
set -e
mount -t tmpfs none /run
mount -t tmpfs none /srv
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
# What the first systemd of a machine makes: with it units hide folders and files.
for folder in /run/systemd/inaccessible "$XDG_RUNTIME_DIR/systemd/inaccessible"; do
    mkdir -p "$folder"
    mkdir -m 000 "$folder/dir"
    touch "$folder/reg"
    mkfifo "$folder/fifo"
    mknod "$folder/chr" c 0 0
    mknod "$folder/blk" b 0 0
done
exec {systemd} --user --log-target=console
"""


@dataclass
class Machine:
    """A user's manager, and commands beside it."""

    manager: subprocess.Popen[bytes]
    environment: dict[str, str]

    def run(self, *words: str, check: int | None = 0, said: str = "") -> str:
        """In the manager's namespace; what it printed."""
        done = subprocess.run(
            ["nsenter", f"--mount=/proc/{self.manager.pid}/ns/mnt", *words],
            env=self.environment,
            input=said,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check is not None and done.returncode != check:
            raise AssertionError(f"{words}: exit {done.returncode}, expected {check}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def service(self, *words: str, check: int | None = 0, said: str = "") -> Any:
        """`meshnode --json service …`."""
        return json.loads(self.run(*COMMAND, "--json", "service", *words, check=check, said=said))

    def shown(self, name: str) -> str:
        """A property of the unit, as systemd says it."""
        return self.run("systemctl", "--user", "show", "-P", name, "meshnode.service").strip()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Skips with the reason where it cannot be had."""
    if not SYSTEMD or os.geteuid() != 0 or any(shutil.which(it) is None for it in ("unshare", "nsenter", "systemctl")):
        pytest.skip("needs root, systemd and util-linux: the manager is run in a mount namespace")
    environment = {
        **{key: value for key, value in os.environ.items() if key not in ("DBUS_SESSION_BUS_ADDRESS", "NOTIFY_SOCKET")},
        "HOME": str(tmp_path / "user"),
        "XDG_CONFIG_HOME": str(tmp_path / "user" / "config"),
        # Not below /run/user, which a unit may hide: a machine's own manager is not there.
        "XDG_RUNTIME_DIR": "/run/manager",
        "MESHNODE_HOME": str(tmp_path / "home"),
    }
    (tmp_path / "user").mkdir()
    manager = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", FIRST.format(systemd=SYSTEMD)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=(tmp_path / "manager.log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    it = Machine(manager, environment)

    def answers() -> bool:
        return manager.poll() is not None or "running" in it.run("systemctl", "--user", "is-system-running", check=None)

    try:
        wait_for(answers, within_s=60, why="the manager answers")
        if manager.poll() is not None:
            pytest.skip(f"systemd does not run here: {(tmp_path / 'manager.log').read_text()[-300:]}")
        yield it
    finally:
        if manager.poll() is None:
            it.run("systemctl", "--user", "stop", "meshnode.service", check=None)
            manager.send_signal(signal.SIGRTMIN + 24)  # systemd's "exit at once"
            manager.wait(20)


def test_it_is_installed_joined_watched_and_removed(machine: Machine, tmp_path: Path) -> None:
    """With a token from standard input; a process that hangs is ended and started again; the home stays in the end."""
    home = tmp_path / "home"
    with rig(tmp_path / "mesh") as mesh:
        founder = mesh.start("founder")
        founder.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
        token = founder.command("invite").stdout
        by_hand = machine.run(*COMMAND, "--json", "--home", str(founder.home), "service", "install", check=2)
        assert "runs on" in json.loads(by_hand)["message"]
        drop = Path(machine.environment["XDG_CONFIG_HOME"]) / "systemd" / "user" / "meshnode.service.d"
        drop.mkdir(parents=True)
        (drop / "sooner.conf").write_text("[Service]\nWatchdogSec=3\n")
        options = ["--name", "hall", "--listen", "127.0.0.1:0", "--seed", founder.address]
        machine.service("install", "-", *options, said=token)

        unit = (drop.parent / "meshnode.service").read_text()
        assert token.strip() not in unit + (home / "config.toml").read_text()
        assert founder.address in (home / "config.toml").read_text()
        status = machine.service("status")
        assert ("active", "running") == (status["state"], status["substate"])
        assert status["says"].startswith("in the mesh")
        wait_for(lambda: "hall" in {it["name"] for it in founder.status()["nodes"]}, within_s=20, why="it is seen")
        rows = json.loads(machine.run(*COMMAND, "--json", "doctor", check=None))
        here = json.loads(founder.command("--json", "doctor", check=None).stdout)
        assert _sandbox(here) == _sandbox(rows)  # the unit takes nothing away that workers confine themselves with
        ran = machine.run(*COMMAND, "--json", "run", "echo", "-i", f"x={_array(tmp_path)}", "--node", "hall")
        assert "hall" == json.loads(ran)["node_name"]

        os.kill(status["pid"], signal.SIGSTOP)
        wait_for(lambda: machine.shown("NRestarts") == "1", within_s=60, why="the watchdog notices")
        wait_for(lambda: machine.service("status", check=None)["state"] == "active", within_s=60, why="it is up again")
        assert status["pid"] != machine.service("status")["pid"]

        machine.run("systemctl", "--user", "restart", "meshnode.service")
        assert "success" == machine.shown("Result")
        machine.service("remove")
        assert "inactive" == machine.service("status", check=1)["state"]
        assert (home / "trust").exists()
        assert not (drop.parent / "meshnode.service").exists()


def test_the_unit_of_a_machine_runs_the_agent_and_restarts_it_without_losing_a_task(machine: Machine) -> None:
    """With all its restrictions, as a root without rights: workers confine themselves as elsewhere, and a client that
    asks on through `systemctl restart` gets every answer, once, and right.
    """
    beside = Path(sys.executable).parent / "meshnode"
    home = Path("/srv/mesh")
    reads = made_of()
    hidden = any(it.is_relative_to(tempfile.gettempdir()) for it in reads)
    service = Service((str(beside),), home, system=True, user="root", own_tmp=not hidden, reads=reads)
    here = Path(f"/proc/{machine.manager.pid}/root") / "srv" / "mesh"
    here.mkdir(mode=0o700)
    (here / "config.toml").write_text('listen = "127.0.0.1:0"\nmanners = "free"\n[discovery]\nmdns = false\n')
    unit = Path(machine.environment["XDG_CONFIG_HOME"]) / "systemd" / "user" / "meshnode.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(systemd(service))
    machine.run("systemctl", "--user", "daemon-reload")
    machine.run("systemctl", "--user", "start", "meshnode.service")

    pid = machine.shown("MainPID")
    said = Path(f"/proc/{pid}/status").read_text()
    assert "CapBnd:\t0000000000000000" in said
    assert "Seccomp:\t2" in said
    mounts = [it.split() for it in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
    writable = [it[1] for it in mounts if "rw" in it[3].split(",")]
    assert str(home) in writable
    assert "/" not in writable
    with Client(here) as client:
        client.add_model(MODELS / "echo" / "model.onnx", name="echo")
        grade = client.ask("status")["sandbox"]["grade"]
    with Load(here, rate=60, timeout_s=60.0) as load:
        for _ in range(2):
            done = load.answered
            wait_for(lambda done=done: load.answered > done + 30, within_s=60, why="there is load")  # type: ignore[misc]
            machine.run("systemctl", "--user", "restart", "meshnode.service")
        done = load.answered
        wait_for(lambda: load.answered > done + 30, within_s=60, why="there is load")
    assert ([], 0, 0) == (load.errors, load.wrong, load.twice)
    assert "0" == machine.shown("NRestarts")
    with rig(unit.parent / "mesh") as mesh:
        other = mesh.start("other")
        wait_for(lambda: other.status()["sandbox"]["grade"], within_s=20, why="its worker is there")
        assert grade == other.status()["sandbox"]["grade"]


def _sandbox(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [row for row in rows if row["check"] == "sandbox"]
    assert 1 == len(found)
    return found


def _array(folder: Path) -> Path:
    np.save(folder / "x.npy", np.ones((1, 4), np.float32))
    return folder / "x.npy"


def test_where_no_manager_runs_nothing_is_written(tmp_path: Path) -> None:
    """The error says what to do instead; `--print` shows the unit all the same."""
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd runs on this machine")
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    words = [*COMMAND, "--home", str(tmp_path / "home"), "service", "install", "--name", "hall"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert 2 == done.returncode
    assert "systemd does not run on this machine" in done.stderr
    assert "meshnode up" in done.stderr
    assert [] == list(tmp_path.iterdir())
    shown = subprocess.run([*words, "--print"], env=environment, capture_output=True, text=True, timeout=60)
    program = Path(sys.executable).parent / "meshnode"
    assert f"ExecStart={program} up" in shown.stdout
    assert "hall" not in shown.stdout
    assert [] == list(tmp_path.iterdir())
