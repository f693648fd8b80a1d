"""What a model's local functions grow to when each call is replaced by the body: counted, never done.

26 functions that each call the next one twice are 1.6 kB on disk and 33 million nodes in ONNX Runtime; a chain of
10,000 calls ends its process by a stack overflow, and one of 1,000 takes it 3.5 s. Functions are told apart by domain
and name only: of several overloads the worst counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshnode.catalog.protobuf import Malformed

Key = tuple[str, str]
"""(domain, name)"""
CALLS_DEPTH_MAX = 32
"""Calls within calls. Exporters of whole models as functions reach about ten."""
MANY = 1 << 62
"""Beyond this nothing is told apart."""


@dataclass(slots=True)
class Body:
    """A function, or the model's graph: what it holds itself, with its subgraphs, and whom it calls.

    `calls` maps a function to (how often, bytes of all these calls' attributes, the deepest graph they stand in).
    """

    nodes: int = 0
    nbytes: int = 0
    depth: int = 1
    references: int = 0
    """Attributes that take their value from the call."""
    calls: dict[Key, tuple[int, int, int]] = field(default_factory=dict)

    def call(self, key: Key, nbytes: int, depth: int) -> None:
        """One more call."""
        count, before, deepest = self.calls.get(key, (0, 0, 0))
        self.calls[key] = count + 1, before + nbytes, max(deepest, depth)


@dataclass(frozen=True, slots=True)
class Grown:
    """What one call of a body is worth. `levels` is how many calls lie within each other below it."""

    nodes: int
    nbytes: int
    depth: int
    references: int
    levels: int


def expand(graph: Body, functions: Mapping[Key, list[Body]]) -> Grown:
    """Raises Malformed when functions call each other in a circle."""
    grown: dict[Key, Grown] = {}
    for key in _called_first(functions):
        bodies = [_grow(body, grown) for body in functions[key]]
        grown[key] = Grown(
            max(it.nodes for it in bodies),
            max(it.nbytes for it in bodies),
            max(it.depth for it in bodies),
            max(it.references for it in bodies),
            1 + max(it.levels for it in bodies),
        )
    return _grow(graph, grown)


def _grow(body: Body, grown: Mapping[Key, Grown]) -> Grown:
    nodes, nbytes, depth, references, levels = body.nodes, body.nbytes, body.depth, body.references, 0
    for key, (count, attributes, deep) in body.calls.items():
        if (inner := grown.get(key)) is None:
            continue
        nodes += count * inner.nodes
        nbytes += count * inner.nbytes + attributes * inner.references
        references += count * inner.references
        depth = max(depth, deep + inner.depth - 1)
        levels = max(levels, inner.levels)
    return Grown(min(nodes, MANY), min(nbytes, MANY), depth, min(references, MANY), levels)


def _called_first(functions: Mapping[Key, list[Body]]) -> list[Key]:
    """All functions, each after those that it calls; without recursion of our own."""
    callers: dict[Key, list[Key]] = {key: [] for key in functions}
    open_calls: dict[Key, int] = {}
    for key, bodies in functions.items():
        inner = {called for body in bodies for called in body.calls if called in functions}
        open_calls[key] = len(inner)
        for called in inner:
            callers[called].append(key)
    ready = [key for key, count in open_calls.items() if count == 0]
    for key in ready:
        for caller in callers[key]:
            open_calls[caller] -= 1
            if open_calls[caller] == 0:
                ready.append(caller)
    if len(ready) < len(functions):
        domain, name = min(key for key, count in open_calls.items() if count)
        raise Malformed(f"function {name[:80]!r} of domain {domain[:80]!r} calls itself, directly or through others")
    return ready
