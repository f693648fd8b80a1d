"""Whose turn it is: chunks of one direction of a circuit arrive in any order and are taken in theirs. A core."""

from __future__ import annotations

from meshnode.errors import ProtocolError
from meshnode.links.ledger import WINDOW


class Turns:
    """The receiving end's order; at most a window of chunks is here at once."""

    def __init__(self) -> None:
        self._next = 0
        self._here: set[int] = set()

    def claim(self, seq: int) -> bool:
        """A chunk came; whether it is its turn now. Raises ProtocolError for one that was, or is too far ahead."""
        if seq in self._here or not self._next <= seq < self._next + WINDOW:
            raise ProtocolError(f"chunk {seq} of a circuit, and {self._next} is the next of a window of {WINDOW}")
        self._here.add(seq)
        return seq == self._next

    def done(self) -> int | None:
        """The chunk whose turn it was is taken; the one whose turn it is now, when it is here."""
        self._here.discard(self._next)
        self._next += 1
        return self._next if self._next in self._here else None
