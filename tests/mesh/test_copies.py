"""A home that was copied and runs twice: found out soon, by both, and said with the way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.mesh.rig import Agent, rig, wait_for


def checks(agent: Agent) -> dict[str, str]:
    """What the doctor says, by check; its exit code says that something is wrong."""
    rows = json.loads(agent.command("--json", "doctor", check=None).stdout)
    return {row["check"]: row["detail"] for row in rows}


def test_a_copied_home_is_found_out_and_the_younger_yields(tmp_path: Path) -> None:
    """Two processes with one key: the one that started later says so and takes no tasks, the other works on."""
    with rig(tmp_path) as it:
        first, elder, _ = it.mesh(3)
        elder.terminate()
        shutil.copytree(elder.home, tmp_path / "copy", ignore=shutil.ignore_patterns("agent.sock", "agent.lock"))
        elder = it.start(elder.home.name)
        younger = it.start("copy")
        assert elder.id == younger.id
        wait_for(lambda: "copied" in checks(younger).get("identity", ""), within_s=60, why="the copy knows")

        assert "copied" in younger.status()["copied"]
        assert "this node: its home was copied" in younger.command("status").stdout
        assert None is elder.status()["copied"]

        def shown() -> str:
            (row,) = [row for row in first.status()["nodes"] if row["id"] == elder.id]
            return str(row["reason"]) if row["state"] == "alive" else ""

        wait_for(lambda: "copied" in shown(), within_s=60, why="the others are told, and the elder is there")
        assert "identity" not in checks(elder)
