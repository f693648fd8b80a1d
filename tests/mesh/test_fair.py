"""P20 with real agents: a flood from one member does not starve another, and hears when to come again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import meshnode
from meshnode.errors import MeshError
from tests.mesh.rig import MODELS, Agent, Rig, pause, wait_for

ROUNDS = {"x": np.full((1, 64), 0.5, np.float32), "rounds": np.array(8_000, np.int64)}
"""About ten milliseconds."""
FLOOD, SECONDS = 24, 4.0


@contextmanager
def flood(agent: Agent) -> Iterator[Counter[str]]:
    """Urgent tasks of several threads, without pause; how they ended."""
    counts, over = Counter[str](), threading.Event()

    def work() -> None:
        with meshnode.Client(home=agent.home) as client:
            while not over.is_set():
                try:
                    attempts = client.infer("slow", ROUNDS, priority="high", timeout=3).attempts
                    counts["answered"] += 1
                except MeshError as error:
                    attempts = error.attempts
                    counts["failed"] += 1
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


def rate(agent: Agent, at_once: int) -> float:
    """Tasks a second of an ordinary client that has so many open."""
    done, end = 0, time.monotonic() + SECONDS
    with meshnode.Client(home=agent.home) as client:
        waiting = [client.submit("slow", ROUNDS, timeout=10) for _ in range(at_once)]
        while time.monotonic() < end:
            waiting.pop(0).result()
            done += 1
            waiting.append(client.submit("slow", ROUNDS, timeout=10))
        for future in waiting:
            future.result()
    return done / SECONDS


def test_a_flood_does_not_starve_another_member(mesh_rig: Rig) -> None:
    """One worker; a client that keeps four tasks open has nine tenths of half of what the worker does."""
    worker = mesh_rig.start("worker")
    worker.command("model", "add", str(MODELS / "slow" / "model.onnx"), "--name", "slow")
    tokens = [worker.command("invite", "--role", "submitter").stdout.strip() for _ in range(2)]
    normal, flooder = (mesh_rig.start(name, token) for name, token in zip(("normal", "flooder"), tokens, strict=True))
    for agent in (normal, flooder):
        wait_for(lambda agent=agent: agent.status()["models"], within_s=20, why="the model is known")  # type: ignore[misc]
    rate(normal, 1)
    alone = rate(normal, 4)
    with flood(flooder) as counts:
        begun = time.monotonic()
        while time.monotonic() < begun + 1.0:
            pause()
        before = counts["answered"]
        beside = rate(normal, 4)
        theirs = (counts["answered"] - before) / SECONDS
    print(f"alone {alone:.1f}/s, beside a flood {beside:.1f}/s and it {theirs:.1f}/s; the flood {dict(counts)}")
    # What the agents, clients and worker need of this machine's processors is taken from both.
    assert beside >= 0.9 * min(alone, beside + theirs) / 2
    assert counts["answered"] > 0
