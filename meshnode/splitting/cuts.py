"""Where to cut: between which steps of a graph, so that parts weigh the same and little crosses. Pure.

A graph is a line of steps, each of which comes after those it takes from. A cut after a step lets cross whatever was
made up to there, or given, and is used later; what is needed two parts on crosses twice. Constants cross nowhere: each
part has its own of those that it uses.

First the least weight of the heaviest part is found, then, with a tenth more allowed, the cuts that the least bytes
cross.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from meshnode.errors import InvalidInput

PARTS_MAX = 16
CANDIDATES_MAX = 200
"""More places than these are thinned out: of each stretch of weight the cheapest stays."""
SLACK = 0.1


@dataclass(frozen=True, slots=True)
class Step:
    """One node: the tensors that it takes and gives, by name, and the constants that it needs."""

    takes: frozenset[str]
    gives: tuple[str, ...]
    constants: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Flow:
    """A graph. `tensor_bytes` has None, or nothing, for what cannot cross: no tensor, or of an unknown type."""

    steps: Sequence[Step]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensor_bytes: Mapping[str, int | None]
    constant_bytes: Mapping[str, int] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()
    """Constants that are outputs of the graph: the last part has them."""

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """After which step each tensor is there (-1 for inputs), and which step uses it last."""
        born = dict.fromkeys(self.inputs, -1)
        for place, step in enumerate(self.steps):
            born |= dict.fromkeys(step.gives, place)
        last = dict(born)
        for place, step in enumerate(self.steps):
            last |= dict.fromkeys(step.takes & born.keys(), place)
        last |= dict.fromkeys((name for name in self.outputs if name in born), len(self.steps))
        return {name: (born[name], last[name]) for name in born}

    def crossing(self, cut: int) -> tuple[str, ...]:
        """What crosses a cut after that step, in the order in which it was made."""
        return tuple(name for name, (born, last) in self.spans.items() if born <= cut < last)

    @cached_property
    def costs(self) -> list[float]:
        """The bytes that cross a cut after each step; infinite where something cannot."""
        changes = [0] * (len(self.steps) + 2)
        blocked = [0] * (len(self.steps) + 2)
        for name, (born, last) in self.spans.items():
            nbytes = self.tensor_bytes.get(name)
            for table, value in ((changes, nbytes or 0), (blocked, int(nbytes is None))):
                table[born + 1] += value
                table[last + 1] -= value
        sums = zip(itertools.accumulate(changes), itertools.accumulate(blocked), strict=True)
        return [math.inf if stuck else cost for cost, stuck in sums][1 : len(self.steps)]

    def weights(self, cuts: Sequence[int]) -> list[int]:
        """The bytes of constants of each part."""
        edges = [-1, *cuts, len(self.steps) - 1]
        found = []
        for begin, end in itertools.pairwise(edges):
            used = set().union(*(step.constants for step in self.steps[begin + 1 : end + 1]))
            used |= self.kept if end == edges[-1] else frozenset()
            found.append(sum(self.constant_bytes[name] for name in used))
        return found


def choose(flow: Flow, parts: int) -> tuple[int, ...]:
    """The steps after which to cut. Raises InvalidInput when the graph cannot be cut into so many parts."""
    if not 2 <= parts <= PARTS_MAX:
        raise InvalidInput(f"a model is cut into 2 to {PARTS_MAX} parts, not {parts}")
    places = _candidates(flow)
    if len(places) < parts - 1:
        raise InvalidInput(
            f"there are {len(places)} places where this graph can be cut, too few for {parts} parts",
            hint="a cut needs tensors of known types between two nodes, and nothing inside of loops and branches",
        )
    ends = [*places, len(flow.steps) - 1]
    table = _segments(flow, ends)
    least = _best(table, flow.costs, ends, parts, math.inf, heaviest=True)
    limit = max(max(flow.weights(least)) * (1 + SLACK), 1)
    return _best(table, flow.costs, ends, parts, limit, heaviest=False)


def at_tensors(flow: Flow, names: Sequence[str]) -> tuple[int, ...]:
    """A cut right after each of these was made. Raises InvalidInput for what is no place to cut."""
    cuts = []
    for name in names:
        if name not in flow.spans:
            raise InvalidInput(
                f"the graph makes no tensor {name!r}", hint="constants and their like are no place to cut"
            )
        born, _ = flow.spans[name]
        if not 0 <= born < len(flow.steps) - 1:
            raise InvalidInput(f"nothing lies {'before' if born < 0 else 'behind'} {name!r}: it is no place to cut")
        if math.isinf(flow.costs[born]):
            stuck = [it for it in flow.crossing(born) if flow.tensor_bytes.get(it) is None]
            raise InvalidInput(
                f"a cut after {name!r} would have to carry {stuck[0]!r}, whose type is unknown or no tensor"
            )
        cuts.append(born)
    if len(set(cuts)) < len(cuts):
        raise InvalidInput("two of these tensors are made by the same node: one of them is enough")
    return tuple(sorted(cuts))


def _candidates(flow: Flow) -> list[int]:
    fit = [place for place, cost in enumerate(flow.costs) if math.isfinite(cost)]
    if len(fit) <= CANDIDATES_MAX:
        return fit
    seen: set[str] = set()
    before = [0]
    for step in flow.steps:
        before.append(before[-1] + sum(flow.constant_bytes[name] for name in step.constants - seen) + 1)
        seen |= step.constants
    cheapest: dict[int, int] = {}
    for place in fit:
        stretch = before[place + 1] * CANDIDATES_MAX // (before[-1] + 1)
        if stretch not in cheapest or flow.costs[place] < flow.costs[cheapest[stretch]]:
            cheapest[stretch] = place
    return sorted(cheapest.values())


def _segments(flow: Flow, ends: list[int]) -> list[list[int]]:
    """The weight of the steps after place i - 1 (or from the beginning) up to place j."""
    table = []
    for begin in range(len(ends)):
        first = 0 if begin == 0 else ends[begin - 1] + 1
        seen: set[str] = set()
        weight, row, at = 0, [0] * len(ends), first
        for j in range(begin, len(ends)):
            for step in flow.steps[at : ends[j] + 1]:
                for name in step.constants - seen:
                    seen.add(name)
                    weight += flow.constant_bytes[name]
            at = ends[j] + 1
            row[j] = weight
        table.append(row)
    return table


def _best(
    table: list[list[int]], costs: list[float], ends: list[int], parts: int, limit: float, *, heaviest: bool
) -> tuple[int, ...]:
    """The cuts with the least weight of the heaviest part, or the least that crosses with no part over `limit`."""
    count = len(ends)
    best = [float(table[0][j]) if table[0][j] <= limit else math.inf for j in range(count)]
    if not heaviest:
        best = [0.0 if math.isfinite(value) else math.inf for value in best]
    came: list[list[int]] = []
    for _ in range(parts - 1):
        after, source = [math.inf] * count, [0] * count
        for j in range(1, count):
            for i in range(j):
                weight = table[i + 1][j]
                if weight > limit or math.isinf(best[i]):
                    continue
                value = max(best[i], weight) if heaviest else best[i] + costs[ends[i]]
                if value < after[j]:
                    after[j], source[j] = value, i
        best = after
        came.append(source)
    cuts, j = [], count - 1
    for source in reversed(came):
        j = source[j]
        cuts.append(ends[j])
    return tuple(reversed(cuts))
