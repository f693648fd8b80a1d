"""Fetching a model: which piece from whom, what is believed, when to give up. A core.

First the piece list of each file, which the signed manifest vouches for; then the pieces, a few at a time from each
of a few holders. A piece that does not match is never written and costs its sender the transfer; a holder that does
not answer is asked again only after the others. It ends when all pieces are there, or when nobody is left to ask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from meshnode.catalog.manifest import Manifest
from meshnode.config import Catalog as Settings
from meshnode.errors import TransferFailed
from meshnode.wire.messages import NodeId

HASH_BYTES = 32
FAILURES_MAX = 3
"""A holder that failed so often in a row is left alone."""


@dataclass(frozen=True, slots=True)
class Holders:
    """Nodes that have the model; new ones join, missing ones are not asked any more."""

    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class ListCame:
    """A holder sent the piece list of a file."""

    holder: NodeId
    file: int
    data: bytes


@dataclass(frozen=True, slots=True)
class PieceCame:
    """A holder sent a piece."""

    holder: NodeId
    file: int
    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """A holder did not answer a request for a list (index -1) or a piece."""

    holder: NodeId
    file: int
    index: int
    reason: str


Event = Holders | ListCame | PieceCame | Failed


@dataclass(frozen=True, slots=True)
class AskList:
    """Ask a holder for the piece list of a file."""

    holder: NodeId
    file: int


@dataclass(frozen=True, slots=True)
class AskPiece:
    """Ask a holder for a piece."""

    holder: NodeId
    file: int
    index: int


@dataclass(frozen=True, slots=True)
class Check:
    """Say, by `have`, which pieces of a file are on disk already; its hashes are known now."""

    file: int


@dataclass(frozen=True, slots=True)
class Write:
    """A verified piece belongs on disk."""

    file: int
    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Complete:
    """Every piece is there."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It cannot be had."""

    error: TransferFailed


Effect = AskList | AskPiece | Check | Write | Complete | GiveUp


@dataclass(slots=True)
class _Holder:
    open: set[tuple[int, int]] = field(default_factory=set)
    failures: int = 0
    out: str = ""


class Transfer:
    """One model on its way here."""

    def __init__(self, manifest: Manifest, settings: Settings) -> None:
        self._manifest = manifest
        self._settings = settings
        self._holders: dict[NodeId, _Holder] = {}
        self._hashes: dict[int, list[bytes]] = {}
        self._missing: dict[tuple[int, int], None] = {}
        self._done = 0
        self._ended = False
        self.done_bytes = 0
        self.fetched_bytes = 0

    def next_deadline(self) -> float | None:
        """Nothing here waits for a time: requests have their own limits."""
        return None

    def hashes(self, file: int) -> list[bytes]:
        """The hashes of a file's pieces; empty before its list came."""
        return self._hashes.get(file, [])

    def have(self, file: int, indexes: Iterable[int]) -> None:
        """Pieces of a file that were on disk and matched."""
        for index in indexes:
            if self._missing.pop((file, index), 0) is None:
                self.done_bytes += self._size(file, index)

    def handle(self, now: float, event: Event) -> list[Effect]:
        """One event; returns what to do."""
        if self._ended:
            return []
        effects: list[Effect] = []
        match event:
            case Holders(nodes):
                for node in nodes[: self._settings.holders_max]:
                    self._holders.setdefault(node, _Holder())
                for node, holder in self._holders.items():
                    if node not in nodes and not holder.open:
                        holder.out = holder.out or "it no longer has the model"
            case ListCame(holder_id, file, data):
                self._answered(holder_id, file, -1)
                effects += self._take_list(holder_id, file, data)
            case PieceCame(holder_id, file, index, data):
                self._answered(holder_id, file, index)
                effects += self._take_piece(holder_id, file, index, data)
            case Failed(holder_id, file, index, reason):
                holder = self._holders[holder_id]
                holder.open.discard((file, index))
                holder.failures += 1
                if holder.failures >= FAILURES_MAX:
                    holder.out = reason
            case _:
                assert_never(event)
        return effects + self._next()

    def _answered(self, holder_id: NodeId, file: int, index: int) -> None:
        holder = self._holders[holder_id]
        holder.open.discard((file, index))
        holder.failures = 0

    def _take_list(self, holder_id: NodeId, file: int, data: bytes) -> list[Effect]:
        if file in self._hashes:
            return []
        expected = self._manifest.files[file]
        count = -(-expected.size // self._manifest.piece_bytes)
        if len(data) != count * HASH_BYTES or hashlib.sha256(data).digest() != expected.pieces:
            self._holders[holder_id].out = "its piece list does not match the manifest"
            return []
        self._hashes[file] = [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]
        for index in range(count):
            self._missing[file, index] = None
        return [Check(file)]

    def _take_piece(self, holder_id: NodeId, file: int, index: int, data: bytes) -> list[Effect]:
        if (file, index) not in self._missing:
            return []
        if hashlib.sha256(data).digest() != self._hashes[file][index]:
            self._holders[holder_id].out = f"piece {index} of {self._manifest.files[file].path} did not match its hash"
            return []
        del self._missing[file, index]
        self.done_bytes += len(data)
        self.fetched_bytes += len(data)
        return [Write(file, index, data)]

    def _next(self) -> list[Effect]:
        """Ask for what is wanted and not asked for; end when there is nothing more, or nobody."""
        wanted = [(file, -1) for file in range(len(self._manifest.files)) if file not in self._hashes]
        if not wanted and not self._missing:
            self._ended = True
            return [Complete()]
        asked = {item for holder in self._holders.values() for item in holder.open}
        queue = [item for item in (*wanted, *self._missing) if item not in asked]
        effects: list[Effect] = []
        able = {node: holder for node, holder in self._holders.items() if not holder.out}
        while queue and able:
            node, holder = min(able.items(), key=lambda it: (len(it[1].open), it[1].failures))
            if len(holder.open) >= self._settings.pieces_in_flight:
                break
            file, index = queue.pop(0)
            holder.open.add((file, index))
            effects.append(AskList(node, file) if index < 0 else AskPiece(node, file, index))
        if not able and not any(holder.open for holder in self._holders.values()):
            self._ended = True
            reasons = "; ".join(f"{node[:8]}: {holder.out}" for node, holder in self._holders.items())
            name = f"{self._manifest.name}:{self._manifest.version}"
            effects.append(GiveUp(TransferFailed(f"{name} cannot be fetched ({reasons or 'nobody has it'})")))
        return effects

    def _size(self, file: int, index: int) -> int:
        piece = self._manifest.piece_bytes
        return min(piece, self._manifest.files[file].size - index * piece)
