"""The situations in which policies are compared: who works how fast, what arrives when, and what goes wrong.

Load is a share of what all workers together can do. A service takes `BASE_S` at speed 1 on the mean; sizes are
log-normal. The names A to H are those of the published table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

BASE_S = 0.2
WARM_UP_S = 20.0
TROUBLE_S = 25.0
"""When something goes wrong, where it does."""
LOAD_S = 2.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One situation. `target`: the p99 that is promised, as a multiple of the bound's.

    Attributes:
        spread: speed of the fastest worker over that of the slowest; log-uniform between.
        slowed: so many of the fastest go ten times slower for 15 s.
        killed: so many, spread over all speeds, stop for good; `silent`: without a word.
        slow_links: every second worker hangs on 20 Mb/s, the others on 1 Gb/s, and half the tasks carry 600 KB.
        bursts: 125 % for one second in five, with `load` as the mean.
        overload: this load instead for ten seconds.
        cold: only the first worker has the model in memory; elsewhere loading takes `LOAD_S`.
        speed: of the slowest.
        window: what counts: tasks that began in these seconds; all after warming up when it is empty.
    """

    name: str
    load: float
    spread: float = 20.0
    workers: int = 20
    submitters: int = 20
    slowed: int = 0
    killed: int = 0
    silent: bool = False
    slow_links: bool = False
    bursts: bool = False
    overload: float = 0.0
    cold: bool = False
    speed: float = 1.0
    window: tuple[float, float] = (WARM_UP_S, float("inf"))
    target: float = 2.0

    def speeds(self) -> list[float]:
        """Of all workers."""
        return [self.speed * self.spread ** (i / (self.workers - 1)) for i in range(self.workers)]

    def pace(self, index: int) -> Callable[[float], float]:
        """What a worker's speed is multiplied with at a moment."""
        if index >= self.workers - self.slowed:
            return lambda now: 0.1 if TROUBLE_S <= now < TROUBLE_S + 15.0 else 1.0
        return lambda now: 1.0

    def bytes_s(self, index: int) -> float:
        """What the worker's link carries."""
        return 2.5e6 if self.slow_links and index % 2 else 125e6

    def load_at(self, now: float) -> float:
        """Of all that can be done."""
        if self.overload and TROUBLE_S <= now < TROUBLE_S + 10.0:
            return self.overload
        if self.bursts:
            return 1.25 if now % 5.0 < 1.0 else (5 * self.load - 1.25) / 4
        return self.load

    def victims(self) -> list[int]:
        """Who is killed: one of each third, say."""
        return [(2 * i + 1) * self.workers // (2 * self.killed) for i in range(self.killed)]


AFTER_KILL = (TROUBLE_S - 0.5, TROUBLE_S + 5.0)
SCENARIOS = {
    "A": Scenario("equal peers, 90 %", 0.9, spread=1.0, target=1.7),
    "B70": Scenario("1x to 20x, 70 %", 0.7, target=1.6),
    "B90": Scenario("1x to 20x, 90 %", 0.9, target=1.6),
    "B95": Scenario("1x to 20x, 95 %", 0.95, target=1.8),
    "B90-100s": Scenario("1x to 20x, 90 %, 100 submitters", 0.9, submitters=100, target=1.6),
    "B90-100w": Scenario("1x to 20x, 90 %, 100 workers, 100 submitters", 0.9, workers=100, submitters=100, target=1.9),
    "C": Scenario("60 %, the two fastest 10x slower for 15 s", 0.6, slowed=2, window=(25.0, 45.0), target=2.0),
    "D1": Scenario("60 %, three of 20 killed, connections reset", 0.6, killed=3, window=AFTER_KILL, target=2.0),
    "D2": Scenario("60 %, three of 20 vanish", 0.6, killed=3, silent=True, window=AFTER_KILL, target=2.5),
    "E": Scenario("a rush on a model that one has loaded", 0.2, spread=1.0, speed=10.0, cold=True, window=(0.0, 30.0)),
    "F": Scenario("80 %, half on 20 Mb/s, half the tasks 600 KB", 0.8, slow_links=True, target=2.0),
    "G": Scenario("bursts of 125 % for 1 s in 5, mean 50 %", 0.5, bursts=True, target=1.3),
    "H": Scenario("60 %, 150 % for 10 s", 0.6, overload=1.5, window=(25.0, 40.0), target=3.0),
}
