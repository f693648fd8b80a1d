"""P21: a home that was copied to another machine and runs there too: found out soon, and said with the way out."""

from __future__ import annotations

import shutil
import time

from tests.mesh.load import task_of
from tests.mesh.rig import wait_for
from tests.rig.promises.figures import Figure, at_most, none_of, true
from tests.rig.promises.town import NEWCOMER, Stage, Town

FOUND_S = 10.0
TASKS = 20


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Copy a worker's home to a new host, start the elder, then the copy; in the full form of each worker."""
    town, figures = stage.town(), list[Figure]()
    for host in town.workers[: None if full else 1]:
        figures += _once(town, host)
        town.dismiss(NEWCOMER)
        town.until_alive()
    return figures


def _once(town: Town, host: int) -> list[Figure]:
    did = f"the home of h{host} copied to another host"
    elder = town.agents[host]
    elder.terminate()  # so that its files are of one moment
    copy = elder.home.parent / f"h{NEWCOMER}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(elder.home, copy, ignore=shutil.ignore_patterns("agent.sock", "agent.lock"))
    elder = town.restart(host)
    town.until_alive()
    town.agents[NEWCOMER] = younger = town.net.up(NEWCOMER)
    began = time.monotonic()
    assert younger.id == elder.id

    def fix() -> str:
        rows = {row["check"]: row for row in town.client(NEWCOMER).ask("doctor")}
        row = rows.get("identity", {"detail": "", "fix": ""})
        return str(row["fix"]) if "copied" in row["detail"] else ""

    told = wait_for(fix, within_s=60, why="the copy knows")
    younger_s = time.monotonic() - began

    def shown() -> bool:
        (row,) = [row for row in town.client(0).status()["nodes"] if row["id"] == elder.id]
        return row["state"] == "alive" and "copied" in (row["reason"] or "")

    wait_for(shown, within_s=60, why="the others are told, and the elder is there")
    others_s = time.monotonic() - began
    names = {_done_by(town, n, elder.id) for n in range(TASKS)}
    checks = {row["check"] for row in town.client(host).ask("doctor")}
    return [
        at_most(did, "the younger knows, after it was ready", younger_s, FOUND_S),
        at_most(did, "the others are told", others_s, FOUND_S),
        true(did, "the younger is told what to do", "leave" in told and "TOKEN" in told, told),
        none_of(did, f"of {TASKS} tasks for that id done by the younger", sorted(names - {elder.home.name})),
        true(did, "the elder works on, unaccused", "identity" not in checks),
    ]


def _done_by(town: Town, number: int, node: str) -> str:
    model, inputs = task_of(number)
    return town.client(0).infer(model, inputs, node=node, timeout=30).node_name
