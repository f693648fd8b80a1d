"""What is done to a simulated mesh: a list of faults drawn from a seed, each of which can be left out.

So a run that fails can be made smaller: faults are dropped one by one while it still fails.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meshnode.sim.checks import Checks
from meshnode.sim.mesh import Mesh
from meshnode.sim.world import Faults

KINDS = (
    "crash",
    "leave",
    "pause",
    "block",
    "sleep",
    "split",
    "isolate",
    "one-way",
    "loss",
    "disorder",
    "backup",
    "full",
    "clock",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """From `at`, for `lasts_s`, to these nodes; `amount` means what the kind makes of it."""

    kind: str
    at: float
    lasts_s: float
    nodes: tuple[int, ...]
    amount: float = 0.0

    def __str__(self) -> str:
        named = ",".join(map(str, self.nodes))
        return f"{self.at:7.2f} s  {self.kind:9} {self.lasts_s:5.1f} s  amount {self.amount:.2f}  nodes {named}"


def draw(seed: int, nodes: int, until: float, how_many: int, kinds: Sequence[str] = KINDS) -> list[Fault]:
    """So many faults, all over by `until`."""
    rng = random.Random(f"faults {seed}")
    drawn = []
    for _ in range(how_many):
        kind = rng.choice(kinds)
        at = rng.uniform(1.0, until * 0.85)
        lasts_s = min(rng.choice((0.3, 2.0, 8.0, 20.0)) * rng.uniform(0.5, 1.5), until - at)
        several = {"split": nodes // 2, "one-way": 2, "apart": 2, "loss": nodes, "disorder": nodes}.get(kind, 1)
        chosen = tuple(sorted(rng.sample(range(nodes), several)))
        drawn.append(Fault(kind, at, lasts_s, chosen, rng.random()))
    return sorted(drawn, key=lambda fault: fault.at)


class Doing:
    """Does the faults of a list to a mesh."""

    def __init__(self, mesh: Mesh, checks: Checks, faults: list[Fault]) -> None:
        self._mesh = mesh
        self._checks = checks
        self._weather = Weather(mesh.world.faults)
        for fault in faults:
            mesh.world.at(fault.at, lambda fault=fault: self._begin(fault))  # type: ignore[misc]

    def _begin(self, fault: Fault) -> None:
        self._checks.counts[fault.kind] += 1
        end: Callable[[], None] | None = getattr(self, "_" + fault.kind.replace("-", "_"))(fault)
        everyone = range(len(self._mesh.nodes)) if fault.kind in ("split", "loss", "disorder") else fault.nodes
        self._checks.disturbed(*everyone)
        if end is not None:

            def over() -> None:
                end()
                self._checks.disturbed(*everyone)

            self._mesh.world.at(fault.at + fault.lasts_s, over)

    # --- each kind: does it, and returns how it ends ---

    def _crash(self, fault: Fault) -> Callable[[], None] | None:
        node = self._mesh.nodes[fault.nodes[0]]
        if not node.up:
            return None
        node.crash()
        return lambda: None if node.up else node.restart()

    def _leave(self, fault: Fault) -> Callable[[], None] | None:
        node = self._mesh.nodes[fault.nodes[0]]
        if not node.up or node.paused or node.blocked:
            return None
        node.leave()
        return lambda: None if node.up else node.restart()

    def _pause(self, fault: Fault) -> Callable[[], None] | None:
        node = self._mesh.nodes[fault.nodes[0]]
        life = node.life
        if not node.up or node.paused or node.blocked:
            return None
        node.pause()
        return lambda: node.resume(timers_first=fault.amount < 0.5) if node.life == life and node.up else None

    def _block(self, fault: Fault) -> Callable[[], None] | None:
        node = self._mesh.nodes[fault.nodes[0]]
        life = node.life
        if not node.up or node.paused or node.blocked:
            return None
        node.block()
        return lambda: node.unblock() if node.life == life and node.up else None

    def _sleep(self, fault: Fault) -> Callable[[], None] | None:
        node = self._mesh.nodes[fault.nodes[0]]
        life = node.life
        if not node.up or node.paused or node.blocked:
            return None
        node.sleep()
        return lambda: node.rise() if node.life == life and node.up else None

    def _backup(self, fault: Fault) -> Callable[[], None] | None:
        """The home comes back as it was two starts ago."""
        node = self._mesh.nodes[fault.nodes[0]]
        if not node.up:
            return None
        node.crash()
        node.disk.write(max(0, node.disk.gen - 2))
        return lambda: None if node.up else node.restart()

    def _full(self, fault: Fault) -> Callable[[], None] | None:
        """An older home comes back on a full disk: it jumps above its past, which the next start knows nothing of."""
        node = self._mesh.nodes[fault.nodes[0]]
        if not node.up or node.disk.full:
            return None
        node.crash()
        node.disk.write(max(0, node.disk.gen - 2))
        node.restart()
        node.disk.full = True

        def end() -> None:
            node.disk.full = False
            if node.up:
                node.crash()
            node.restart()

        return end

    def _clock(self, fault: Fault) -> Callable[[], None] | None:
        """The wall clock jumps, up to a year either way; nothing may depend on it."""
        node = self._mesh.nodes[fault.nodes[0]]
        node.wall_offset_s += (fault.amount - 0.5) * 2 * 365 * 86400
        return lambda: None

    def _loss(self, fault: Fault) -> Callable[[], None]:
        return self._weather.storm(fault)

    def _disorder(self, fault: Fault) -> Callable[[], None]:
        return self._weather.storm(fault)

    def _split(self, fault: Fault) -> Callable[[], None]:
        return self._weather.wall(fault)

    def _isolate(self, fault: Fault) -> Callable[[], None]:
        return self._weather.wall(fault)

    def _one_way(self, fault: Fault) -> Callable[[], None]:
        return self._weather.wall(fault)


class Weather:
    """What is wrong with the network itself, as several faults at once make it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._always = faults.loss
        self._walls: list[Fault] = []
        self._storms: list[Fault] = []
        faults.cut = self._cut

    def storm(self, fault: Fault) -> Callable[[], None]:
        """Loss or disorder; returns how it ends.

        Several may come together: the worst of those that are on counts, and none when all are over.
        """
        self._storms.append(fault)
        self._set_weather()

        def end() -> None:
            self._storms.remove(fault)
            self._set_weather()

        return end

    def _set_weather(self) -> None:
        faults = self._faults
        worst = {
            kind: max((storm.amount for storm in self._storms if storm.kind == kind), default=0.0)
            for kind in ("loss", "disorder")
        }
        faults.loss = max(self._always, worst["loss"] * 0.5)
        faults.duplicate, faults.late = worst["disorder"] * 0.3, worst["disorder"] * 0.2

    def wall(self, fault: Fault) -> Callable[[], None]:
        """A cut; returns how it ends."""
        self._walls.append(fault)
        return lambda: self._walls.remove(fault)

    def _cut(self, sender: int, receiver: int) -> bool:
        for wall in self._walls:
            if wall.kind == "one-way":
                if (sender, receiver) == wall.nodes:
                    return True
            elif wall.kind == "apart":
                if {sender, receiver} == set(wall.nodes):
                    return True
            elif (sender in wall.nodes) != (receiver in wall.nodes):
                return True
        return False
