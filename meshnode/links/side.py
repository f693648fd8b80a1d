"""The two sides of a link as values: who the peer is, what it asks, what it is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from meshnode.config import Links
from meshnode.errors import PeerLost
from meshnode.links.address import Address, plain
from meshnode.links.machine import Machine
from meshnode.wire.flow import Buffer
from meshnode.wire.messages import Hello, LocalReply, LocalRequest, NodeId, PeerReply, PeerRequest
from meshnode.wire.traffic import Traffic

if TYPE_CHECKING:
    from meshnode.links.link import Link


@dataclass(frozen=True, slots=True)
class Peer:
    """The other side, as its HELLO says and the handshake proved."""

    id: NodeId
    name: str
    boot: int
    root: bytes
    port: int
    address: Address | None
    local: bool
    features: frozenset[str]
    software: str
    versions: tuple[int, ...] = ()


class Incoming(Struct, frozen=True):
    """A request to answer."""

    link: Link
    peer: Peer
    request: PeerRequest | LocalRequest
    body: memoryview


class Reply(Struct, frozen=True):
    """An answer to send; the buffers must not change any more."""

    message: PeerReply | LocalReply
    body: Sequence[Buffer] = ()


class Received(Struct, frozen=True):
    """An answer that came."""

    message: PeerReply | LocalReply
    body: memoryview


STATEMENT_BYTES_MAX = 8 * 1024
"""Of a statement in a CLOSE, which comes before HELLO; a revocation is far smaller."""
Handler = Callable[[Incoming], Awaitable[Reply]]
Prove = Callable[[bytes | None], NodeId | None]
"""(the peer's certificate) -> its node id, None for a local client; raises PermissionDenied."""


@dataclass(frozen=True, slots=True)
class Side:
    """What this side of a link is and does; the same for all links of an agent.

    `requests` and `replies` decode what the other side sends.
    """

    hello: Callable[[], Hello]
    handler: Handler
    settings: Links
    requests: Callable[[Any], PeerRequest | LocalRequest]
    replies: Callable[[Any], PeerReply | LocalReply]
    local: bool = False
    told: Callable[[dict[str, Any]], None] = lambda _: None
    """Hears why the other side hangs up, as `closing` says it."""
    late: Callable[[Received], None] = lambda _: None
    """Gets answers that nobody waits for any more."""
    machine: Machine = field(default_factory=Machine)
    traffic: Traffic = field(default_factory=Traffic)
    """Of all its links."""


def closing(code: str, text: str, statement: bytes) -> dict[str, Any]:
    """What CLOSE says: why, and the statement that proves it."""
    known: dict[str, Any] = {"code": code, "message": text}
    return known | {"statement": statement} if 0 < len(statement) <= STATEMENT_BYTES_MAX else known


def peer_of(hello: Hello, address: tuple[Any, ...] | None, *, local: bool) -> Peer:
    """The other side by its HELLO and the address that it called from or was dialled at."""
    return Peer(
        id=NodeId(hello.id),
        name=hello.name,
        boot=hello.boot,
        root=hello.root,
        port=hello.port,
        address=plain(address) if address else None,
        local=local,
        features=frozenset(hello.features),
        software=hello.software,
        versions=hello.versions,
    )


def who(peer: Peer | None, proven: NodeId | None, *, dialled: bool) -> str:
    """The other side, for people."""
    if peer is None:
        return f"node {proven[:8]}" if proven else "a peer"
    if peer.local:
        return "the agent" if dialled else "a local client"
    return f"{peer.name} ({peer.id[:8]})"


def path_of(link: Link) -> str:
    """How a peer is linked, for people and programs."""
    return "direct" if link.via is None else f"relay via {link.via.name}"


def lost(text: str, *, sent: bool, refused: bool = False) -> PeerLost:
    """A PeerLost that says whether the request may have arrived, and whether the address refused."""
    error = PeerLost(text)
    error.sent, error.refused = sent, refused
    return error
