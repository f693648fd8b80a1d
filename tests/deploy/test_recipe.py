"""The zero-touch recipe: what cloud-init would write, run in an empty home, joins once and needs no token later."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mesh.rig import COMMAND, Rig, rig, wait_for

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


@pytest.fixture
def mesh_rig(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path / "mesh") as it:
        yield it


def user_data(token: str, *seeds: str) -> dict[str, Any]:
    """The document that the recipe makes."""
    made = subprocess.run(
        [sys.executable, DEPLOY / "user-data", "https://example.org/meshnode.whl", *seeds],
        input=token + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    first, _, rest = made.stdout.partition("\n")
    assert "#cloud-config" == first
    document: dict[str, Any] = json.loads(rest)
    return document


class Machine:
    """A folder that stands for the file system of a machine on which cloud-init wrote its files."""

    def __init__(self, folder: Path, document: dict[str, Any]) -> None:
        self.folder = folder
        for file in document["write_files"]:
            path = self.at(file["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file["content"])
            path.chmod(int(file["permissions"], 8))
        program = self.at("/opt/meshnode/bin/meshnode")
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
        program.chmod(0o755)
        self.home = self.at("/var/lib/meshnode")
        self.environment = {"HOME": str(folder / "empty"), "PATH": os.defpath, "MESHNODE_HOME": str(self.home)}
        (folder / "empty").mkdir()

    def at(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def boot(self) -> subprocess.CompletedProcess[str]:
        """What the unit runs before the agent."""
        return subprocess.run(
            [self.at("/opt/meshnode/first-boot")],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
        )


def test_a_machine_joins_at_its_first_boot_and_starts_without_a_token_afterwards(mesh_rig: Rig, tmp_path: Path) -> None:
    """The token is gone once it was used; the next boot changes nothing; the agent is a member in the token's zone."""
    founder = mesh_rig.start("founder")
    token = founder.command("invite", "--uses", "5", "--zone", "eu/berlin/store-12").stdout.strip()
    machine = Machine(tmp_path / "machine", user_data(token, founder.address))
    assert 0o600 == stat.S_IMODE((machine.home / "token").stat().st_mode)
    for _ in range(2):
        done = machine.boot()
        assert 0 == done.returncode, done.stderr
        assert not (machine.home / "token").exists()
    shutil.copytree(machine.home, mesh_rig.folder / "till")
    agent = mesh_rig.start("till", "--seed", founder.address)
    wait_for(lambda: "alive" == founder.states().get(agent.id), within_s=30, why="the founder sees it")

    (zone,) = [row["zones"] for row in founder.json("members") if row["id"] == agent.id]
    assert ["eu/berlin/store-12"] == zone
    assert token not in agent.log()


def test_a_machine_without_mesh_and_token_does_not_found_one(tmp_path: Path) -> None:
    """It says what is missing, with the code for a wrong configuration; nothing is made."""
    machine = Machine(tmp_path / "machine", {"write_files": user_data("mesh1-x")["write_files"][:2]})
    done = machine.boot()

    assert 78 == done.returncode
    assert "meshnode invite --uses N" in done.stderr
    assert not machine.home.exists()


def test_a_token_that_is_refused_stays_and_says_why(tmp_path: Path) -> None:
    """The unit tries again; who looks at its journal reads the reason."""
    machine = Machine(tmp_path / "machine", user_data("mesh1-abc"))
    done = machine.boot()

    assert 4 == done.returncode
    assert "incomplete" in done.stderr
    assert (machine.home / "token").exists()


def test_the_user_data_holds_the_recipe_and_nothing_else(tmp_path: Path) -> None:
    """Unit and script as they lie here, the seeds as the agent reads them; no token is no user-data."""
    files = {file["path"]: file["content"] for file in user_data("mesh1-x", "10.0.0.1:7433")["write_files"]}
    assert (DEPLOY / "meshnode.service").read_text() == files["/etc/systemd/system/meshnode.service"]
    assert (DEPLOY / "first-boot").read_text() == files["/opt/meshnode/first-boot"]
    assert {"discovery": {"seeds": ["10.0.0.1:7433"]}} == tomllib.loads(files["/var/lib/meshnode/config.toml"])
    bare = subprocess.run([sys.executable, DEPLOY / "user-data", "x"], input="", capture_output=True, text=True)
    assert 1 == bare.returncode
    assert "no token" in bare.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing to say about it, with programs where it names them."""
    machine = Machine(tmp_path / "machine", user_data("mesh1-x"))
    unit = tmp_path / "meshnode.service"
    text = machine.at("/etc/systemd/system/meshnode.service").read_text()
    unit.write_text(text.replace("/opt/meshnode", str(machine.at("/opt/meshnode"))))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)

    said = [line for line in done.stderr.splitlines() if "meshnode" in line]
    assert [] == said
