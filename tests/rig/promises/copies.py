"""P21: a home that was copied to another machine and runs there too: found out soon, and said with the way out."""

from __future__ import annotations

import shutil
import time
from typing import Any

from tests.mesh.load import task_of
from tests.mesh.rig import wait_for
from tests.rig.net import net
from tests.rig.promises.figures import Figure, at_most, none_of, true
from tests.rig.promises.town import Stage, found

FOUND_S = 10.0
ELDER, YOUNGER = 1, 2
TASKS = 20


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Copy a home, start the elder, then the copy on another host; in the full form five times."""
    figures: list[Figure] = []
    for n in range(5 if full else 1):
        folder, did = stage.fresh(), "a copied home on two hosts" + (f", {n + 1}" if full else "")
        with net(folder, [[0]] * 3) as it:
            town = found(it, [0, ELDER])
            try:
                figures += _once(town, did)
            finally:
                town.close()
    return figures


def _once(town: Any, did: str) -> list[Figure]:
    elder = town.agents[ELDER]
    elder.terminate()
    copy = elder.home.parent / f"h{YOUNGER}"
    shutil.copytree(elder.home, copy, ignore=shutil.ignore_patterns("agent.sock", "agent.lock"))
    elder = town.restart(ELDER)
    town.until_alive()
    town.agents[YOUNGER] = younger = town.net.up(YOUNGER)
    began = time.monotonic()
    assert younger.id == elder.id

    def fix() -> str:
        rows = {row["check"]: row for row in town.client(YOUNGER).ask("doctor")}
        row = rows.get("identity", {"detail": "", "fix": ""})
        return str(row["fix"]) if "copied" in row["detail"] else ""

    told = wait_for(fix, within_s=60, why="the copy knows")
    younger_s = time.monotonic() - began

    def shown() -> bool:
        (row,) = [row for row in town.client(0).status()["nodes"] if row["id"] == elder.id]
        return row["state"] == "alive" and "copied" in (row["reason"] or "")

    wait_for(shown, within_s=60, why="the others are told, and the elder is there")
    others_s = time.monotonic() - began
    names = {row["name"] for n in range(TASKS) for row in _attempts(town, n, elder.id)}
    checks = {row["check"] for row in town.client(ELDER).ask("doctor")}
    return [
        at_most(did, "the younger knows, after it was ready", younger_s, FOUND_S),
        at_most(did, "the others are told", others_s, FOUND_S),
        true(did, "the younger is told what to do", "leave" in told and "TOKEN" in told, told),
        none_of(did, f"of {TASKS} tasks for that id done by the younger", sorted(names - {elder.home.name})),
        true(did, "the elder works on, unaccused", "identity" not in checks),
    ]


def _attempts(town: Any, number: int, node: str) -> list[dict[str, str]]:
    model, inputs = task_of(number)
    result = town.client(0).infer(model, inputs, node=node, timeout=30)
    return [{"name": result.node_name}]
