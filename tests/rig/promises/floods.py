"""P20: a member that asks for far more than there is takes nothing from another, and hears when to come again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import meshnode
from meshnode.errors import MeshError
from tests.mesh.history import Task
from tests.mesh.load import task_of, wanted_of
from tests.mesh.rig import MODELS, Agent, rig, wait_for
from tests.rig.promises.figures import Figure, at_least, history, none_of, told
from tests.rig.promises.town import Stage, wait

ROUNDS = 8_000
"""About ten milliseconds."""
FLOOD, OPEN = 80, 4
"""Tasks that the flood, and an ordinary client, have open all the time: twenty times as many, and urgent ones."""
FAIR = 0.9


def keep(stage: Stage, full: bool) -> list[Figure]:
    """One worker and two submitters: what an ordinary client has alone, and beside a flood of the other."""
    seconds = 20.0 if full else 2.0
    with rig(stage.fresh()) as it:
        worker = it.start("worker")
        worker.command("model", "add", str(MODELS / "slow" / "model.onnx"), "--name", "slow")
        tokens = [worker.command("invite", "--role", "submitter").stdout.strip() for _ in range(2)]
        normal, flooder = (it.start(name, token) for name, token in zip(("normal", "flooder"), tokens, strict=True))
        for agent in (normal, flooder):
            wait_for(lambda agent=agent: agent.status()["models"], within_s=20, why="the model is known")  # type: ignore[misc]
        _ordinary(normal, 1, 0.5)
        alone, before = _ordinary(normal, OPEN, seconds)
        with _flood(flooder) as counts:
            wait(1.0)
            then = counts["answered"]
            beside, during = _ordinary(normal, OPEN, seconds)
            theirs = (counts["answered"] - then) / seconds
    share = min(alone, beside + theirs) / 2
    did = f"a flood of {FLOOD} urgent tasks at once beside a client with {OPEN}, {seconds:g} s"
    return [
        # What the agents, clients and worker need of this machine's processors is taken from both.
        at_least(did, "tasks of the ordinary client, of its fair share", beside / share * 100, FAIR * 100, "%"),
        told(did, "tasks a second: it alone, it beside, the flood", f"{alone:.1f}, {beside:.1f}, {theirs:.1f}"),
        at_least(did, "tasks of the flood that were refused", counts["refused"], 1),
        none_of(did, "refusals for good without a time to come again", ["one"] * counts["no time"]),
        *history(did, [*before, *during]),
    ]


@contextmanager
def _flood(agent: Agent) -> Iterator[Counter[str]]:
    """Urgent tasks of several threads, without pause; how they ended."""
    counts, over = Counter[str](), threading.Event()
    model, inputs = task_of(0, ROUNDS)

    def work() -> None:
        with meshnode.Client(home=agent.home) as client:
            while not over.is_set():
                try:
                    attempts = client.infer(model, inputs, priority="high", timeout=3).attempts
                    counts["answered"] += 1
                except MeshError as error:
                    attempts = error.attempts
                    counts["failed"] += 1
                    counts["no time"] += error.code == "no_capacity" and not error.retry_after_s
                counts["refused"] += sum(it.outcome == "refused" for it in attempts)

    threads = [threading.Thread(target=work) for _ in range(FLOOD)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _ordinary(agent: Agent, at_once: int, seconds: float) -> tuple[float, list[Task]]:
    """Tasks a second of an ordinary client that has so many open, and all of them."""
    recorded, end, done = list[Task](), time.monotonic() + seconds, 0
    with meshnode.Client(home=agent.home) as client:

        def submit() -> Future[Any]:
            number = len(recorded)
            recorded.append(task := Task(number, time.monotonic()))
            model, inputs = task_of(number, ROUNDS)
            future = client.submit(model, inputs, timeout=20)
            task.follow(future, lambda: wanted_of(number, ROUNDS))
            return future

        waiting = [submit() for _ in range(at_once)]
        while time.monotonic() < end:
            waiting.pop(0).exception(60)
            done += 1
            waiting.append(submit())
        for future in waiting:
            future.exception(60)
    return done / seconds, recorded
