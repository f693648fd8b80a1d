"""P3, P4, P6, P7, NARROW: what wires may do to a mesh without costing it a member or a task."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import psutil

from meshnode.config import Links
from tests.mesh.rig import wait_for
from tests.rig.promises.figures import Figure, at_least, at_most, none_of, tasks, told, true
from tests.rig.promises.town import NEWCOMER, SETTLE_S, SUBMITTERS, Stage, Town, busy, wait
from tests.rig.wires import ANY


def _refuted(town: Town, did: str) -> list[Figure]:
    """Nobody was declared dead, and whoever was doubted is not doubted any more."""
    doubts = sum(e.event == "suspect" for e in town.seen())
    return [
        none_of(did, "false deaths", town.deaths()),
        true(did, f"all of {doubts} suspicions refuted", town.all_alive()),
    ]


def loss(stage: Stage, full: bool) -> list[Figure]:
    """P3: 5 % loss, 20±10 ms, duplicates and disorder on every wire, processors busy; then 30 % loss."""
    town, figures = stage.town(), list[Figure]()
    for share, delay, seconds in ((0.05, 0.02, 600 if full else 3), (0.3, 0.005, 60 if full else 3)):
        did = f"{seconds} s of {share:.0%} loss, {delay * 1000:g} ms, 5 % twice, 5 % early; busy processors"
        town.mark()
        with busy(), town.load() as loads:
            town.net.set(ANY, ANY, loss=share, delay=delay, jitter=delay / 2, duplicate=0.05, reorder=0.05)
            wait(seconds)
            town.net.heal()
        wait_for(town.all_alive, within_s=SETTLE_S, why="suspicions are refuted")
        figures += [*_refuted(town, did), *tasks(did, loads)]
    return figures


ROUNDS = 20_000
"""Runs of some tens of milliseconds: more than one worker is needed, so that the one behind the bad wire has some."""


def one_way(stage: Stage, full: bool) -> list[Figure]:
    """P4: from a submitter to the worker it uses most a third, then nothing arrives; the other way everything does."""
    town, seconds, figures = stage.town(), 60 if full else 2, list[Figure]()
    a = SUBMITTERS[0]
    for word, policy in (("30 % loss", {"loss": 0.3}), ("nothing passes", {"cut": True})):
        did = f"{seconds} s of {word}, one way between two"
        town.mark()
        with town.load(ROUNDS) as loads:
            wait(1.0)
            used = loads[0].nodes
            b = max(town.workers, key=lambda host: used.get(town.agents[host].id, 0))
            began = time.monotonic()
            town.net.set(a, b, **policy)
            wait(seconds)
            town.net.heal()
        there = [t for t in loads[0].history if t.node == town.agents[b].id and t.due > began]
        changes = Counter((e.host, e.other) for e in town.seen() if e.event in ("suspect", "dead", "alive", "back"))
        most = max(changes.values(), default=0)
        figures += [
            none_of(did, "false deaths", town.deaths()),
            at_most(did, "changes of state that one saw of another", most, max(1, seconds // 60), ""),
            told(did, "tasks over that wire in the second before", str(used.get(town.agents[b].id, 0))),
            told(did, "and since; sent elsewhere a second time", f"{len(there)}; {loads[0].rerouted}"),
            *tasks(did, loads),
        ]
        town.until_alive()
    return figures


FLAPPING_CPU, DIALS_A_MINUTE = 0.2, 60.0
"""Shares of a core; connections begun a minute between the flapping host and each other one, tries in vain included."""


def flapping(stage: Stage, full: bool) -> list[Figure]:
    """P6: a worker's link goes down and up every 0.3 to 3 s, while its own client and another's have tasks."""
    town, seconds = stage.town(), 300 if full else 5
    host = town.workers[-1]
    did = f"{seconds} s of a link that is up or down for 0.3 to 3 s"
    agent = psutil.Process(town.agents[host].process.pid)
    with town.load(hosts=(SUBMITTERS[0], host)) as loads:
        used, dials, began, flaps = sum(agent.cpu_times()[:2]), town.net.dials(), time.monotonic(), 0
        while time.monotonic() < began + seconds:
            for state in ("down", "up"):
                town.net.ip(host, "link", "set", "eth0", state)
                if state == "up":
                    # A link that goes down takes its routes and global IPv6 addresses with it; a person's system has
                    # something that puts them back.
                    town.net.ip(host, "route", "replace", "default", "dev", "eth0")
                flaps += 1
                wait(town.rng.uniform(0.3, 3.0))
        minutes = (time.monotonic() - began) / 60
        cpu = (sum(agent.cpu_times()[:2]) - used) / (minutes * 60)
        dialled = (town.net.dials() - dials) / minutes / (len(town.agents) - 1)
    town.net.ip(host, "route", "replace", "default", "dev", "eth0")
    began = time.monotonic()
    town.until_alive(why="the flapping host is back")
    return [
        at_most(did, f"connections begun a minute and other host ({flaps} changes)", dialled, DIALS_A_MINUTE, ""),
        at_most(did, "of a core for its agent, its own client's tasks included", cpu * 100, FLAPPING_CPU * 100, "%"),
        none_of(did, "false deaths of others", [d for d in town.deaths(host) if f"for h{host}:" not in d]),
        told(did, "alive for all after the last change", f"{time.monotonic() - began:.2f} s"),
        *tasks(did, loads),
    ]


RATE_BITS, UP_TO_S = 20e6, 0.2


def narrow(stage: Stage, full: bool) -> list[Figure]:
    """NARROW: 20 Mb/s, 0 to 200 ms each way and disorder around a worker; a large tensor beside tasks.

    With Reno, whatever this machine uses: without any agent 8.4 MB take 5 s over this wire with it, 15 s with CUBIC and
    50 to more than 60 s with BBR, which takes the disorder for loss.
    """
    town, seconds = stage.town(), 60 if full else 2
    host = town.workers[-1]
    for pair in ((ANY, host), (host, ANY)):
        town.net.set(*pair, rate=RATE_BITS, delay=UP_TO_S / 2, jitter=UP_TO_S / 2, reorder=0.05)
    was = town.net.congestion("reno")
    town.restart(host)
    town.until_alive(why="the worker is back, and its connections know the wire")
    town.net.congestion(was)
    node = town.agents[host].id
    tensor = np.arange(2**21 if full else 2**17, dtype=np.float32).reshape(1, -1)
    did = f"{seconds} s of {RATE_BITS / 1e6:g} Mb/s, 0 to {UP_TO_S * 1000:g} ms, 5 % early, to and from a worker"
    town.mark()
    client = town.client(SUBMITTERS[0])
    with town.load() as loads:
        began = time.monotonic()
        result = client.infer("echo", {"x": tensor}, node=node, timeout=120)
        took_s = time.monotonic() - began
        wait(seconds)
        town.net.heal()
    bound_s = 2 * tensor.nbytes * 8 / RATE_BITS
    there = sum(load.nodes.get(node, 0) for load in loads)
    figures = [
        true(did, f"{tensor.nbytes / 1e6:.1f} MB come back whole", bool(np.array_equal(result["y"], tensor))),
        told(did, "how long that took, of the wire's own time", f"{took_s:.1f} s of {bound_s:.1f}"),
        told(did, "small tasks that it was given all the same", f"{there} of {sum(load.sent for load in loads)}"),
        *_refuted(town, did),
        *tasks(did, loads),
    ]
    town.until_alive()
    return figures


ONE_WAY_S, JITTER_S = 0.3, 0.1
WINDOW_SHARE = 0.5
"""Of what one window a round trip gives; the rest is the connection's own start and the tail of the jitter."""


