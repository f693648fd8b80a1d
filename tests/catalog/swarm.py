"""Many transfers at once on simulated wires: one source, several receivers, each with a way in and a way out."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from meshnode.catalog.fellows import Fellows
from meshnode.catalog.rarity import pack
from meshnode.catalog.steps import (
    AskHave,
    AskList,
    AskPiece,
    Check,
    Complete,
    Effect,
    Event,
    Failed,
    GiveUp,
    HaveCame,
    Holders,
    NoHave,
    OnDisk,
    Write,
)
from meshnode.catalog.transfer import Transfer
from meshnode.config import LAN, Catalog
from meshnode.wire.messages import Digest, NodeId
from tests.catalog.test_transfer import Model

DIGEST = Digest("0" * 64)
HEADER_S = 0.001
"""A small question there and back."""


@dataclass
class Place:
    """One node. A piece takes `piece_s` on each way, and each way carries one at a time."""

    id: NodeId
    core: Transfer | None
    fellows: Fellows
    have: set[int] = field(default_factory=set)
    out_free_at: float = 0.0
    in_free_at: float = 0.0
    done_at: float | None = None
    sent: Counter[int] = field(default_factory=Counter)
    dead: bool = False


class Town:
    """See the module's docstring; `piece_s` is what one piece takes on a way of the usual width."""

    def __init__(self, model: Model, receivers: int, seed: int, *, piece_s: float, settings: Catalog = LAN.catalog):
        self.model, self.piece_s = model, piece_s
        self.now = 0.0
        rng = random.Random(seed)
        self.count = len(model.hashes(0))
        ids = [NodeId(chr(ord("a") + n) * 52) for n in range(receivers + 1)]
        self.source = Place(ids[0], None, Fellows(rng), set(range(self.count)))
        self.places = {ids[0]: self.source}
        for name in ids[1:]:
            core = Transfer(name, model.manifest, settings, random.Random(rng.random()))
            self.places[name] = Place(name, core, Fellows(rng))
        self._heap: list[tuple[float, int, NodeId, Event | None]] = []
        self._order = itertools.count()
        for name in ids[1:]:
            self._at(rng.random() * 0.01, name, Holders((ids[0],)))

    def run(self, until_s: float = 1e6) -> float:
        """When the last one has it."""
        while self._heap and self._heap[0][0] <= until_s:
            self.now, _, name, event = heapq.heappop(self._heap)
            place = self.places[name]
            if place.core is None or place.done_at is not None or place.dead:
                continue
            if event is None:  # its timer
                due = place.core.next_deadline()
                if due is None or due > self.now:
                    continue
                event = Holders(tuple(it.id for it in self.places.values() if it.core is None and not it.dead))
            for effect in place.core.handle(self.now, event):
                self._do(place, effect)
            if (due := place.core.next_deadline()) is not None and due < float("inf"):
                self._at(max(due, self.now + 0.001), name, None)
        return max(it.done_at or float("inf") for it in self.places.values() if it.core is not None and not it.dead)

    def _at(self, when: float, name: NodeId, event: Event | None) -> None:
        heapq.heappush(self._heap, (when, next(self._order), name, event))

    def _do(self, place: Place, effect: Effect) -> None:
        match effect:
            case AskHave(holder):
                it = self.places[holder]
                if it.dead:
                    self._at(self.now + HEADER_S, place.id, NoHave(holder))
                    return
                flags, given = np.zeros((2, self.count), np.bool_)
                flags[list(it.have)] = True
                fellows = it.fellows.asked(self.now, DIGEST, place.id)
                given[list(it.fellows.given(DIGEST))] = True
                self._at(self.now + HEADER_S, place.id, HaveCame(holder, pack(flags), pack(given), fellows))
            case AskList(holder, file) if self.places[holder].dead:
                self._at(self.now + HEADER_S, place.id, Failed(holder, file, -1, "connection reset"))
            case AskList(holder, file):
                self._at(self.now + HEADER_S, place.id, self.model.list_came(holder, file))
            case Check(file, _):
                self._at(self.now, place.id, OnDisk(file, tuple(sorted(place.have))))
            case AskPiece(holder, _, index):
                it = self.places[holder]
                if it.dead:
                    self._at(self.now + HEADER_S, place.id, Failed(holder, 0, index, "connection reset"))
                    return
                assert index in it.have, "asked for what the holder does not have"
                it.sent[index] += 1
                it.fellows.gave(DIGEST, index)
                sent_at = max(it.out_free_at, self.now) + self.piece_s
                it.out_free_at = sent_at
                place.in_free_at = max(place.in_free_at + self.piece_s, sent_at)
                self._at(place.in_free_at, place.id, self.model.piece_came(holder, index))
            case Write(_, index, _):
                place.have.add(index)
            case Complete():
                place.done_at = self.now
            case GiveUp(error):
                raise error
