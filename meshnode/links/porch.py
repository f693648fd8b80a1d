"""Whose handshake is given up when too many are under way at once. A core.

Nobody waits for the handshakes of others: a thousand strangers that say a byte a second would make members wait for
as long as these are suffered. Whoever comes is let in, and beyond the room the oldest goes of the source that has most.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Guest = TypeVar("Guest")


class Porch(Generic[Guest]):
    """Guests in the order in which they came, by where they come from."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._count = 0
        self._by_source: dict[str, dict[Guest, None]] = {}

    def __len__(self) -> int:
        return self._count

    def enter(self, guest: Guest, source: str) -> Guest | None:
        """Somebody came; who has to go for it."""
        self._by_source.setdefault(source, {})[guest] = None
        self._count += 1
        if self._count <= self._room:
            return None
        most = max(self._by_source, key=lambda it: len(self._by_source[it]))
        goes = next(iter(self._by_source[most]))
        self.leave(goes, most)
        return goes

    def leave(self, guest: Guest, source: str) -> None:
        """Its handshake is over; or it had to go before."""
        guests = self._by_source.get(source, {})
        if guest in guests:
            del guests[guest]
            self._count -= 1
        if not guests:
            self._by_source.pop(source, None)
