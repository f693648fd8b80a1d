"""The table of members: what is held of each node, and which news about it wins. A core without time.

Precedence: a higher `(gen, inc)` wins; at the same version dead and left win over suspect, and suspect over alive. So
the order in which news arrive does not matter, and nothing that is older than a node's own last word can bring it
back or take it down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from meshnode.membership.updates import SPKI_PREFIX, Alive, AnyUpdate, Dead, Left, Suspect, Verify, genuine
from meshnode.wire.messages import NodeId

State = Literal["alive", "suspect", "dead", "left"]
RANK: dict[State, int] = {"alive": 0, "suspect": 1, "dead": 2, "left": 3}
ROWS_MAX = 20_000

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


def raw_id(key: bytes) -> bytes:
    """The 32 bytes of the id that follows from an Ed25519 key."""
    return hashlib.sha256(SPKI_PREFIX + key).digest()


@dataclass(slots=True)
class Roster:
    """The rows by node id."""

    verify: Verify
    id_text: IdText
    rows: dict[NodeId, Row] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows.values())

    def get(self, node: NodeId) -> Row | None:
        """The row of a node."""
        return self.rows.get(node)

    def news(self) -> list[AnyUpdate]:
        """Each node's own word, then the accusations that hold, so that a receiver knows whom they are about."""
        return [row.word for row in self] + [row.against for row in self if row.against is not None]

    def subject(self, update: AnyUpdate) -> NodeId:
        """Whom an update is about."""
        return self.id_text(raw_id(update.key) if isinstance(update, Alive | Left) else update.subject)

    def newer(self, update: AnyUpdate) -> Row | None:
        """The row as the update makes it; None when the update says nothing new, or may not be believed."""
        node = self.subject(update)
        row = self.rows.get(node)
        if not self._wins(row, update) or (row is None and len(self.rows) >= ROWS_MAX):
            return None
        accuser = None
        if isinstance(update, Suspect | Dead):
            held = self.rows.get(self.id_text(update.accuser))
            accuser = held.key if held is not None else None
        if not genuine(update, self.verify, accuser):
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

    def put(self, row: Row) -> None:
        """Hold the row."""
        held = self.rows.get(row.id)
        assert held is None or held.version <= row.version, "a version never goes back"
        self.rows[row.id] = row

    def forget(self, node: NodeId) -> None:
        """Drop a tombstone whose time is over."""
        self.rows.pop(node, None)

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
            return version > row.version or (version == row.version and update.advert > row.advert)
        return version > row.version or (version == row.version and row.state != "left")
