"""Which address to try when: seeds, remembered peers, those that were announced. A core.

One idea for all: a *target* is a few addresses that may answer, and it is tried again and again, with pauses that grow
from 1 s to a minute, drawn at random from all of the pause (full jitter: a thousand nodes that lose their switch must
not come back in step). What a node that finds nobody may cost is bounded by two budgets of dials, one for what was
configured or is remembered, one for what strangers announce: who shouts on the network starves nobody's seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from meshnode.links.address import Address
from meshnode.membership.view import FoundBy
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

RETRY_S, RETRY_MAX_S = 1.0, 60.0
HEALTHY_S = 300.0
"""Seeds are tried so often when all is well: an island that was founded apart is found."""
RECENT, RANDOM = 3, 3
"""Remembered peers that are tried at once; the rest wait for their turn."""
ADDRESSES_MAX = 8
KNOWN_MAX, HEARD_MAX = 256, 256
HEARD_S = 4500.0
"""An announced service is believed to exist for as long as its record may linger."""
TRIES_JOINED = 3
"""A node that has links dials an announced service so often, then waits to hear it again."""
CROWD_S = 5.0
"""A node that has links waits up to so long before it dials: who is new must not be met by everybody at once."""
AGAIN_S = 10.0
"""No address is tried twice within so long."""
KNOWN_A_MINUTE, KNOWN_BURST = 30, 60
HEARD_A_MINUTE, HEARD_BURST = 20, 20

Key = tuple[FoundBy, str]
Row = tuple[NodeId, tuple[Address, ...]]


ANNOUNCED: frozenset[FoundBy] = frozenset({"mdns", "rendezvous"})


@dataclass(frozen=True, slots=True)
class Heard:
    """A service of this mesh was announced; `node` says whose it is, where that is proven."""

    label: str
    addresses: tuple[Address, ...]
    found_by: FoundBy = "mdns"
    node: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """It was taken back, or its record ran out."""

    label: str


@dataclass(frozen=True, slots=True)
class Links:
    """Whether this node has a link to anybody."""

    any: bool


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The network changed, or the machine woke: what failed before may work now."""


@dataclass(frozen=True, slots=True)
class Introduced:
    """Peers that are likely to be there: remembered ones, most recent first, or those of an inviter."""

    rows: tuple[Row, ...]
    found_by: FoundBy


@dataclass(frozen=True, slots=True)
class Forget:
    """A node is out for good."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a Dial; `dials` is how many addresses were really tried."""

    key: Key
    answered: bool
    dials: int


Event = Heard | Gone | Links | Elsewhere | Introduced | Forget | Tried


