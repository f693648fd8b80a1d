"""Networks that lie, for longer: splits again and again, pairs that hear each other one way, a link that flaps.

What counts is for how long anybody holds a running node dead although something passes between the two, be it through
others. Each function returns plain numbers; seconds are simulated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshnode.membership.rules import OURS, Rules
from meshnode.sim.experiments import calm
from meshnode.sim.mesh import Change, Mesh


@dataclass(slots=True)
class Found:
    """What was said of nodes that ran all the time, by everyone."""

    deaths: int = 0
    suspicions: int = 0
    longest_s: float = 0.0
    """The longest that anyone held another dead while something passed between the two."""


@dataclass(slots=True)
class Wronged:
    """Who is held dead while the network is whole, and since when: by (observer, subject)."""

    mesh: Mesh
    found: Found = field(default_factory=Found)
    whole: bool = True
    _since: dict[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mesh.on_change = self.changed

    def changed(self, change: Change) -> None:
        """Somebody believes something else."""
        pair, now = (change.observer, change.subject), self.mesh.world.now
        if change.state == "dead":
            self.found.deaths += 1
            self._since[pair] = now
        else:
            self.found.suspicions += change.state == "suspect"
            self._ends(pair, now)

    def turn(self, *, whole: bool) -> None:
        """The network becomes whole, or is so no more."""
        now = self.mesh.world.now
        for pair in list(self._since):
            if whole:
                self._since[pair] = now
            elif self.whole:
                self._note(now - self._since[pair])
        self.whole = whole

    def end(self) -> Found:
        """All of it, with what still lasts."""
        self.turn(whole=False)
        return self.found

    def _ends(self, pair: tuple[int, int], now: float) -> None:
        since = self._since.pop(pair, None)
        if since is not None and self.whole:
            self._note(now - since)

    def _note(self, seconds: float) -> None:
        self.found.longest_s = max(self.found.longest_s, seconds)


def splits(n: int, seed: int, *, times: int = 8, rules: Rules = OURS) -> tuple[Found, float]:
    """Splits at random into two or three parts, of 5 to 40 s with 15 to 30 s between; and the slowest healing."""
    mesh = calm(n, seed, rules=rules)
    world, wronged = mesh.world, Wronged(mesh)
    slowest = 0.0
    world.run(3.0)
    for _ in range(times):
        parts = world.rng.choice((2, 3))
        part = [world.rng.randrange(parts) for _ in range(n)]
        world.faults.cut = lambda a, b, part=part: part[a] != part[b]
        wronged.turn(whole=False)
        world.run(world.now + world.rng.uniform(5.0, 40.0))
        world.faults.cut = None
        wronged.turn(whole=True)
        healed = world.now
        slowest = max(slowest, _until_one_view(mesh, healed + 30.0) - healed)
        world.run(max(world.now, healed + world.rng.uniform(15.0, 30.0)))
    return wronged.end(), slowest


def one_way(n: int, seed: int, *, share: float = 0.2, seconds: float = 300.0, rules: Rules = OURS) -> Found:
    """For so long a share of all directed pairs hears nothing, drawn anew each minute; all reach all through others."""
    mesh = calm(n, seed, rules=rules)
    world, wronged = mesh.world, Wronged(mesh)
    world.run(3.0)
    for _ in range(int(seconds / 60.0)):
        deaf = {(a, b) for a in range(n) for b in range(n) if a != b and world.rng.random() < share}
        world.faults.cut = lambda a, b, deaf=deaf: (a, b) in deaf
        world.run(world.now + 60.0)
    return wronged.end()


def flapping(n: int, seed: int, *, seconds: float = 300.0, rules: Rules = OURS) -> Found:
    """One node's network goes down and up, each for 0.3 to 3 s; it is wronged when it is held dead while up."""
    mesh = calm(n, seed, rules=rules)
    world, wronged = mesh.world, Wronged(mesh)
    world.run(3.0)
    until = world.now + seconds
    while world.now < until:
        world.faults.cut = lambda a, b: 0 in (a, b)
        wronged.turn(whole=False)
        world.run(world.now + world.rng.uniform(0.3, 3.0))
        world.faults.cut = None
        wronged.turn(whole=True)
        world.run(world.now + world.rng.uniform(0.3, 3.0))
    world.run(world.now + 30.0)
    return wronged.end()


def returns(n: int, seed: int, *, down_s: float, up_s: float, seconds: float = 300.0) -> tuple[Found, float, float]:
    """One node crashes and returns again and again: what is said of the others, and what it costs, in bytes a second a
    node and in bytes a node and turn, all that goes on in a calm included."""
    mesh = calm(n, seed)
    world, wronged = mesh.world, Wronged(mesh)
    world.run(3.0)
    began, before, turns = world.now, world.sent_bytes + world.stream_bytes, 0

    def changed(change: Change) -> None:
        if change.subject != 0:
            wronged.changed(change)

    mesh.on_change = changed
    while world.now < began + seconds:
        mesh.nodes[0].crash()
        world.run(world.now + down_s)
        mesh.nodes[0].restart()
        world.run(world.now + up_s)
        turns += 1
    nbytes = (world.sent_bytes + world.stream_bytes - before) / n
    return wronged.end(), nbytes / (world.now - began), nbytes / turns


def found_by_others(n: int, seed: int, *, down_s: float = 30.0) -> float:
    """Seconds until all hold a node alive that restarts, dead for all, without its file of peers and where it hears of
    nobody: one of the others must try the dead."""
    mesh = calm(n, seed)
    world, node = mesh.world, mesh.nodes[0]
    world.run(3.0)
    node.crash()
    world.run(world.now + down_s)
    node.restart([])
    return _until_one_view(mesh, world.now + 600.0) - (3.0 + down_s)


def _until_one_view(mesh: Mesh, until: float) -> float:
    """When everyone holds everyone alive, looked at each 100 ms."""
    left = list(mesh.nodes)
    while mesh.world.now < until:
        while left and all(row.state == "alive" for row in left[-1].core.roster):
            left.pop()
        if not left:
            return mesh.world.now
        mesh.world.run(mesh.world.now + 0.1)
    return float("inf")
