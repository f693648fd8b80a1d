"""Fetching a model: which piece from whom, what is believed, when to give up. A core.

First the piece list of each file, which the signed manifest vouches for; what is on disk already is not asked for.
Then the pieces, the rarest first, a few at a time from each of a few holders, more from those that answer sooner.
Holders say which pieces they have, and who else is fetching: these fellows are holders of what has reached them. A
piece that does not match is never written and costs its sender the transfer; a holder that does not answer gets fewer
requests, then none. In the end, pieces that a slow holder keeps waiting for are asked from another as well. It ends
when all pieces are there, or when nobody is left to ask.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass, field
from math import isnan
from typing import assert_never

from meshnode.catalog.manifest import Manifest, piece_count
from meshnode.catalog.rarity import Flags, Rarity, numbering, unpack
from meshnode.catalog.steps import (
    LIST,
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
    ListCame,
    NoHave,
    OnDisk,
    PieceCame,
    Write,
)
from meshnode.config import Catalog as Settings
from meshnode.errors import TransferFailed
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

HASH_BYTES = 32
FAILURES_MAX = 3
"""A holder that failed so often in a row is left alone."""
LATE_S = 2.0
"""Once nothing new is left to ask, a piece that is open for so long is asked from another holder as well."""
HAVE_S = 0.5
"""Holders are asked so often what they have and who else is fetching."""
FELLOWS_MAX = 16
"""Others that fetch and that this node asks; of more it takes those that it hears of first."""
STALL_S = 10.0
"""When only fellows are left, and none has what is missing, they get so long to come by it."""
ALPHA = 0.3
_Item = tuple[int, int]
"""(file, piece index or LIST)"""


@dataclass(slots=True)
class _Holder:
    window: int
    """Requests it may have open; halved by a failure, so that a slow link is not asked for more than it carries."""
    whole: bool
    """It has all of the model; else what it said last."""
    have: Flags | None = None
    given: Flags | None = None
    have_at: float = float("-inf")
    """When it is to be asked again what it has; never while it is being asked."""
    present: bool = True
    open: dict[_Item, float] = field(default_factory=dict)
    failures: int = 0
    failed_at: float = float("-inf")
    piece_s: float | None = None
    out: str = ""


class Transfer:
    """One model on its way here."""

    def __init__(self, self_id: NodeId, manifest: Manifest, settings: Settings, rng: Rng) -> None:
        self._self_id = self_id
        self._manifest = manifest
        self._settings = settings
        self._rng = rng
        self._holders: dict[NodeId, _Holder] = {}
        self._hashes: dict[int, tuple[bytes, ...]] = {}
        self._starts = numbering(manifest)
        self._missing: set[_Item] = set()
        self._rarity = Rarity(self._starts[-1], rng)
        """Its `wanted` is what nobody has been asked for yet."""
        self._lists: list[int] = []
        """The files whose list nobody has been asked for yet."""
        self._checking: set[int] = set()
        self._ended = False
        self._moved_at = float("nan")
        """When the first event or the last piece came."""
        self.done_bytes = 0
        self.fetched_bytes = 0
        for file, it in enumerate(manifest.files):
            if it.size:
                self._missing.add((file, LIST))
                self._lists.append(file)

    def next_deadline(self) -> float | None:
        """When a request is late enough to be put to another holder as well, or what holders have is to be asked."""
        if self._ended:
            return None
        able = self._able()
        times = [holder.have_at for holder in able.values()]
        if not self._lists and not self._rarity.wanted.any() and len(able) > 1:
            times += [at + self._late_s(item) for item, at in self._open_once().items() if item in self._missing]
        return min(times, default=None)

    def handle(self, now: float, event: Event) -> list[Effect]:
        """One event; returns what to do."""
        if self._ended:
            return []
        if isnan(self._moved_at):
            self._moved_at = now
        effects: list[Effect] = []
        match event:
            case Holders(nodes):
                for node in nodes:
                    holder = self._holders.setdefault(node, self._new(whole=True))
                    holder.whole = holder.present = True
                for node, holder in self._holders.items():
                    if holder.whole and node not in nodes:
                        holder.whole = holder.present = False
            case HaveCame(holder_id, have, given, fellows):
                self._take_have(now, holder_id, have, given, fellows)
            case NoHave(holder_id):
                self._holders[holder_id].have_at = self._have_again(now)
                self._holders[holder_id].present = self._holders[holder_id].whole
            case ListCame(holder_id, file, data):
                self._answered(now, holder_id, (file, LIST))
                effects += self._take_list(holder_id, file, data)
            case OnDisk(file, indexes):
                self._checking.discard(file)
                for index in set(range(len(self._hashes[file]))) - set(indexes):
                    self._missing.add((file, index))
                    self._rarity.wanted[self._starts[file] + index] = True
                self.done_bytes += sum(self._size(file, index) for index in indexes)
            case PieceCame(holder_id, file, index, data, sha256):
                self._answered(now, holder_id, (file, index))
                effects += self._take_piece(now, holder_id, file, index, data, sha256)
            case Failed(holder_id, file, index, reason):
                self._failed(now, holder_id, (file, index), reason)
            case _:
                assert_never(event)
        return effects + self._next(now)

    # --- what others have ---

    def _new(self, *, whole: bool) -> _Holder:
        return _Holder(self._settings.pieces_in_flight, whole)

    def _have_again(self, now: float) -> float:
        return now + HAVE_S * (0.75 + self._rng.random() / 2)

    def _take_have(self, now: float, holder_id: NodeId, have: bytes, given: bytes, fellows: tuple[NodeId, ...]) -> None:
        holder = self._holders[holder_id]
        holder.have, holder.given = unpack(have, self._starts[-1]), unpack(given, self._starts[-1])
        holder.have_at = self._have_again(now)
        for node in fellows:
            if node in self._holders:
                self._holders[node].present = True
            elif sum(not it.whole for it in self._holders.values()) < FELLOWS_MAX:
                self._holders[node] = self._new(whole=False)
        known = [it for it in self._holders.values() if it.present and not it.out]
        fetching = sorted([self._self_id, *(node for node, it in self._holders.items() if it.present and not it.whole)])
        self._rarity.share(fetching.index(self._self_id), len(fetching))
        # What a holder has given away is elsewhere soon, though nobody says so yet.
        told = [flags for it in known for flags in (it.given, None if it.whole else it.have) if flags is not None]
        self._rarity.count(told)

    def _has(self, holder: _Holder, item: _Item) -> bool:
        file, index = item
        if holder.whole:
            return True
        if holder.have is None:
            return False
        if index == LIST:
            return bool(holder.have[self._starts[file] : self._starts[file + 1]].any())
        return bool(holder.have[self._starts[file] + index])

    # --- what came ---

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
        if item in self._missing and not asked:
            self._want(item, wanted=True)

    def _want(self, item: _Item, *, wanted: bool) -> None:
        file, index = item
        if index != LIST:
            self._rarity.wanted[self._starts[file] + index] = wanted
        elif wanted and file not in self._lists:
            self._lists.append(file)
        elif not wanted and file in self._lists:
            self._lists.remove(file)

    def _take_list(self, holder_id: NodeId, file: int, data: bytes) -> list[Effect]:
        if (file, LIST) not in self._missing:
            return []
        expected = self._manifest.files[file]
        count = piece_count(expected, self._manifest.piece_bytes)
        if len(data) != count * HASH_BYTES or hashlib.sha256(data).digest() != expected.pieces:
            self._dismiss(self._holders[holder_id], f"its piece list of {expected.path} does not match the manifest")
            self._want_again((file, LIST))
            return []
        self._came((file, LIST))
        self._checking.add(file)
        self._hashes[file] = tuple(data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES))
        return [Check(file, self._hashes[file])]

    def _take_piece(
        self, now: float, holder_id: NodeId, file: int, index: int, data: bytes, sha256: bytes
    ) -> list[Effect]:
        if (file, index) not in self._missing:
            return []
        if sha256 != self._hashes[file][index]:
            path = self._manifest.files[file].path
            self._dismiss(self._holders[holder_id], f"piece {index} of {path} did not match its hash")
            self._want_again((file, index))
            return []
        self._came((file, index))
        self._moved_at = now
        self.done_bytes += len(data)
        self.fetched_bytes += len(data)
        return [Write(file, index, data)]

    def _came(self, item: _Item) -> None:
        self._missing.discard(item)
        self._want(item, wanted=False)

    # --- asking ---

    def _next(self, now: float) -> list[Effect]:
        """Ask for what is wanted and not asked for; end when there is nothing more, or nobody."""
        if not self._missing and not self._checking:
            self._ended = True
            return [Complete()]
        able = self._able()
        effects: list[Effect] = []
        for node, holder in able.items():
            if holder.have_at <= now:
                holder.have_at = float("inf")
                effects.append(AskHave(node))
        free = {node for node, holder in able.items() if len(holder.open) < holder.window}
        while free:
            node = min(free, key=lambda it: (self._cost_s(it), list(able).index(it)))
            item = self._pick(able[node])
            if item is None:
                free.discard(node)
                continue
            self._want(item, wanted=False)
            effects.append(self._ask(now, node, item))
            if len(able[node].open) >= able[node].window:
                free.discard(node)
        if not self._lists and not self._rarity.wanted.any():
            effects += self._ask_late(now, able)
        if not any(holder.open for holder in self._holders.values() if not holder.out) and self._lost(now, able):
            self._ended = True
            effects.append(GiveUp(self._error()))
        return effects

    def _lost(self, now: float, able: dict[NodeId, _Holder]) -> bool:
        """Nothing is under way, and nothing can be expected."""
        if self._checking or any(holder.whole for holder in able.values()):
            return False
        return not able or now - self._moved_at > STALL_S

    def _pick(self, holder: _Holder) -> _Item | None:
        for file in self._lists:
            if self._has(holder, (file, LIST)):
                return file, LIST
        if not holder.whole and holder.have is None:
            return None
        number = self._rarity.pick(None if holder.whole else holder.have)
        if number is None:
            return None
        file = bisect_right(self._starts, number) - 1
        return file, number - self._starts[file]

    def _able(self) -> dict[NodeId, _Holder]:
        """The holders in use: the first few that have the model, and the fellows, without those dismissed."""
        fit = [(node, holder) for node, holder in self._holders.items() if holder.present and not holder.out]
        whole = [row for row in fit if row[1].whole]
        return dict(whole[: self._settings.holders_max] + [row for row in fit if not row[1].whole])

    def _cost_s(self, node: NodeId) -> float:
        """When a holder would be done with one more request."""
        holder = self._holders[node]
        known = [it.piece_s for it in self._holders.values() if it.piece_s is not None]
        believed = holder.piece_s if holder.piece_s is not None else min(known, default=1.0)
        return believed * (len(holder.open) + 1) * (1 + holder.failures)

    def _ask(self, now: float, node: NodeId, item: _Item) -> Effect:
        self._holders[node].open[item] = now
        file, index = item
        return AskList(node, file) if index == LIST else AskPiece(node, file, index)

    def _ask_late(self, now: float, able: dict[NodeId, _Holder]) -> list[Effect]:
        effects: list[Effect] = []
        for item, asked_at in self._open_once().items():
            if item not in self._missing or now < asked_at + self._late_s(item):
                continue
            free = [
                node
                for node, it in able.items()
                if item not in it.open and len(it.open) < it.window and self._has(it, item)
            ]
            if free:
                effects.append(self._ask(now, min(free, key=self._cost_s), item))
        return effects

    def _late_s(self, item: _Item) -> float:
        """After how long an answer is late: where all is slow, later."""
        for holder in self._holders.values():
            if item in holder.open:
                return max(LATE_S, 2 * (holder.piece_s or 0.0) * (len(holder.open) + 1))
        return LATE_S

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
