"""P24: what is bound to a zone stays in it while agents die, freeze and are walled off; by the record of each agent."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import numpy as np

from tests.mesh.history import Task, judge, within
from tests.mesh.load import MODELS, task_of, wanted_of
from tests.mesh.rig import wait_for
from tests.rig.promises.figures import Figure, at_least, none_of, told, true
from tests.rig.promises.town import SUBMITTERS, Stage, Town

PLACES = {0: "eu/berlin", 1: "eu/berlin/store-12", 2: "eu/paris", 4: "us", 5: "eu/berlin", 6: ""}
ZONES = ("eu", "eu/berlin", "us", "eu/berlin/store-12")
TASKS, TASKS_FULL = 60, 10_000
AT_ONCE = 30
TIMEOUT_S = 20.0
BOUND = "berlin-only"
IMAGE = {"image": np.zeros((1, 1, 8, 8), np.float32)}


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Zones, tasks for them, a model of one, faults meanwhile; then the records are read."""
    town, count = stage.town(), TASKS_FULL if full else TASKS
    founder = town.client(0)
    for host, zone in PLACES.items():
        founder.ask("zone", node=town.agents[host].id, zone=zone)
    founder.add_model(MODELS / "digits" / "model.onnx", name=BOUND, version=1, zone="eu/berlin")
    try:
        for host in town.agents:
            wait_for(lambda host=host: _knows(town, host), within_s=30, why="all know the zones and the model")  # type: ignore[misc]
        return _figures(town, count, *_work(town, count))
    finally:
        founder.ask("model.remove", model=BOUND)
        for host in PLACES:
            founder.ask("zone", node=town.agents[host].id, zone="")


def _knows(town: Town, host: int) -> bool:
    rows = {row["id"]: row["zones"] for row in town.client(host).ask("members")}
    zones = all(rows[town.agents[other].id] == ([zone] if zone else []) for other, zone in PLACES.items())
    return zones and BOUND in {model["name"] for model in town.client(host).models()}


def _work(town: Town, count: int) -> tuple[dict[str, tuple[str, ...]], list[Task]]:
    """Tasks in bursts, a fault between two; where each may run, by digest and zone, and what became of them."""
    rng, history = town.rng, list[Task]()
    wanted = town.client(0).infer(BOUND, IMAGE, node=town.agents[0].id)["probabilities"]
    bounds: dict[str, tuple[str, ...]] = {_digest(town): ("eu/berlin",)}
    done = 0
    while done < count:
        fault, host = rng.choice(("kill", "wall", "none")), rng.choice((1, 2, 4, 5, 6))
        waiting: list[Future[Any]] = []
        for number in range(AT_ONCE):
            bound = rng.random() < 0.3
            rounds = rng.choice((0, 20_000))
            model, inputs = (BOUND, IMAGE) if bound else task_of(number, rounds)
            zone = rng.choice((*ZONES, "mars", "") if bound else ZONES)
            history.append(task := Task(number, time.monotonic(), zone))
            waiting.append(
                town.client(rng.choice(SUBMITTERS)).submit(model, inputs, zone=zone or None, timeout=TIMEOUT_S)
            )
            right = partial(lambda it: it, wanted) if bound else partial(wanted_of, number, rounds)
            task.follow(waiting[-1], right, "probabilities" if bound else "y")
        match fault:
            case "kill":
                town.restart(host)
            case "wall":
                town.net.cut([host], SUBMITTERS)
        wait(waiting)
        town.net.heal()
        town.until_alive()
        done += AT_ONCE
    return bounds, history


def _digest(town: Town) -> str:
    return str(next(model["digest"] for model in town.client(0).models() if model["name"] == BOUND))


def _figures(town: Town, count: int, bounds: dict[str, tuple[str, ...]], history: list[Task]) -> list[Figure]:
    did = f"{count} tasks bound to zones, agents killed and walled off meanwhile"
    ran, outside, cached = 0, list[str](), list[str]()
    for host, agent in town.agents.items():
        zone = PLACES.get(host, "")
        shown = agent.command("--json", "audit", "tail", "-n", "100000", "--event", "task")
        for line in shown.stdout.splitlines():
            record = json.loads(line)
            wanted = (*((record["zone"],) if record["zone"] else ()), *bounds.get(record["model"], ()))
            if wanted and record["outcome"] not in ("no_node_in_zone", "permission_denied"):
                ran += 1
                outside += [f"{record['task'][:8]} on h{host}" for it in wanted if not within(it, zone)]
        held = {path.name for path in (agent.home / "models").iterdir()}
        misplaced = [name for name in held for it in bounds.get(name, ()) if not within(it, zone)]
        cached += [f"{name[:8]} on h{host}" for name in misplaced]
    ended = Counter(task.code or task.error or "answered" for task in history)
    verdict = judge(history, {agent.id: PLACES.get(host, "") for host, agent in town.agents.items()})
    return [
        none_of(did, f"of {ran} runs by the agents' records outside their zone", outside),
        none_of(did, "files of the bound model on agents outside its zone", cached),
        none_of(did, "wrong answers", verdict.wrong),
        none_of(did, "answers delivered twice", verdict.twice),
        none_of(did, "answers of nodes outside", verdict.outside),
        at_least(did, "runs that were bound", ran, count / 4),
        true(did, "answered, or no node in the zone", not set(ended) - _MAY, str(dict(ended))),
        told(did, "how they ended", ", ".join(f"{what} {number}" for what, number in sorted(ended.items()))),
    ]


_MAY = {"answered", "no_node_in_zone", "no_capacity", "deadline_exceeded", "peer_lost", "refused"}
