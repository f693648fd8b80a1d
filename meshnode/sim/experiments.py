"""Measurements of the failure detector in the simulator: what the figures in protocols/membership.md come from.

Each returns plain numbers; seconds are simulated. The same seed gives the same numbers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from meshnode.config import LAN
from meshnode.membership.entropy import Told
from meshnode.membership.events import Advertised, Merged, Received
from meshnode.membership.rules import LIFEGUARD, OURS, SWIM, Rules
from meshnode.membership.updates import Ping
from meshnode.sim.mesh import Change, Mesh
from meshnode.sim.world import Faults, World

RULES = {"ours": OURS, "lifeguard": LIFEGUARD, "swim": SWIM}
OWN_RULES = (
    "small_faster",
    "repeat_ping",
    "tell_suspect",
    "feedback",
    "own_verdict",
    "deaf",
    "lag",
    "first_hand",
    "stream_ping",
)
GRID_NODES, GRID_SECONDS = 128, 120.0
GRID = [(c, d, i) for c in (4, 8, 16, 32) for d in (2.048, 8.192, 16.384, 32.768) for i in (0.004, 0.064, 4.096)]
"""Lifeguard's experiment: so many members blocked, for so long, with such gaps between."""


def calm(n: int, seed: int, *, rules: Rules = OURS, faults: Faults | None = None, streams: bool = True) -> Mesh:
    """A mesh whose nodes all know each other."""
    mesh = Mesh(World(seed, faults=faults or Faults()), LAN.membership, rules=rules, streams=streams)
    mesh.keep_changes = False
    mesh.grow(n)
    return mesh


@dataclass(frozen=True, slots=True)
class Crash:
    """Seconds from a crash to the first suspicion, the first verdict, the last node's; and all nodes' verdicts."""

    suspected: float
    dead: float
    agreed: float
    known: tuple[float, ...]


def crash(n: int, seed: int, *, rules: Rules = OURS, faults: Faults | None = None) -> Crash:
    """One node of n loses its power."""
    mesh = calm(n, seed, rules=rules, faults=faults)
    mesh.world.run(3.0)
    began, victim = mesh.world.now, mesh.nodes[seed % n]
    suspected: list[float] = []
    dead: dict[int, float] = {}

    def changed(change: Change) -> None:
        if change.subject == victim.index and change.state == "suspect":
            suspected.append(change.at - began)
        if change.subject == victim.index and change.state == "dead":
            dead.setdefault(change.observer, change.at - began)

    mesh.on_change = changed
    victim.crash()
    mesh.world.run(began + 120.0, lambda: len(dead) == n - 1)
    known = sorted(dead.values())
    never = float("inf")
    return Crash(
        min(suspected, default=never),
        min(known, default=never),
        known[-1] if len(known) == n - 1 else never,
        tuple(known),
    )


