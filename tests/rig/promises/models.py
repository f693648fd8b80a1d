"""P15: a model that wants all memory. P16: workers that crash under a task. P17: runs and loads that never end."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import meshnode
from meshnode.errors import MeshError
from tests.catalog.zoo import doubling
from tests.edge.test_hostile_models import KILLS, deadly, greedy
from tests.execution.making import INT_MIN, endless
from tests.mesh.history import Task
from tests.mesh.load import task_of, wanted_of
from tests.mesh.rig import wait_for
from tests.rig.promises.figures import Figure, at_most, history, none_of, told, true
from tests.rig.promises.town import SUBMITTERS, Stage, Town

GAP_S = 0.05
FLOATS = 1 << 34
"""64 GiB of them."""


@contextmanager
def _model(town: Town, name: str, path: Path) -> Iterator[None]:
    """A model that is gone afterwards."""
    founder = town.client(0)
    founder.add_model(path, name=name)
    try:
        for host in SUBMITTERS:
            wait_for(partial(_has, town, host, name), within_s=30, why="the model is known")
        yield
    finally:
        with suppress(MeshError):
            founder.ask("model.remove", model=name)


def _has(town: Town, host: int, name: str) -> bool:
    return name in {model["name"] for model in town.client(host).models()}


def _steady(client: meshnode.Client, node: str, seconds: float, over: Callable[[], bool] = lambda: True) -> list[Task]:
    """Tasks of another model for one node, each after the last, for so long and until it is over."""
    done = list[Task]()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends or not over():
        done.append(task := Task(len(done), time.monotonic()))
        model, inputs = task_of(task.number)
        future = client.submit(model, inputs, node=node, timeout=30)
        task.follow(future, partial(wanted_of, task.number))
        future.exception(60)
    return done


def _gap(tasks: list[Task]) -> float:
    """The longest time without an answer, in which another was asked for."""
    return max(task.seconds for task in tasks)


def memory(stage: Stage, full: bool) -> list[Figure]:
    """P15: 64 GiB are asked for while a model runs, at a node that goes on with another."""
    town, tries = stage.town(), 10 if full else 1
    host = town.workers[0]
    agent, client = town.agents[host], town.client(SUBMITTERS[0])
    workers = psutil.Process(agent.process.pid).children()
    ended, beside, before = Counter[str](), list[Task](), list[Task]()
    with _model(town, "greedy", greedy(stage.fresh())):
        client.infer("greedy", {"x": np.array([1], np.int64)}, node=agent.id, timeout=60)
        before = _steady(client, agent.id, 10.0 if full else 0.5)
        for _ in range(tries):
            wants = client.submit("greedy", {"x": np.array([FLOATS], np.int64)}, node=agent.id, timeout=30)
            beside += _steady(client, agent.id, 1.0 if full else 0.2, wants.done)
            error = wants.exception(60)
            ended[error.code if isinstance(error, MeshError) else repr(error)] += 1
    did = f"{tries} times 64 GiB asked for by a model that runs"
    same = workers == psutil.Process(agent.process.pid).children()
    return [
        none_of(
            did, f"ends that are no typed error; else {dict(ended)}", [it for it in ended if " " in it or it == "None"]
        ),
        true(did, "the agent lives", agent.process.poll() is None),
        told(did, "its worker", "the same" if same else "another"),
        at_most(did, "longest gap of another model on that node", _gap(beside), GAP_S),
        told(did, "...and before", f"{_gap(before):.3f} s"),
        *history(did, [*before, *beside]),
    ]


EACH = 50
KILLED = 5
"""With six, on different inputs, two nodes might report the model, and no node would run it: that is meant to be so."""
SEVERAL = 3
ROUNDS, LONG = 10_000, 150_000
"""Some milliseconds; and long enough to be found at work."""


def crashes(stage: Stage, full: bool) -> list[Figure]:
    """P16: a worker dies of a signal under each 50th task; then an input that kills whoever runs it, each 50th."""
    town, count = stage.town(), 1500 if full else 60
    return [*_segfaults(town, KILLED * EACH if full else count), *_poison(stage, town, count)]


def _workers(town: Town) -> dict[int, int]:
    """Worker processes by host."""
    found = {}
    for host in (0, *town.workers):
        for child in psutil.Process(town.agents[host].process.pid).children():
            found[child.pid] = host
    return found


def _at_work(town: Town, future: Future[Any]) -> int | None:
    """A host with a task of that client inside, the founder's too; none when it was done meanwhile."""
    hosts = {agent.id: host for host, agent in town.agents.items()}
    rows = town.client(SUBMITTERS[0]).status()["nodes"]
    busy = {hosts[row["id"]]: row["in_flight"] for row in rows if row["id"] in hosts and row["in_flight"]}
    return max(busy, key=lambda host: busy[host]) if busy else -1 if future.done() else None


