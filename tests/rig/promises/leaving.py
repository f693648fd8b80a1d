"""P22: who is revoked is gone for everyone within two seconds, or as soon as who has not heard it can."""

from __future__ import annotations

import shutil
import time

from tests.mesh.history import judge
from tests.mesh.load import Load, task_of
from tests.mesh.rig import wait_for
from tests.rig.promises.figures import Figure, at_most, history, none_of, told
from tests.rig.promises.town import NEWCOMER, SETTLE_S, SUBMITTERS, Stage, Town, wait

DROPPED_S = 2.0
HEALED_S = 5.0
ASKED_S = 0.1
"""What is asked of an agent, and answered, takes so long: a task that was due a moment earlier had its node already."""
FAR = SUBMITTERS[1]


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Revoke a worker under load with everyone there; then one that is cut off together with a submitter."""
    figures = list[Figure]()
    for n in range(3 if full else 1):
        figures += _once(stage.town(), apart=False, seconds=5 if full else 0.5, n=n)
    return [*figures, *_once(stage.town(), apart=True, seconds=10 if full else 0.5, n=9)]


def _once(town: Town, *, apart: bool, seconds: float, n: int) -> list[Figure]:
    founder = town.client(0)
    agent = town.agents[NEWCOMER] = town.net.up(NEWCOMER, founder.ask("invite")["token"])
    town.until_alive(why="the newcomer is alive for all")
    near = [host for host in town.agents if host not in (NEWCOMER, FAR)]
    own = Load(agent.home, 5.0, timeout_s=5.0)
    with town.load(rate=20.0) as loads, own:
        for host in SUBMITTERS:  # each has had work done by it
            town.client(host).infer(*task_of(1), node=agent.id, timeout=30)
        if apart:
            town.net.cut([NEWCOMER, FAR], near)
            wait(seconds)
        began = time.monotonic()
        founder.ask("revoke", node=agent.id, reason="stolen")
        known = {host: _knows(town, host, agent.id) for host in (near if apart else [*near, FAR])}
        wait(seconds)
        healed = time.monotonic()
        if apart:
            town.net.heal()
            known[FAR] = _knows(town, FAR, agent.id)
        wait(max(1.0, seconds / 2))
    town.dismiss(NEWCOMER)
    shutil.rmtree(agent.home)
    where = "cut off with a submitter" if apart else "under load"
    did = f"a worker revoked {where}" + ("" if apart else f", {n + 1}")
    heard = max(at for host, at in known.items() if host != FAR or not apart) - began
    after = {other.id: known[host] + ASKED_S for host, other in town.agents.items()}
    figures = [
        at_most(did, "all that can hear it hold it for gone after", heard, DROPPED_S),
        none_of(did, "of its own tasks done by who had heard it", judge(own.history, refused=after).outside),
        told(did, "tasks that it did, that it submitted", f"{_done(loads, agent.id)}, {own.sent}"),
    ]
    if apart:
        figures.insert(1, at_most(did, "the submitter beside it, after the wire healed", known[FAR] - healed, HEALED_S))
    for host, load in zip(SUBMITTERS, loads, strict=True):
        figures += history(f"{did}: tasks of h{host}", load.history, refused={agent.id: known[host] + ASKED_S})
    return figures


def _done(loads: list[Load], node: str) -> int:
    return sum(load.nodes.get(node, 0) for load in loads)


def _knows(town: Town, host: int, node: str) -> float:
    """When that host holds the node for revoked."""

    def gone() -> float | None:
        rows = {row["id"]: row for row in town.client(host).ask("members")}
        return time.monotonic() if rows[node]["revoked"] else None

    return wait_for(gone, within_s=SETTLE_S, why=f"h{host} knows that it is revoked")