def spread(n: int, seed: int, *, rules: Rules = OURS, loss: float = 0.0) -> tuple[float, float]:
    """Seconds until 99 % and all of n nodes know of one node's change; infinity when it takes over a minute."""
    mesh = calm(n, seed, rules=rules, faults=Faults(loss=loss))
    mesh.world.run(2.0)
    source, began = mesh.nodes[seed % n], mesh.world.now
    version, me = 7, source.core.me
    knew: list[float] = []
    ignorant = {node.index for node in mesh.nodes}

    def look() -> None:
        for index in sorted(ignorant):
            row = mesh.nodes[index].core.roster.get(me)
            if row is not None and row.advert == version:
                ignorant.discard(index)
                knew.append(mesh.world.now - began)
        if ignorant:
            mesh.world.at(mesh.world.now + 0.01, look)

    source.feed(Advertised(version))
    look()
    mesh.world.run(began + 60.0, lambda: not ignorant)
    never = float("inf")
    most = -(-n * 99 // 100)
    return (knew[most - 1] if len(knew) >= most else never, knew[-1] if not ignorant else never)


def idle(n: int, seed: int, *, rules: Rules = OURS, seconds: float = 60.0, loss: float = 0.0) -> float:
    """Bytes a second that each node sends when nothing happens, datagrams and streams, headers included."""
    mesh = calm(n, seed, rules=rules, faults=Faults(loss=loss))
    mesh.world.run(seconds)
    return (mesh.world.sent_bytes + mesh.world.stream_bytes) / n / seconds


def join(n: int, seed: int) -> tuple[float, float]:
    """Seconds until a newcomer with one seed knows all of n nodes, and until they all know it."""
    mesh = calm(n, seed)
    mesh.world.run(3.0)
    began = mesh.world.now
    (new,) = mesh.grow(1, knowing=False)
    new.sync(mesh.nodes[0])
    mesh.world.run(began + 60.0, lambda: len(new.core.roster) == n + 1)
    view_s = mesh.world.now - began
    strangers = [node for node in mesh.nodes if node is not new]

    def known() -> bool:
        while strangers and strangers[-1].core.roster.get(new.core.me) is not None:
            strangers.pop()
        return not strangers

    mesh.world.run(began + 60.0, known)
    return view_s, mesh.world.now - began


def heal(n: int, seed: int, *, split_s: float = 60.0) -> float:
    """Seconds from the end of a split in halves until everyone holds everyone alive again."""
    mesh = calm(n, seed)
    mesh.world.run(3.0)
    half = n // 2
    mesh.world.faults.cut = lambda a, b: (a < half) != (b < half)
    mesh.world.run(3.0 + split_s)
    mesh.world.faults.cut = None
    began = mesh.world.now
    left = list(mesh.nodes)

    def whole() -> bool:
        while left and all(row.state == "alive" for row in left[-1].core.roster):
            left.pop()
        return not left

    healed: list[float] = []

    def look() -> None:
        if whole():
            healed.append(mesh.world.now - began)
        else:
            mesh.world.at(mesh.world.now + 0.1, look)

    look()
    mesh.world.run(began + 120.0, lambda: bool(healed))
    return healed[0] if healed else float("inf")


def wake(n: int, seed: int, *, slept_s: float = 60.0) -> tuple[float, int]:
    """Seconds from a node's waking until all hold it alive again; and whom it wrongly accused meanwhile."""
    mesh = calm(n, seed)
    mesh.world.run(3.0)
    sleeper = mesh.nodes[0]
    sleeper.sleep()
    mesh.world.run(3.0 + slept_s)
    accused: list[Change] = []
    mesh.on_change = lambda c: accused.append(c) if c.observer == 0 and c.state in ("suspect", "dead") else None
    began = mesh.world.now
    sleeper.rise()
    others = list(mesh.nodes[1:])

    def back() -> bool:
        while others and (row := others[-1].core.roster.get(sleeper.core.me)) is not None and row.state == "alive":
            others.pop()
        return not others

    mesh.world.run(began + 60.0, back)
    took = mesh.world.now - began
    mesh.world.run(began + 30.0)
    return took, len(accused)


@dataclass(slots=True)
class Accused:
    """Verdicts and suspicions about nodes that were there, and those by nodes that were well themselves."""

    dead: int = 0
    dead_by_well: int = 0
    suspected_by_well: int = 0
    bytes_per_s: float = 0.0


def lifeguard_cell(
    cell: tuple[int, float, float], seed: int, *, rules: Rules, streams: bool, mode: str = "io"
) -> Accused:
    """One cell of Lifeguard's experiment: its anomalies are of I/O (`io`), or the process stalls (`stall`, and
    `stall-timers` when its timers ring before it reads what came)."""
    blocked, lasts_s, gap_s = cell
    mesh = calm(GRID_NODES, seed, rules=rules, streams=streams)
    world, ill = mesh.world, range(blocked)
    found = Accused()

    def changed(change: Change) -> None:
        if change.subject in ill:
            return
        found.dead += change.state == "dead"
        found.dead_by_well += change.state == "dead" and change.observer not in ill
        found.suspected_by_well += change.state == "suspect" and change.observer not in ill

    def begin() -> None:
        for index in ill:
            mesh.nodes[index].block() if mode == "io" else mesh.nodes[index].pause()
        world.at(world.now + lasts_s, end)

    def end() -> None:
        for index in ill:
            node = mesh.nodes[index]
            node.unblock() if mode == "io" else node.resume(timers_first=mode == "stall-timers")
        world.at(world.now + gap_s, begin)

    mesh.on_change = changed
    world.at(3.0, begin)
    world.run(GRID_SECONDS)
    found.bytes_per_s = world.sent_bytes / GRID_NODES / GRID_SECONDS
    return found


def lossy(n: int, seed: int, loss: float, *, rules: Rules, seconds: float = 330.0, streams: bool = True) -> Accused:
    """False verdicts in a mesh in which nothing happens but loss."""
    mesh = calm(n, seed, rules=rules, faults=Faults(loss=loss), streams=streams)
    found = Accused()

    def changed(change: Change) -> None:
        found.dead += change.state == "dead"
        found.suspected_by_well += change.state == "suspect"

    mesh.on_change = changed
    mesh.world.run(seconds)
    found.dead_by_well = found.dead
    found.bytes_per_s = mesh.world.sent_bytes / n / seconds
    return found


def restarts(n: int, seed: int, times: int) -> tuple[int, int]:
    """(ghosts, rows) after so many restarts of random nodes, one every 50 ms: rows that are not alive, rows at most."""
    mesh = calm(n, seed)
    world, rng = mesh.world, mesh.world.rng
    most = 0
    for _ in range(times):
        node = mesh.nodes[rng.randrange(n)]
        if node.up:
            node.crash()
            node.restart()
        world.run(world.now + 0.05)
    world.run(world.now + 60.0)
    for node in mesh.nodes:
        most = max(most, len(node.core.roster))
    ghosts = sum(row.state != "alive" for node in mesh.nodes for row in node.core.roster)
    return ghosts, most


def decision_us(n: int, packets: int = 20_000) -> float:
    """Microseconds of this machine that the core takes for a datagram in a mesh of n, pings and acks with news."""
    mesh = calm(n, 1)
    node, other = mesh.nodes[0], mesh.nodes[1]
    pings = [Received(other.core.me, Ping(seq)) for seq in range(packets)]
    now = 10.0
    node.core.handle(now, Merged((Told(0.0, other.core.oneself.word),)))
    began = time.perf_counter()
    for ping in pings:
        now += 1e-6
        node.core.handle(now, ping)
    return (time.perf_counter() - began) / packets * 1e6


def without(name: str) -> Rules:
    """Our rules with one of them switched off."""
    return replace(OURS, **{name: False})
