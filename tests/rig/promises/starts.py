"""START: agents that know the mesh from before, and nobody's address, find each other by multicast alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import meshnode
from tests.rig.net import Net, net
from tests.rig.promises.figures import Figure, at_most, true
from tests.rig.promises.town import HOSTS as TOWN
from tests.rig.promises.town import NEWCOMER, SUBMITTERS, Stage, Town

HOSTS = 12
VIEW_S, READY_S = 2.0, 1.0


def keep(stage: Stage, full: bool) -> list[Figure]:
    """All but one at once, then the last when they are ready; the time is that of the agents' own events."""
    figures: list[Figure] = []
    with ExitStack() as stack, ThreadPoolExecutor(HOSTS) as pool:
        it = stack.enter_context(net(stage.fresh(), [[0]] * (NEWCOMER + 1), seed=stage.seed))
        _members(it, pool)
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
        if not stage.settled:
            for agent in agents[TOWN:]:
                agent.terminate()
            stage.settle(Town(it, dict(enumerate(agents[:TOWN])), stage.seed), stack.pop_all())
    return figures


def _members(it: Net, pool: ThreadPoolExecutor) -> None:
    """A home of one mesh on each host, and no agent that runs but the founder's."""
    founder = it.up(0)
    with meshnode.Client(home=founder.home) as client:
        roles = {host: "submitter" if host in SUBMITTERS else None for host in range(1, HOSTS)}
        tokens = [client.ask("invite", role=role)["token"] for role in roles.values()]
    [*pool.map(it.join, roles, tokens)]
