"""P18: bytes that are almost right, by strangers and by a member. P19: connections that say next to nothing."""

from __future__ import annotations

import asyncio
import math
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil

from meshnode.trust.keeper import Keeper
from tests.mesh.comers import address, come_and_go, member
from tests.mesh.load import Load
from tests.mesh.rig import MODELS, Agent, Rig, rig
from tests.rig.intruders import intruder
from tests.rig.promises.figures import Figure, at_least, at_most, none_of, tasks, told, true
from tests.rig.promises.town import Stage, wait

GROWTH_MIB, SLOWER = 10.0, 2.0
HALF_OPEN, DROPPED_S, LEGIT_S = 1000, 5.0, 0.05
LATE_S = 1.0
"""The second that a drop takes to be seen here: each connection is looked at once a second, when its byte is due."""


def _victim(it: Rig) -> Agent:
    agent = it.start("n0")
    agent.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
    return agent


def _intrude(what: str, agent: Agent, keeper: Keeper, rng: random.Random, count: int) -> int:
    with intruder(what, address(agent), keeper.home, rng.randrange(1 << 30), count, agent.id) as its_end:
        return int(its_end())


def keep(stage: Stage, full: bool) -> list[Figure]:
    """P18: frames and datagrams, mutated from real ones, half of them by a member, at an agent that has tasks."""
    frames, datagrams = (10_000, 100_000) if full else (200, 3000)
    rng = random.Random(stage.seed)
    with rig(stage.fresh()) as it:
        agent = _victim(it)
        process = psutil.Process(agent.process.pid)
        with ExitStack() as stack:
            keeper = member(it, agent)
            keeper.close()
            load = stack.enter_context(Load(agent.home, 25.0))
            _intrude("frames", agent, keeper, rng, 50)  # what is there once, whoever comes, is no growth
            wait(10 if full else 1)
            before, memory = len(load.history), process.memory_info().rss
            took = sorted(task.seconds for task in load.history if task.answers)
            hung_up = _intrude("frames", agent, keeper, rng, frames)
            refused = _intrude("datagrams", agent, keeper, rng, datagrams)
            wait(1)
            growth = (process.memory_info().rss - memory) / (1 << 20)
            beside = sorted(task.seconds for task in load.history[before:] if task.answers)
        alive, log = agent.process.poll() is None, agent.log()
        workers = len(process.children())
    did = f"{frames} malformed frames and {datagrams} malformed datagrams, half of each by a member"
    bad = [line for line in log.splitlines() if "Traceback" in line or "exception" in line.lower() or " ERROR " in line]
    return [
        true(did, "the same agent and worker live", alive and workers == 1),
        none_of(did, "unhandled exceptions and errors in its log", bad),
        told(did, "connections that it hung up on; datagrams of the member that it answered", f"{hung_up}; {refused}"),
        at_most(did, "memory", growth, GROWTH_MIB, "MiB"),
        at_most(
            did, f"p99 of a client's tasks, of {_p99(took) * 1e3:.0f} ms before", _p99(beside) / _p99(took), SLOWER, "x"
        ),
        *tasks(did, [load]),
    ]


def _p99(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]


def _median(ordered: list[float]) -> str:
    return f"{ordered[len(ordered) // 2] * 1e3:.0f} ms"


def slow(stage: Stage, full: bool) -> list[Figure]:
    """P19: a thousand connections that send a byte a second, while a member comes and goes."""
    count = HALF_OPEN if full else 150
    with rig(stage.fresh()) as it, ExitStack() as stack:
        agent = _victim(it)
        keeper = member(it, agent)
        stack.callback(keeper.close)
        alone = asyncio.run(come_and_go(agent, keeper, 50 if full else 10, lambda: False))
        with ThreadPoolExecutor(1) as pool, intruder("slow", address(agent), count) as its_end:
            ended = pool.submit(its_end)
            took = sorted(asyncio.run(come_and_go(agent, keeper, 10_000, ended.done)))
            held = sorted(ended.result())
        alive = agent.process.poll() is None and agent.status()["mesh"]["nodes"]["alive"] >= 1
    did = f"{count} connections that send a byte a second"
    return [
        at_most(did, "the longest that one was held", held[-1], DROPPED_S + LATE_S),
        at_least(did, "of them dropped or refused", len(held), count),
        at_most(did, f"p99 of {len(took)} connects of a member, TLS included", _p99(took), LEGIT_S),
        told(did, "...median; and p99 before there were any", f"{_median(took)}; {_p99(sorted(alone)) * 1e3:.0f} ms"),
        true(did, "the agent lives", alive),
    ]
