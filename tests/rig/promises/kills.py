"""P1: no task is lost or wrong when agents die all the time. P29: one that is asked to end loses nothing either."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import psutil

from tests.mesh.load import Load
from tests.mesh.rig import Agent, wait_for
from tests.rig.promises.figures import Figure, at_most, none_of, tasks, told
from tests.rig.promises.town import SETTLE_S, SUBMITTERS, Stage, Town, wait

EVERY_S, AWAY_S = 5.0, 2.0
AWAY = 3
"""So many of eight are away at once, at most."""
ROUNDS, RATE = 2_000, 25.0
"""Runs of some milliseconds; 50 tasks a second of both clients."""
REROUTED_S = 2.5
TIMEOUT_S, OWN_S = 20.0, 90.0
"""Of a task; what is promised of one whose own agent dies is that it is answered when that is back before its deadline,
and on a busy machine an agent takes half a minute to start."""
MEMORY_RISE = 0.1
"""An allocator keeps what it likes: so large a share of what an agent had once it was warm is no rise."""
WARM = 0.2
"""Of the kills; what memory is after them is what it is compared with."""


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Kill a random agent every 5 s; first with the clients' own agents spared, then with them among those."""
    town = stage.town()
    if not full:
        return _killed(town, [town.rng.choice(town.workers), SUBMITTERS[0]], 0.5, "a worker and a client's own")
    others = [host for host in town.agents if host not in SUBMITTERS]
    figures = list[Figure]()
    for hosts, kills, which in ((others, 120, "the clients' own spared"), ([*town.agents], 36, "the clients' own too")):
        figures += _killed(town, _at_random(town.rng, hosts, kills), EVERY_S, which)
    return figures


def _at_random(rng: random.Random, hosts: list[int], kills: int) -> list[int]:
    """Whom; nobody again while it may not be back yet."""
    chosen: list[int] = []
    for _ in range(kills):
        chosen.append(rng.choice([host for host in hosts if host not in chosen[-3:]]))
    return chosen


def _killed(town: Town, victims: list[int], every_s: float, which: str) -> list[Figure]:
    """Kill these in turn, each starts again 2 s later, whoever else dies meanwhile."""
    spared = [host for host in SUBMITTERS if host not in victims]
    killed = f"{len(victims)} agents killed (-9) at random, one every {every_s:g} s"
    did = f"{killed}, started {AWAY_S:g} s later, at most {AWAY} away; {which}"
    town.until_alive()
    memory: list[list[float]] = []
    returning: dict[int, Future[Agent]] = {}
    timeout_s = TIMEOUT_S if len(spared) == len(SUBMITTERS) else OWN_S
    with town.load(ROUNDS, RATE, timeout_s=timeout_s) as loads, ThreadPoolExecutor(len(victims)) as pool:
        began = time.monotonic()
        for number, victim in enumerate(victims):
            wait(began + number * every_s - time.monotonic())
            # Where agents take long to start there would be none left.
            wait_for(partial(_few_away, returning), within_s=SETTLE_S, why="not too many are away")
            if victim in returning:
                returning[victim].result()
            if number in (int(WARM * len(victims)), len(victims) - 1):
                memory.append([_mib(town.agents[host].process.pid) for host in spared])
            town.agents[victim].kill()
            returning[victim] = pool.submit(_later, town, victim)
        [it.result() for it in returning.values()]
        took_s = time.monotonic() - began
        wait(1.0)
    town.until_alive(why="everyone is back")
    figures = [
        told(did, "took", f"{took_s:.0f} s"),
        *tasks(did, loads),
        _rerouted(did, loads, judged=len(spared) == len(SUBMITTERS)),
    ]
    if len(spared) == len(SUBMITTERS):
        rise = max(after / before - 1 for before, after in zip(memory[0], memory[-1], strict=True))
        shown = ", ".join(f"{before:.0f} to {after:.0f}" for before, after in zip(memory[0], memory[-1], strict=True))
        figures.append(
            at_most(did, f"memory of the spared agents rose ({shown} MiB)", rise * 100, MEMORY_RISE * 100, "%")
        )
    return figures


def _few_away(returning: dict[int, Future[Agent]]) -> bool:
    return sum(not it.done() for it in returning.values()) < AWAY


def _later(town: Town, host: int) -> Agent:
    wait(AWAY_S)
    return town.restart(host)


def _rerouted(did: str, loads: list[Load], *, judged: bool) -> Figure:
    """What dying cost the tasks that it hit; a task whose own agent was killed waits for its return, however long."""
    took = sorted(task.seconds for load in loads for task in load.history if task.good and len(task.attempts) > 1)
    if not took:
        return told(did, "tasks sent a second time", "none")
    p99 = took[min(len(took) - 1, int(len(took) * 0.99))]
    what = f"p99 of {len(took)} tasks that were sent again"
    return at_most(did, what, p99, REROUTED_S) if judged else told(did, what, f"{p99:.2f} s")


def _mib(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / (1 << 20)


EXIT_S, KNOWN_S = 5.0, 1.0


def drained(stage: Stage, full: bool) -> list[Figure]:
    """P29: SIGTERM for a worker with tasks inside; it ends what it has, says goodbye, and is gone."""
    town = stage.town()
    exits, known, left = list[float](), list[float](), list[float]()
    codes: list[int] = []
    victims = 6 if full else 1
    did = f"SIGTERM for {victims} workers with tasks inside, one after the other"
    with town.load(60_000, 6.0) as loads:
        for _ in range(victims):
            victim = town.busiest()
            town.mark()
            others = [host for host in town.agents if host != victim]
            said, began = time.time(), time.monotonic()
            codes.append(town.agents[victim].terminate(60.0))
            exits.append(time.monotonic() - began)
            ended = time.time()

            def gone(victim: int = victim, others: list[int] = others) -> bool:
                return all(town.states(host)[victim] == "left" for host in others)

            wait_for(gone, within_s=SETTLE_S, why="all know that it left")
            seen = [e for e in town.seen(others) if e.other == victim]
            for host in others:
                known.append(min(e.at for e in seen if e.host == host and e.event in ("draining", "left")) - said)
                left.append(min(e.at for e in seen if e.host == host and e.event == "left") - ended)
            town.restart(victim)
            town.until_alive(why="it is back")
    return [
        at_most(did, "slowest exit", max(exits), EXIT_S),
        none_of(did, "exit codes but 0", [code for code in codes if code]),
        at_most(did, f"known to all of {len(known)} observers that it ends, after", max(known), KNOWN_S),
        at_most(did, "...and that it is gone, after its exit", max(left), KNOWN_S),
        *tasks(did, loads),
    ]