def _segfaults(town: Town, count: int) -> list[Figure]:
    killed = 0
    recorded, waiting = list[Task](), list[Future[Any]]()
    client = town.client(SUBMITTERS[0])
    for number in range(count):
        recorded.append(task := Task(number, time.monotonic()))
        hit = number % EACH == EACH // 2
        model, inputs = task_of(number, LONG if hit else ROUNDS)
        future = client.submit(model, inputs, timeout=60)
        task.follow(future, partial(wanted_of, number, LONG if hit else ROUNDS))
        waiting.append(future)
        if hit:
            victim = wait_for(partial(_at_work, town, future), within_s=60, why="somebody is at work")
            pid = next((pid for pid, host in _workers(town).items() if host == victim), None)
            if pid is not None and not future.done():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSEGV)
                    killed += 1
        if len(waiting) >= SEVERAL:
            waiting.pop(0).exception(90)
    wait(waiting)
    did = f"SIGSEGV for a worker with tasks inside, {killed} times in {count} tasks"
    again = sum("worker_crashed" in task.outcomes() for task in recorded)
    agents = all(agent.process.poll() is None for agent in town.agents.values())
    return [
        true(did, "all agents live", agents),
        told(did, "tasks that were in it and done elsewhere", str(again)),
        *history(did, recorded),
    ]


def _poison(stage: Stage, town: Town, count: int) -> list[Figure]:
    client = town.client(SUBMITTERS[1])
    recorded, poisoned, waiting = list[Task](), list[Task](), list[Future[Any]]()
    before = _workers(town)
    with _model(town, "deadly", deadly(stage.fresh())):
        for number in range(count):
            bad = number % EACH == EACH // 2
            value = KILLS if bad else 1 + number % 40
            task = Task(number, time.monotonic())
            (poisoned if bad else recorded).append(task)
            future = client.submit("deadly", {"x": np.full((1, 4), value, np.int32)}, timeout=60)
            task.follow(future, partial(np.full, (1, 4), 0 if bad else INT_MIN % (value + 1), np.int32))
            waiting.append(future)
            if len(waiting) >= SEVERAL:
                waiting.pop(0).exception(90)
        wait(waiting)
    town.until_alive()
    killed = len(set(before) - set(_workers(town)))
    did = f"an input that kills its worker, as each {EACH}th of {count} tasks"
    return [
        none_of(
            did,
            f"of {len(poisoned)} that were not told as poison",
            [t.error for t in poisoned if t.code != "poison_task"],
        ),
        none_of(did, "of them given to more than two nodes", [t.number for t in poisoned if len(t.attempts) > 2]),
        told(did, "workers that are others now", f"{killed} of {len(before)}"),
        true(did, "all agents live", all(agent.process.poll() is None for agent in town.agents.values())),
        *history(did, recorded),
    ]


DEADLINE_S, LATE_S = 2.0, 0.5
FREE_S = 1.0
IDLE = 0.2
"""Of a core: what a worker may use that has nothing to do."""


def hangs(stage: Stage, full: bool) -> list[Figure]:
    """P17: a run without end on each node at once, to its deadline; models that never load are not let in."""
    town = stage.town()
    client, folder = town.client(SUBMITTERS[0]), stage.fresh()
    hosts = [0, *town.workers] if full else town.workers[:1]
    off, busy = list[float](), list[str]()
    codes = Counter[str]()
    for _ in range(3 if full else 1):
        began = time.monotonic()
        x, for_ever = np.ones((1, 64), np.float32), np.array(2**62, np.int64)
        tasks = [Task(n, began) for n in range(len(hosts))]
        futures = []
        for task, host in zip(tasks, hosts, strict=True):
            inputs = {"x": x, "rounds": for_ever}
            futures.append(client.submit("slow", inputs, node=town.agents[host].id, timeout=DEADLINE_S))
            task.follow(futures[-1], lambda: None)
        wait(futures)
        off += [abs(task.seconds - DEADLINE_S) for task in tasks]
        codes.update(task.code for task in tasks)
        workers = [psutil.Process(pid) for pid, host in _workers(town).items() if host in hosts]
        ended = time.monotonic()
        free_s = 0.0
        for worker in workers:
            wait_for(partial(_idle, worker), within_s=30, why="the worker is idle")
            free_s = time.monotonic() - ended
        busy += [f"{free_s:.1f} s"] if free_s > FREE_S + len(workers) * LOOK_S else []
    did = f"a run without end on {len(hosts)} nodes, deadline {DEADLINE_S:g} s"
    figures = [
        true(did, "each ended in deadline_exceeded", set(codes) == {"deadline_exceeded"}, str(dict(codes))),
        at_most(did, "farthest from the deadline", max(off), LATE_S),
        none_of(did, f"times that a core was not free {FREE_S:g} s later", busy),
    ]
    (folder / "bomb.onnx").write_bytes(doubling())
    hostile = {"functions that double 25 times": folder / "bomb.onnx"}
    if full:
        hostile["a loop that never ends"] = endless(folder).path
    for what, path in hostile.items():
        began, code = time.monotonic(), "it was taken"
        try:
            town.client(0).add_model(path, name="hostile")
        except MeshError as error:
            code = error.code
        did = f"a model with {what} is added"
        figures += [
            true(did, "refused", code == "model_refused", code),
            told(did, "after", f"{time.monotonic() - began:.2f} s"),
        ]
    return figures


LOOK_S = 0.2


def _idle(worker: psutil.Process) -> bool:
    try:
        return float(worker.cpu_percent(LOOK_S)) < IDLE * 100
    except psutil.NoSuchProcess:  # it was ended, which frees a core as well
        return True
