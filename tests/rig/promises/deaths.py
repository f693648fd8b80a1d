"""P2: an agent that is killed with work inside is noticed by everyone, and its work is done elsewhere at once."""

from __future__ import annotations

import math
import time

from tests.mesh.rig import wait_for
from tests.rig.promises.figures import Figure, at_most, tasks, told
from tests.rig.promises.town import SETTLE_S, SUBMITTERS, Stage

NOTICED_S, REROUTED_S = 3.0, 0.1
SHARE = 0.99
ROUNDS, RATE = 60_000, 6.0
"""Runs of about a tenth of a second, so that there is something inside when an agent dies."""


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Kill the busiest worker, wait until it is dead for all, start it again, and so on."""
    town, kills = stage.town(), 12 if full else 1
    noticed: list[float] = []
    dead: list[float] = []
    rerouted: list[float] = []
    returned: list[float] = []
    did = f"{kills} killed (-9) under load, one after the other" if full else "an agent killed (-9) under load"
    with town.load(ROUNDS, RATE) as loads:
        for _ in range(kills):
            victim = town.busiest()
            town.mark()
            killed, killed_monotonic = time.time(), time.monotonic()
            town.agents[victim].kill()
            others = [host for host in town.agents if host != victim]

            def is_dead(victim: int = victim, others: list[int] = others) -> bool:
                return all(town.states(host)[victim] == "dead" for host in others)

            wait_for(is_dead, within_s=SETTLE_S, why="the killed agent is dead for all")
            events = [e for e in town.seen(others) if e.other == victim]
            for host in others:
                noticed.append(min(e.at for e in events if e.host == host) - killed)
                dead.append(min(e.at for e in events if e.host == host and e.event == "dead") - killed)
            for task in (task for load in loads for task in list(load.history)):
                inside = task.due < killed_monotonic < task.ended
                if inside and len(task.attempts) > 1 and town.agents[victim].id != task.node:
                    rerouted.append(task.last_sent - killed_monotonic)
            town.restart(victim)
            back = time.time()
            town.until_alive(why="the killed agent is back")
            returned.append(max(e.at for e in town.seen(others) if e.other == victim) - back)
    noticed.sort()
    figures = [
        at_most(
            did, f"noticed by 99 % of {len(noticed)} observers", noticed[math.ceil(SHARE * len(noticed)) - 1], NOTICED_S
        ),
        told(did, "dead for all, median, slowest", f"{sorted(dead)[len(dead) // 2]:.2f}, {max(dead):.2f} s"),
        told(did, "alive for all after the restart was ready", f"{max(returned):.2f} s"),
        *tasks(did, loads),
    ]
    if rerouted:
        figures.insert(1, at_most(did, f"{len(rerouted)} tasks inside sent elsewhere", max(rerouted), REROUTED_S))
    else:
        figures.insert(1, told(did, "tasks inside sent elsewhere", "none was inside"))
    assert set(SUBMITTERS) <= set(town.agents)
    return figures
