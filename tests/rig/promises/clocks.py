"""P9: wall clocks that jump, live: no task is lost, nobody is taken for dead, and who is wrong by much is told."""

from __future__ import annotations

import time

from tests.rig import clock
from tests.rig.clock import Clock
from tests.rig.net import net
from tests.rig.promises.figures import Figure, none_of, tasks, true
from tests.rig.promises.town import SUBMITTERS, Stage, Town, found, wait

HOSTS = [0, 1, 2, SUBMITTERS[0]]
HOUR, DAY = 3600.0, 86400.0
JUMPS = ("+1 h", HOUR), ("-1 h", -HOUR), ("-1 day", -DAY), ("+1 day", DAY), ("1970", None)
SET = "this machine's clock was set by"


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Move a worker's clock, then a submitter's; while it is wrong another agent restarts and has to be let in."""
    if reason := clock.unavailable():
        return [Figure("nothing", "clocks that move", "-", f"not tried: {reason}", True)]
    folder, figures = stage.fresh(), list[Figure]()
    library = clock.build(folder)
    own = {host: Clock(library, folder / f"clock{host}") for host in HOSTS}
    with net(folder / "net", [[0]] * (max(HOSTS) + 1)) as it:
        town = found(it, HOSTS, env=lambda host: own[host].env)
        try:
            for n, (word, seconds) in enumerate(JUMPS if full else JUMPS[::2]):
                for host in (1, SUBMITTERS[0]) if full else ((1, SUBMITTERS[0])[n % 2],):
                    said = _warnings(town, host)
                    own[host].move(-time.time() if seconds is None else seconds)
                    figures += _jumped(town, host, word, own[2], said, full)
                    own[host].move(0)
                    town.until_alive()
        finally:
            town.close()
    return figures


def _warnings(town: Town, host: int) -> int:
    return town.agents[host].log().count(SET)


def _jumped(town: Town, host: int, word: str, other: Clock, said: int, full: bool) -> list[Figure]:
    """What happens while a clock is wrong: 2 s of work, a restart of another agent, and work again."""
    did = f"the clock of h{host} ({'runs tasks' if host == 1 else 'sends tasks'}) at {word}"
    town.mark()
    with town.load(hosts=SUBMITTERS[:1]) as loads:
        wait(10 if full else 0.5)
        town.agents[2].terminate()
        town.restart(2, other.env)
        wait(5 if full else 0.5)
    town.until_alive()
    (row,) = [row for row in town.client(host).ask("doctor") if row["check"] == "clock"]
    return [
        none_of(did, "false deaths", town.deaths()),
        *tasks(did, loads),
        true(did, "a warning with both clocks, in its log", _warnings(town, host) > said),
        true(did, "... and by its doctor", row["ok"] is False and "other nodes" in row["detail"], row["detail"]),
    ]
