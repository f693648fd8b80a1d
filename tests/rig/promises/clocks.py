"""P9: wall clocks that jump, live: no task is lost, nobody is taken for dead, and who is wrong by much is told."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from tests.rig import clock
from tests.rig.clock import Clock
from tests.rig.promises.figures import Figure, none_of, tasks, true
from tests.rig.promises.town import SUBMITTERS, Stage, Town, wait

WORKER, OTHER, SUBMITTER = 1, 2, SUBMITTERS[0]
HOUR, DAY = 3600.0, 86400.0
JUMPS = ("+1 h", HOUR), ("-1 h", -HOUR), ("-1 day", -DAY), ("+1 day", DAY), ("1970", None)
SET = "this machine's clock was set by"


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Move a worker's clock, then a submitter's; while it is wrong another agent restarts and has to be let in."""
    if reason := clock.unavailable():
        return [Figure("nothing", "clocks that move", "-", f"not tried: {reason}", True)]
    town, folder, figures = stage.town(), stage.fresh(), list[Figure]()
    library = clock.build(folder)
    own = {host: Clock(library, folder / f"clock{host}") for host in (WORKER, SUBMITTER)}
    with ThreadPoolExecutor(len(own)) as pool:
        [*pool.map(lambda host: town.restart(host, own[host].env), own)]
    town.until_alive()
    for n, (word, seconds) in enumerate(JUMPS if full else JUMPS[2::2]):
        for host in (WORKER, SUBMITTER) if full else ((WORKER, SUBMITTER)[n % 2],):
            said = _warnings(town, host)
            own[host].move(-time.time() if seconds is None else seconds)
            figures += _jumped(town, host, word, said, full)
            own[host].move(0)
            town.until_alive()
    return figures


def _warnings(town: Town, host: int) -> int:
    return town.agents[host].log().count(SET)


def _jumped(town: Town, host: int, word: str, said: int, full: bool) -> list[Figure]:
    """What happens while a clock is wrong: 2 s of work, a restart of another agent, and work again."""
    did = f"the clock of h{host} ({'runs tasks' if host == WORKER else 'sends tasks'}) at {word}"
    town.mark()
    with town.load(hosts=[SUBMITTER]) as loads:
        wait(10 if full else 0.5)
        town.restart(OTHER)
        wait(5 if full else 0.5)
    town.until_alive()
    (row,) = [row for row in town.client(host).ask("doctor") if row["check"] == "clock"]
    return [
        none_of(did, "false deaths", town.deaths()),
        *tasks(did, loads),
        true(did, "a warning with both clocks, in its log", _warnings(town, host) > said),
        true(did, "... and by its doctor", row["ok"] is False and "this machine" in row["fix"], str(row)),
    ]
