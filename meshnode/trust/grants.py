"""What a node may, as it follows from the statements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshnode.wire.messages import NodeId

IdOf = Callable[[bytes], NodeId]
"""(public key DER) -> node id"""
GRANT_S = 365 * 86400
"""How long a node is a member by one grant."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A node is a member until `expires_at` (UTC seconds).

    Who is in `quarantine` (why; else empty) has no roles until an admin grants them. `invite` is the id of the batch
    invite that let the node in; empty when an admin did.
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
