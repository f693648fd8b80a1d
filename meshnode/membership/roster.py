"""The table of members: what is held of each node, and which news about it wins. A core without time.

Precedence: a higher `(gen, inc)` wins; at the same version, which only copies of a home share, the one born later; then
dead and left win over suspect, and suspect over alive. So
the order in which news arrive does not matter, and nothing that is older than a node's own last word can bring it
back or take it down.

The table keeps a hash of itself, as 256 buckets by node id that are updated with each row, so that two nodes can tell
from a few bytes whether they hold the same (`meshnode.membership.entropy`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from meshnode.membership.updates import SPKI_PREFIX, Alive, AnyUpdate, Dead, Left, Suspect, Verify, genuine
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

State = Literal["alive", "suspect", "dead", "left"]
RANK: dict[State, int] = {"alive": 0, "suspect": 1, "dead": 2, "left": 3}
ROWS_MAX = 20_000
BUCKETS = 256
_HASHED = struct.Struct(">32sIIQBI")

IdText = Callable[[bytes], NodeId]
"""32 bytes -> a node id."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is held of one node. `word` is its own last signed word; `against` is the accusation that holds."""

    id: NodeId
    key: bytes
    gen: int
    inc: int
    state: State
    advert: int
    word: Alive | Left
    against: Suspect | Dead | None = None
    reason: str = ""

    @property
    def version(self) -> tuple[int, int]:
        """(gen, inc)"""
        return (self.gen, self.inc)

    @property
    def born(self) -> int:
        """Which start of the node the word is of; 0 in a goodbye."""
        return self.word.born if isinstance(self.word, Alive) else 0

    @property
    def living(self) -> bool:
        """Whether it counts as a member that is there: alive or suspect."""
        return self.state in ("alive", "suspect")

    def hash(self) -> int:
        """64 bits of what two nodes must agree on. A suspicion is passing, and no part of it."""
        fate = 0 if self.living else RANK[self.state]
        packed = _HASHED.pack(raw_id(self.key), self.gen, self.inc, self.born, fate, self.advert)
        return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big")


@lru_cache(maxsize=65536)
def raw_id(key: bytes) -> bytes:
    """The 32 bytes of the id that follows from an Ed25519 key."""
    return hashlib.sha256(SPKI_PREFIX + key).digest()


@dataclass(slots=True)
class Roster:
    """The rows by node id."""

    verify: Verify
    id_text: IdText
    admitted: Callable[[NodeId], bool] = lambda _: True
    """Whether a node is a member. What others sign is not believed, or one member could invent thousands."""
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    """Of each bucket, the XOR of its rows' hashes; the bucket is the first byte of the raw id."""
    root: int = 0
    """32 bits of the whole table."""
    living: int = 0
    """Rows that are alive or suspect."""
    _rows: dict[NodeId, Row] = field(default_factory=dict)
    _order: list[NodeId] = field(default_factory=list)
    _aged: set[NodeId] = field(default_factory=set)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def copy_from(self, other: Roster) -> None:
        """Hold the same rows (they are immutable and shared)."""
        self._rows, self._order, self._aged = other._rows.copy(), other._order.copy(), other._aged.copy()
        self.buckets, self.root, self.living = other.buckets.copy(), other.root, other.living

    def get(self, node: NodeId) -> Row | None:
        """The row of a node."""
        return self._rows.get(node)

    def living_ids(self, *, but: NodeId) -> list[NodeId]:
        """Everyone who is there, except one."""
        return [row.id for row in self if row.living and row.id != but]

    def sample(self, rng: Rng, k: int, fits: Callable[[Row], bool]) -> list[NodeId]:
        """k rows at random that fit, or as many as there are (in a large table, as many as are found soon)."""
        if len(self._order) <= 8 * k:
            found = [node for node in self._order if fits(self._rows[node])]
            return rng.sample(found, min(k, len(found)))
        chosen: list[NodeId] = []
        for _ in range(8 * k):
            node = self._order[rng.randrange(len(self._order))]
            if node not in chosen and fits(self._rows[node]):
                chosen.append(node)
                if len(chosen) == k:
                    break
        return chosen

    def subject(self, update: AnyUpdate) -> NodeId:
        """Whom an update is about."""
        return self.id_text(raw_id(update.key) if isinstance(update, Alive | Left) else update.subject)

    def newer(self, update: AnyUpdate) -> Row | None:
        """The row as the update makes it; None when the update says nothing new, or may not be believed."""
        node = self.subject(update)
        row = self._rows.get(node)
        if not self._wins(row, update) or (row is None and len(self._rows) >= ROWS_MAX):
            return None
        if not self.genuine(update):
            return None
        match update:
            case Alive(key, gen, inc, advert):
                return Row(node, key, gen, inc, "alive", advert, update)
            case Left(key, gen, inc, reason):
                advert = row.advert if row is not None else 0
                return Row(node, key, gen, inc, "left", advert, update, reason=reason)
            case Suspect() | Dead():
                assert row is not None, "an accusation of a node that is not known does not win"
                return replace(row, state="dead" if isinstance(update, Dead) else "suspect", against=update)

    def genuine(self, update: AnyUpdate) -> bool:
        """Whether the update is signed by who it says, a member; an accuser being one whose key is known.

        Who was thrown out may still say goodbye.
        """
        accuses = isinstance(update, Suspect | Dead)
        signer = self.id_text(update.accuser) if isinstance(update, Suspect | Dead) else self.subject(update)
        held = self._rows.get(signer)
        if not self.admitted(signer) and not (isinstance(update, Left) and held is not None):
            return False
        return genuine(update, self.verify, held.key if accuses and held is not None else None)

    def put(self, row: Row) -> None:
        """Hold the row."""
        held = self._rows.get(row.id)
        assert held is None or held.version <= row.version, "a version never goes back"
        if held is None:
            self._order.append(row.id)
        else:
            self._count(held, -1)
        self._aged.discard(row.id)
        self._rows[row.id] = row
        self._count(row, +1)

    def age(self, node: NodeId) -> None:
        """A tombstone is old: keep it, but speak of it no more, so that it is not handed round for ever."""
        row = self._rows.get(node)
        if row is not None and node not in self._aged:
            self._count(row, -1)
            self._aged.add(node)

    def spoken_of(self, row: Row) -> bool:
        """Whether the row is part of what is compared with others."""
        return row.id not in self._aged

    def forget(self, node: NodeId) -> None:
        """Drop a tombstone whose time is over."""
        row = self._rows.pop(node, None)
        if row is not None:
            if node not in self._aged:
                self._count(row, -1)
            self._aged.discard(node)
            self._order.remove(node)

    def _count(self, row: Row, sign: int) -> None:
        """A row comes to count, or no longer does."""
        if row.id in self._aged:
            return
        row_hash = row.hash()
        self.buckets[raw_id(row.key)[0]] ^= row_hash
        self.root ^= row_hash & 0xFFFFFFFF
        self.living += sign * row.living

    def _wins(self, row: Row | None, update: AnyUpdate) -> bool:
        version = (update.gen, update.inc)
        if row is None:
            return isinstance(update, Alive | Left)
        if isinstance(update, Suspect | Dead):
            # Only a version that the subject has signed, as it is held here, can be accused.
            if version != row.version:
                return False
            return RANK["dead" if isinstance(update, Dead) else "suspect"] > RANK[row.state]
        if isinstance(update, Alive):
            if version != row.version:
                return version > row.version
            return update.born > row.born > 0 or (update.born == row.born and update.advert > row.advert)
        return version > row.version or (version == row.version and row.state != "left")
