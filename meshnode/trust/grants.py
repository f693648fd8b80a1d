"""What a node may, as it follows from the statements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshnode.wire.messages import NodeId

IdOf = Callable[[bytes], NodeId]
"""(public key DER) -> node id"""
GRANT_S = 365 * 86400
"""How long a node is a member by one grant, unless an admin's settings say otherwise."""
EARLY_S = 86400
"""A clock may be behind another's by so much."""
LATE_S = 30 * 86400
"""Who was away when its membership was to be renewed is let in so long after its end, and renewed then."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A node is a member until `expires_at` (UTC seconds).

    Who is in `quarantine` (why; else empty) has no roles until an admin grants them. `invite` is the id of the batch
    invite that let the node in; empty when an admin did. A `final` one is not renewed. `was` is the id that the node
    had before it was given another key.
    """

    node: NodeId
    name: str
    roles: frozenset[str]
    zones: tuple[str, ...]
    granted_by: NodeId
    granted_at: int
    expires_at: int
    statement: bytes
    quarantine: str = ""
    invite: bytes = b""
    final: bool = False
    was: str = ""

    @property
    def ends_at(self) -> int:
        """When it really is over."""
        return self.expires_at + (0 if self.final else LATE_S)
