"""Fetching a model: which piece from whom, what is believed, when to give up. A core.

First the piece list of each file, which the signed manifest vouches for; what is on disk already is not asked for.
Then the pieces, a few at a time from each of a few holders, more from those that answer sooner. A piece that does not
match is never written and costs its sender the transfer; a holder that does not answer gets fewer requests, then
none. In the end, pieces that a slow holder keeps waiting for are asked from another as well. It ends when all pieces
are there, or when nobody is left to ask.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import assert_never

from meshnode.catalog.manifest import Manifest, piece_count
from meshnode.config import Catalog as Settings
from meshnode.errors import TransferFailed
from meshnode.wire.messages import NodeId

HASH_BYTES = 32
FAILURES_MAX = 3
"""A holder that failed so often in a row is left alone."""
LATE_S = 2.0
"""Once nothing new is left to ask, a piece that is open for so long is asked from another holder as well."""
ALPHA = 0.3
LIST = -1
"""The index that stands for a file's piece list."""
_Item = tuple[int, int]
"""(file, piece index or LIST)"""


@dataclass(frozen=True, slots=True)
class Holders:
    """Nodes that have the model now, the preferred first. Also what `next_deadline` asks for."""

    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class ListCame:
    """A holder sent the piece list of a file."""

    holder: NodeId
    file: int
    data: bytes


@dataclass(frozen=True, slots=True)
class OnDisk:
    """The answer to `Check`: pieces of a file that are on disk and match."""

    file: int
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PieceCame:
    """A holder sent a piece; `sha256` is what its bytes hash to."""

    holder: NodeId
    file: int
    index: int
    data: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """A holder did not answer a request for a piece, or for a list (index LIST)."""

    holder: NodeId
    file: int
    index: int
    reason: str


Event = Holders | ListCame | OnDisk | PieceCame | Failed


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
    """The hashes of a file's pieces are known: answer with `OnDisk`. Nothing of the file is asked for before."""

    file: int
    hashes: tuple[bytes, ...]


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
    window: int
    """Requests it may have open; halved by a failure, so that a slow link is not asked for more than it carries."""
    present: bool = True
    open: dict[_Item, float] = field(default_factory=dict)
    failures: int = 0
    failed_at: float = float("-inf")
    piece_s: float | None = None
    out: str = ""


