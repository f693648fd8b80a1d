"""Which piece to ask a holder for: the one that the fewest others have. A core.

The pieces of all files of a model are numbered through, in the order of the manifest; what a holder has is a bitmap
over these numbers. Everybody who fetches also gives, and a piece that only one node has is what all wait for in the
end: so the rarest goes first. Of equals those go first that are this node's share, when all that fetch divide them
among them, so that two seldom ask the source for the same; then they are drawn by lot.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from meshnode.catalog.manifest import Manifest, piece_count
from meshnode.wire.rng import Rng

MIX = 2654435761
"""Knuth's; spreads numbers that follow each other over the shares."""
Flags = npt.NDArray[np.bool_]


def numbering(manifest: Manifest) -> list[int]:
    """The number of each file's first piece, and at the end how many there are."""
    starts = [0]
    for file in manifest.files:
        starts.append(starts[-1] + piece_count(file, manifest.piece_bytes))
    return starts


def pack(flags: Flags) -> bytes:
    """A bitmap: piece n is bit n % 8 of byte n // 8."""
    return np.packbits(flags, bitorder="little").tobytes()


def unpack(bitmap: bytes, count: int) -> Flags:
    """The flags in a bitmap; what it lacks at the end is not there."""
    bits = np.frombuffer(bitmap[: -(-count // 8)], np.uint8)
    flags = np.zeros(count, np.bool_)
    found = np.unpackbits(bits, bitorder="little")[:count]
    flags[: len(found)] = found
    return flags


class Rarity:
    """What is still to be asked for, and how many have it."""

    def __init__(self, count: int, rng: Rng) -> None:
        self.wanted: Flags = np.zeros(count, np.bool_)
        self._rng = rng
        self._copies = np.zeros(count, np.uint16)
        self._share: Flags = np.ones(count, np.bool_)
        self._mixed = np.arange(count, dtype=np.uint32) * np.uint32(MIX) >> np.uint32(8)

    def share(self, rank: int, of: int) -> None:
        """This node is number `rank` of so many that fetch, from 0."""
        self._share = self._mixed % of == rank

    def count(self, held: Iterable[Flags]) -> None:
        """What each of the others has, or is about to have."""
        self._copies[:] = 0
        for flags in held:
            self._copies += flags

    def pick(self, held: Flags | None) -> int | None:
        """A wanted piece of those that a holder has (None: all); None when it has none."""
        numbers = np.flatnonzero(self.wanted if held is None else self.wanted & held)
        if not len(numbers):
            return None
        copies = self._copies[numbers]
        rarest = numbers[copies == copies.min()]
        mine = rarest[self._share[rarest]]
        rarest = mine if len(mine) else rarest
        return int(rarest[self._rng.randrange(len(rarest))])
