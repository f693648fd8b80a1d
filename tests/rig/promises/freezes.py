"""P8: an agent that stands still, with tasks inside, costs time and no task, and is there again by itself."""

from __future__ import annotations

import signal
import time

from tests.rig.promises.figures import Figure, at_most, none_of, tasks, true
from tests.rig.promises.town import Stage, wait

ELSEWHERE_S, BACK_S = 3.0, 3.0
ROUNDS, RATE = 60_000, 6.0


def keep(stage: Stage, full: bool) -> list[Figure]:
    """SIGSTOP the busiest worker for a while, then SIGCONT; for several whiles."""
    town, figures = stage.town(), list[Figure]()
    for seconds in (0.5, 3, 30, 120) if full else (0.5, 3):
        did = f"an agent frozen for {seconds:g} s with tasks inside"
        town.until_alive()
        town.mark()
        with town.load(ROUNDS, RATE) as loads:
            host = town.busiest()
            agent = town.agents[host]
            frozen = time.monotonic()
            agent.process.send_signal(signal.SIGSTOP)
            try:
                wait(seconds)
            finally:
                agent.process.send_signal(signal.SIGCONT)
            woken, woken_monotonic = time.time(), time.monotonic()
            town.until_alive(why="the frozen agent is back")
            wait(1.0)
        others = [other for other in town.agents if other != host]
        back = [e.at - woken for e in town.seen(others) if e.other == host and e.at > woken]
        while_frozen = [
            task for load in loads for task in load.history if task.ended > frozen and task.due < woken_monotonic
        ]
        elsewhere = max((task.last_sent - max(frozen, task.due) for task in while_frozen), default=0.0)
        figures += [
            at_most(did, f"sent to who answered, slowest of {len(while_frozen)} tasks", elsewhere, ELSEWHERE_S),
            at_most(did, "back for all after it went on", max(back, default=0.0), BACK_S),
            true(did, "the same process", agent.process.poll() is None),
            none_of(did, "false deaths of others", town.deaths(host)),
            *tasks(did, loads),
        ]
    return figures