class Transfer:
    """One model on its way here."""

    def __init__(self, manifest: Manifest, settings: Settings) -> None:
        self._manifest = manifest
        self._settings = settings
        self._holders: dict[NodeId, _Holder] = {}
        self._hashes: dict[int, tuple[bytes, ...]] = {}
        self._missing: set[_Item] = set()
        self._wanted: deque[_Item] = deque()
        """What nobody has been asked for yet; may hold items that came meanwhile."""
        self._checking: set[int] = set()
        self._ended = False
        self.done_bytes = 0
        self.fetched_bytes = 0
        for file, it in enumerate(manifest.files):
            if it.size:
                self._missing.add((file, LIST))
                self._wanted.append((file, LIST))

    def next_deadline(self) -> float | None:
        """When a request becomes late enough to be put to another holder as well."""
        if self._ended or self._wanted or len(self._able()) < 2:
            return None
        return min((at + LATE_S for item, at in self._open_once().items() if item in self._missing), default=None)

    def handle(self, now: float, event: Event) -> list[Effect]:
        """One event; returns what to do."""
        if self._ended:
            return []
        effects: list[Effect] = []
        match event:
            case Holders(nodes):
                for node in nodes:
                    self._holders.setdefault(node, _Holder(self._settings.pieces_in_flight))
                for node, holder in self._holders.items():
                    holder.present = node in nodes
            case ListCame(holder_id, file, data):
                self._answered(now, holder_id, (file, LIST))
                effects += self._take_list(holder_id, file, data)
            case OnDisk(file, indexes):
                self._checking.discard(file)
                for index in sorted(set(range(len(self._hashes[file]))) - set(indexes)):
                    self._missing.add((file, index))
                    self._wanted.append((file, index))
                self.done_bytes += sum(self._size(file, index) for index in indexes)
            case PieceCame(holder_id, file, index, data, sha256):
                self._answered(now, holder_id, (file, index))
                effects += self._take_piece(holder_id, file, index, data, sha256)
            case Failed(holder_id, file, index, reason):
                self._failed(now, holder_id, (file, index), reason)
            case _:
                assert_never(event)
        return effects + self._next(now)

    def _answered(self, now: float, holder_id: NodeId, item: _Item) -> None:
        holder = self._holders[holder_id]
        asked_at = holder.open.pop(item, now)
        holder.failures = 0
        holder.window = min(holder.window + 1, self._settings.pieces_in_flight)
        # What one request costs, when several share the way.
        took_s = (now - asked_at) / (len(holder.open) + 1)
        if item[1] != LIST:
            holder.piece_s = took_s if holder.piece_s is None else holder.piece_s + ALPHA * (took_s - holder.piece_s)

    def _failed(self, now: float, holder_id: NodeId, item: _Item, reason: str) -> None:
        holder = self._holders[holder_id]
        asked_at = holder.open.pop(item, now)
        if asked_at >= holder.failed_at:  # what was asked before the last failure failed with it
            holder.failures += 1
            holder.failed_at = now
            holder.window = max(1, holder.window // 2)
            if holder.failures >= FAILURES_MAX:
                self._dismiss(holder, reason)
        self._want_again(item)

    def _dismiss(self, holder: _Holder, reason: str) -> None:
        """Ask it nothing more; what it still owes is asked from others."""
        holder.out = holder.out or reason
        for item in holder.open:
            self._want_again(item)

    def _want_again(self, item: _Item) -> None:
        asked = any(item in it.open for it in self._holders.values() if not it.out)
        if item in self._missing and not asked and item not in self._wanted:
            self._wanted.appendleft(item)

    def _take_list(self, holder_id: NodeId, file: int, data: bytes) -> list[Effect]:
        if (file, LIST) not in self._missing:
            return []
        expected = self._manifest.files[file]
        count = piece_count(expected, self._manifest.piece_bytes)
        if len(data) != count * HASH_BYTES or hashlib.sha256(data).digest() != expected.pieces:
            self._dismiss(self._holders[holder_id], f"its piece list of {expected.path} does not match the manifest")
            self._want_again((file, LIST))
            return []
        self._missing.discard((file, LIST))
        self._checking.add(file)
        self._hashes[file] = tuple(data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES))
        return [Check(file, self._hashes[file])]

    def _take_piece(self, holder_id: NodeId, file: int, index: int, data: bytes, sha256: bytes) -> list[Effect]:
        if (file, index) not in self._missing:
            return []
        if sha256 != self._hashes[file][index]:
            path = self._manifest.files[file].path
            self._dismiss(self._holders[holder_id], f"piece {index} of {path} did not match its hash")
            self._want_again((file, index))
            return []
        self._missing.discard((file, index))
        self.done_bytes += len(data)
        self.fetched_bytes += len(data)
        return [Write(file, index, data)]

    # --- asking ---

    def _next(self, now: float) -> list[Effect]:
        """Ask for what is wanted and not asked for; end when there is nothing more, or nobody."""
        if not self._missing and not self._checking:
            self._ended = True
            return [Complete()]
        able = self._able()
        effects: list[Effect] = []
        while (item := self._peek()) is not None:
            free = [node for node, holder in able.items() if len(holder.open) < holder.window]
            if not free:
                break
            self._wanted.popleft()
            effects.append(self._ask(now, min(free, key=self._cost_s), item))
        if not self._wanted:
            effects += self._ask_late(now, able)
        if not able and not any(holder.open for holder in self._holders.values() if not holder.out):
            self._ended = True
            effects.append(GiveUp(self._error()))
        return effects

    def _able(self) -> dict[NodeId, _Holder]:
        """The holders in use: the first few that have the model and have not been dismissed."""
        fit = [(node, holder) for node, holder in self._holders.items() if holder.present and not holder.out]
        return dict(fit[: self._settings.holders_max])

    def _cost_s(self, node: NodeId) -> float:
        """When a holder would be done with one more request."""
        holder = self._holders[node]
        known = [it.piece_s for it in self._holders.values() if it.piece_s is not None]
        believed = holder.piece_s if holder.piece_s is not None else min(known, default=1.0)
        return believed * (len(holder.open) + 1) * (1 + holder.failures)

    def _peek(self) -> _Item | None:
        while self._wanted and self._wanted[0] not in self._missing:
            self._wanted.popleft()
        return self._wanted[0] if self._wanted else None

    def _ask(self, now: float, node: NodeId, item: _Item) -> Effect:
        self._holders[node].open[item] = now
        file, index = item
        return AskList(node, file) if index == LIST else AskPiece(node, file, index)

    def _ask_late(self, now: float, able: dict[NodeId, _Holder]) -> list[Effect]:
        effects: list[Effect] = []
        for item, asked_at in self._open_once().items():
            if item not in self._missing or now - asked_at < LATE_S:
                continue
            free = [node for node, it in able.items() if item not in it.open and len(it.open) < it.window]
            if free:
                effects.append(self._ask(now, min(free, key=self._cost_s), item))
        return effects

    def _open_once(self) -> dict[_Item, float]:
        """Requests that are open at one holder only, with when they were made."""
        seen: dict[_Item, list[float]] = {}
        for holder in self._holders.values():
            for item, at in holder.open.items():
                seen.setdefault(item, []).append(at)
        return {item: at[0] for item, at in seen.items() if len(at) == 1}

    def _error(self) -> TransferFailed:
        reasons = [
            f"{node[:8]}: {holder.out or 'it no longer has the model'}" for node, holder in self._holders.items()
        ]
        name = f"{self._manifest.name}:{self._manifest.version}"
        return TransferFailed(
            f"{name} cannot be fetched ({'; '.join(reasons) or 'no node that is up has it'})",
            hint="start a node that has it, or add the model again",
        )

    def _size(self, file: int, index: int) -> int:
        piece = self._manifest.piece_bytes
        return min(piece, self._manifest.files[file].size - index * piece)
