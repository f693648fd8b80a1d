"""START: agents that know the mesh from before, and nobody's address, find each other by multicast alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from tests.rig.net import net
from tests.rig.promises.figures import Figure, at_most, true
from tests.rig.promises.town import Stage, Town

HOSTS = 12
VIEW_S, READY_S = 2.0, 1.0


def keep(stage: Stage, full: bool) -> list[Figure]:
    """All but one at once, then the last when they are ready; the time is that of the agents' own events."""
    figures: list[Figure] = []
    with net(stage.fresh(), [[0]] * HOSTS) as it, ThreadPoolExecutor(HOSTS) as pool:
        founder = it.up(0)
        tokens = [founder.command("invite").stdout.strip() for _ in range(1, HOSTS)]
        [*pool.map(lambda host: it.join(host, tokens[host - 1]), range(1, HOSTS))]
        for n in range(5 if full else 1):
            did = f"{HOSTS} agents started cold" + (f", {n + 1}" if full else "")
            it.rig.stop()
            it.rig.agents.clear()
            for home in it.rig.folder.iterdir():
                (home / "peers").unlink(missing_ok=True)
            agents = [*pool.map(it.up, range(HOSTS - 1))]
            begun = time.time()
            agents.append(it.up(HOSTS - 1))
            ready = time.time()
            town = Town(it, dict(enumerate(agents)))
            try:
                town.until_alive()
                town.forget_mark()
                complete = max(e.at for e in town.seen() if e.event in ("found", "alive", "back"))
                ways = {row["found_by"] for host in town.agents for row in town.client(host).status()["nodes"]}
            finally:
                town.close()
            figures += [
                at_most(did, "everyone sees everyone, after the last start", complete - begun, VIEW_S),
                at_most(did, "... after the last was ready", complete - ready, READY_S),
                true(did, "found by multicast", "mdns" in ways, str(sorted(ways))),
            ]
    return figures