def latency(stage: Stage, full: bool) -> list[Figure]:
    """P7: 300±100 ms each way between all; an agent joins, runs tasks and gets a large tensor through."""
    town, seconds = stage.town(), 90 if full else 2
    tensor = np.arange(2**20 if full else 2**13, dtype=np.float32).reshape(1, -1)
    did = f"{ONE_WAY_S * 1000:g}±{JITTER_S * 1000:g} ms each way between all"
    token = town.client(0).ask("invite")["token"]
    town.net.set(ANY, ANY, delay=ONE_WAY_S, jitter=JITTER_S)
    began = time.monotonic()
    town.agents[NEWCOMER] = newcomer = town.net.up(NEWCOMER, token)
    joined_s = time.monotonic() - began
    town.until_alive(why="the newcomer is alive for all")
    seen_s = time.monotonic() - began
    town.mark()
    client = town.client(SUBMITTERS[0])
    if full:  # what the newcomer fetches first is not in the rate
        client.infer("echo", {"x": tensor[:, :4]}, node=newcomer.id, timeout=60)
    began = time.monotonic()
    result = client.infer("echo", {"x": tensor}, node=newcomer.id, timeout=120)
    there_and_back_s = time.monotonic() - began
    with town.load() as loads:
        wait(seconds)
    windows = tensor.nbytes / Links().stream_credit_bytes
    bound_s = 2 * windows * 2 * ONE_WAY_S
    rate = f"rate of {tensor.nbytes / 1e6:.1f} MB there and back, of one window a round trip"
    figures = [
        told(did, "a newcomer is in, and alive for all, after", f"{joined_s:.1f}, {seen_s:.1f} s"),
        true(did, "a tensor comes back whole", bool(np.array_equal(result["y"], tensor))),
        # A single window is over before the connection has found its own.
        at_least(did, rate, bound_s / there_and_back_s * 100, WINDOW_SHARE * 100, "%")
        if full
        else told(did, rate, f"{bound_s / there_and_back_s:.0%}"),
        *_refuted(town, did),
        *tasks(did, loads),
    ]
    town.net.heal()
    town.dismiss(NEWCOMER)
    return figures
