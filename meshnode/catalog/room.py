"""Which models leave the disk when another one needs their room: the least recently used that may go. A core."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meshnode.wire.messages import Digest


@dataclass(frozen=True, slots=True)
class Kept:
    """A model on disk; `used_at` is a wall clock's, for it must outlive the agent."""

    digest: Digest
    nbytes: int
    used_at: float


def leaving(short: int, kept: Iterable[Kept], may_go: Iterable[Digest]) -> list[Digest]:
    """Those whose going makes so many bytes free, the longest unused first; empty when that cannot be had.

    Nothing goes in vain: when all that may go is not enough, none does.
    """
    allowed = set(may_go)
    found: list[Digest] = []
    for it in sorted(kept, key=lambda it: (it.used_at, it.digest)):
        if short <= 0:
            break
        if it.digest in allowed:
            found.append(it.digest)
            short -= it.nbytes
    return found if short <= 0 else []