@dataclass(frozen=True, slots=True)
class Dial:
    """Try these addresses until one answers; a seed's name has to be resolved first."""

    key: Key
    addresses: tuple[Address, ...]
    node: NodeId | None
    found_by: FoundBy


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask by multicast who is there, and say that this node is."""


Effect = Dial | Ask


@dataclass(slots=True)
class Budget:
    """So many dials a minute in the long run, and `burst` at once."""

    a_minute: float
    burst: float
    _left: float = field(init=False)
    _at: float | None = None

    def __post_init__(self) -> None:
        self._left = self.burst

    def take(self, now: float, n: float) -> float:
        """Take n and return 0, or take nothing and return the seconds until they are there."""
        if self._at is not None:
            self._left = min(self.burst, self._left + (now - self._at) * self.a_minute / 60.0)
        self._at = now
        if self._left + 1e-9 < n:
            return (n - self._left) * 60.0 / self.a_minute
        self._left -= n
        return 0.0

    def settle(self, n: float) -> None:
        """Less (or more) was used than taken."""
        self._left -= n


@dataclass(slots=True)
class Target:
    """A few addresses that may answer; `due` is None while it is being tried."""

    key: Key
    addresses: tuple[Address, ...]
    node: NodeId | None
    due: float | None
    failures: int = 0
    taken: int = 0
    until: float = float("inf")

    @property
    def found_by(self) -> FoundBy:
        """Which of the ways led here."""
        return self.key[0]


class Candidates:
    """See the module's docstring.

    Args:
        seeds: host and port as they were configured; names are resolved at each try.
        retry_s: the first pause.
    """

    def __init__(self, rng: Rng, *, now: float, seeds: tuple[Address, ...] = (), retry_s: float = RETRY_S) -> None:
        self._rng = rng
        self._retry_s = retry_s
        self._alone = True
        self._seeds = {("seed", f"{h}:{p}"): Target(("seed", f"{h}:{p}"), ((h, p),), None, now) for h, p in seeds}
        self._known: dict[NodeId, Target] = {}
        self._turns: list[NodeId] = []
        self._heard: dict[str, Target] = {}
        self._budgets = {True: Budget(HEARD_A_MINUTE, HEARD_BURST), False: Budget(KNOWN_A_MINUTE, KNOWN_BURST)}
        self._last: dict[Address, float] = {}
        self._turn_due: float | None = None
        self._turn_failures = 0
        self._ask_due: float | None = now + retry_s
        self._asked = 0

    @property
    def alone(self) -> bool:
        """Whether nobody is linked, as far as this core was told."""
        return self._alone

    def next_deadline(self) -> float | None:
        """When something is due; None when nothing is."""
        dues = [target.due for target in self._targets() if target.due is not None]
        dues += [due for due in (self._turn_due, self._ask_due) if due is not None]
        return min(dues, default=None)

    def handle(self, now: float, event: Event | None = None) -> list[Effect]:
        """What happened, or None for the passing of time."""
        match event:
            case None:
                pass
            case Heard():
                self._hear(now, event)
            case Gone(label):
                target = self._heard.get(label)
                if target is not None and target.due is not None:
                    del self._heard[label]
            case Links(any=linked):
                if linked == self._alone:
                    self._alone = not linked
                    self._begin(now)
            case Elsewhere():
                self._begin(now)
            case Introduced():
                self._introduce(now, event)
            case Forget(node):
                self._known.pop(node, None)
                self._turns = [other for other in self._turns if other != node]
            case Tried():
                self._tried(now, event)
            case _:
                assert_never(event)
        return self._due(now)

    # --- what happened ---

    def _begin(self, now: float) -> None:
        """Alone, linked again, or in another place: forget the pauses."""
        self._asked = self._turn_failures = 0
        self._last.clear()
        self._turn_due = self._ask_due = None
        for target in self._targets():
            target.failures = 0
        for seed in self._seeds.values():
            if not seed.taken:
                seed.due = now + (self._rng.uniform(0, self._retry_s) if self._alone else self._healthy())
        for target in self._heard.values():
            if not target.taken and (self._alone or target.due is not None):
                target.due = now + self._rng.uniform(0, self._retry_s if self._alone else CROWD_S)
        for target in self._known.values():
            target.due = None
        if self._alone:
            self._ask_due = now + self._rng.uniform(0, self._retry_s)
            self._first(now, list(self._known))

    def _first(self, now: float, nodes: list[NodeId]) -> None:
        """Try a few of these at once, those most recently seen and some others; the rest when their turn comes."""
        first, rest = nodes[:RECENT], nodes[RECENT:]
        first += self._rng.sample(rest, min(RANDOM, len(rest)))
        for node in first:
            if not self._known[node].taken:
                self._known[node].due = now
        rest = [node for node in rest if node not in first]
        self._rng.shuffle(rest)
        placed = set(nodes)
        self._turns = [*rest, *(node for node in self._turns if node not in placed), *first]
        if self._turn_due is None and self._turns:
            self._turn_due = now + self._pause(1)

    def _hear(self, now: float, event: Heard) -> None:
        target = self._heard.get(event.label)
        addresses = event.addresses[:ADDRESSES_MAX]
        if target is None:
            if len(self._heard) >= HEARD_MAX:
                self._heard.pop(self._rng.sample([*self._heard], 1)[0])
            target = self._heard[event.label] = Target((event.found_by, event.label), addresses, event.node, None)
        target.until = now + HEARD_S
        if target.taken or (target.due is not None and target.addresses == addresses):
            return  # its try stands; shouting louder changes nothing
        target.addresses, target.failures = addresses, 0
        target.due = now + (0.0 if self._alone else self._rng.uniform(0, CROWD_S))

    def _introduce(self, now: float, event: Introduced) -> None:
        rows = {node: addresses[:ADDRESSES_MAX] for node, addresses in event.rows[:KNOWN_MAX] if addresses}
        news = [node for node in rows if node not in self._known or self._known[node].addresses != rows[node]]
        self._known |= {node: Target((event.found_by, node), rows[node], node, None) for node in news}
        order = [*rows, *(node for node in self._known if node not in rows)][:KNOWN_MAX]
        self._known = {node: self._known[node] for node in order}
        self._turns = [node for node in self._turns if node in self._known]
        if self._alone and news:
            self._first(now, news)

    def _tried(self, now: float, event: Tried) -> None:
        target = next((t for t in self._targets() if t.key == event.key), None)
        if target is None or not target.taken:
            return
        self._budgets[target.found_by in ANNOUNCED].settle(event.dials - target.taken)
        target.taken = 0
        target.failures = 0 if event.answered else target.failures + 1
        match target.found_by:
            case "seed":
                well = event.answered or not self._alone
                target.due = now + (self._healthy() if well else self._pause(target.failures))
            case "mdns" | "rendezvous":
                more = not event.answered and (self._alone or target.failures < TRIES_JOINED) and now < target.until
                target.due = now + self._pause(target.failures) if more else None
            case _:
                target.due = None  # its turn comes again

    # --- what is due ---

    def _due(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self._ask_due is not None and self._ask_due <= now:
            self._asked += 1
            self._ask_due = now + self._longest(self._asked + 1) * self._rng.uniform(0.5, 1.0)
            effects.append(Ask())
        if self._turn_due is not None and self._turn_due <= now:
            self._turn_failures += 1
            self._turn_due = now + self._pause(self._turn_failures + 1) if self._turns else None
            if self._turns:
                self._turns.append(node := self._turns.pop(0))
                if not self._known[node].taken:
                    self._known[node].due = now
        ready = [target for target in self._targets() if target.due is not None and target.due <= now]
        for target in sorted(ready, key=lambda t: t.due or 0.0):
            effects += self._dial(now, target)
        self._expire(now)
        return effects

    def _dial(self, now: float, target: Target) -> list[Effect]:
        fresh = tuple(a for a in target.addresses if now - self._last.get(a, float("-inf")) >= AGAIN_S)
        if target.found_by == "seed":
            fresh = target.addresses  # its pause is its own
        if not fresh:
            target.due = now + AGAIN_S if target.found_by in ANNOUNCED else None
            return []
        wait = self._budgets[target.found_by in ANNOUNCED].take(now, len(fresh))
        if wait > 0:
            target.due = now + wait
            return []
        if target.found_by != "seed":
            self._last.update(dict.fromkeys(fresh, now))
        target.due, target.taken = None, len(fresh)
        return [Dial(target.key, fresh, target.node, target.found_by)]

    def _expire(self, now: float) -> None:
        for label in [label for label, t in self._heard.items() if t.until < now and not t.taken]:
            del self._heard[label]
        if len(self._last) > HEARD_MAX:
            self._last = {address: at for address, at in self._last.items() if now - at < AGAIN_S}

    def _targets(self) -> list[Target]:
        return [*self._seeds.values(), *self._known.values(), *self._heard.values()]

    def _healthy(self) -> float:
        return HEALTHY_S * self._rng.uniform(0.75, 1.25)

    def _pause(self, failures: int) -> float:
        """Full jitter: anything up to the pause that doubles with each failure."""
        return self._rng.uniform(0.0, self._longest(failures))

    def _longest(self, failures: int) -> float:
        return min(RETRY_MAX_S, self._retry_s * 2.0 ** min(failures - 1, 30))
