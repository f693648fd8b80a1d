"""What members leave with a broker for members: sealed, signed, and good for a while. Pure.

Who holds the mesh's genesis can read it, which is every node that is or was a member, and nobody else: the two keys
come from the genesis' 32 random bytes. Who wrote it is proven by the node's own signature, so that a node that was
thrown out reads addresses which it knew, and writes nothing. The topic is bound into the seal: what lies at another
node's place does not open. A record tells its time, its node's start and a number that grows.

    sealed  = nonce 12 | ChaCha20-Poly1305(plain), with the topic as additional data
    plain   = MessagePack [kind, public key (DER), boot, number, at, content, signature 64]
    signed  = domain | topic | MessagePack [kind, public key, boot, number, at, content]
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta

from meshnode.errors import PermissionDenied, ProtocolError
from meshnode.trust import identity
from meshnode.wire.messages import NodeId
from meshnode.wire.terms import UNREADABLE

DOMAIN = b"meshnode/mqtt/1"
NONCE_BYTES, TAG_BYTES = 12, 16
SEALED_BYTES_MAX = 1024
FRESH_S = 3600.0
"""A record whose time is further from the reader's clock, either way, is not believed."""
ADDRESSES_MAX = 8
KNOWN_MAX = 4096
Kind = Literal["here", "taken", "again"]
Place = tuple[Annotated[str, Meta(min_length=1, max_length=255)], Annotated[int, Meta(ge=1, le=65535)]]
_Number = Annotated[int, Meta(ge=0, le=2**53)]


class Here(msgspec.Struct, frozen=True, array_like=True):
    """A node is reached at these addresses."""

    addresses: Annotated[tuple[Place, ...], Meta(max_length=ADDRESSES_MAX)]


class Taken(msgspec.Struct, frozen=True, array_like=True):
    """A task is with the sender, and its answer is kept there for so long."""

    task: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    seconds: Annotated[float, Meta(ge=0, le=1e9)]


class Again(msgspec.Struct, frozen=True, array_like=True):
    """A task that is with the node `of` was asked for once more."""

    task: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    of: Annotated[str, Meta(max_length=64)]


Content = Here | Taken | Again
_KINDS: dict[str, type[Content]] = {"here": Here, "taken": Taken, "again": Again}
_NAMES = {cls: name for name, cls in _KINDS.items()}


class _Plain(msgspec.Struct, frozen=True, array_like=True):
    kind: Kind
    key: Annotated[bytes, Meta(max_length=64)]
    boot: _Number
    number: _Number
    at: _Number
    content: msgspec.Raw
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


_decoder = msgspec.msgpack.Decoder(_Plain)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a member wrote, and which."""

    node: NodeId
    boot: int
    number: int
    content: Content


@dataclass(slots=True)
class Sealing:
    """Seals and opens what members of one mesh leave with brokers.

    Args:
        random: the random bytes of the genesis.
        prefix: the first level of the topics.
        check: raises PermissionDenied for a node that is no member.
    """

    random: bytes
    prefix: str
    check: Callable[[NodeId], None]
    _cipher: ChaCha20Poly1305 = field(init=False)
    _tags: bytes = field(init=False)
    _newest: dict[tuple[NodeId, str], tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys = HKDF(SHA256(), 64, salt=None, info=DOMAIN).derive(self.random)
        self._cipher, self._tags = ChaCha20Poly1305(keys[:32]), keys[32:]

    # --- topics: without the key they say nothing ---

    @property
    def base(self) -> str:
        """Below it lies all that is sealed."""
        return f"{self.prefix}/{self._tag(b'mesh')}"

    def place(self, node: NodeId) -> str:
        """Where a node leaves its addresses."""
        return f"{self.base}/{self._tag(b'node' + identity.id_bytes(node))}"

    @property
    def notes(self) -> str:
        """Where nodes that take tasks tell each other which."""
        return f"{self.base}/{self._tag(b'notes')}"

    def _tag(self, what: bytes) -> str:
        return hmac.digest(self._tags, what, "sha256")[:TAG_BYTES].hex()

    # --- bytes ---

    def seal(
        self,
        topic: str,
        content: Content,
        *,
        key: bytes,
        sign: Callable[[bytes], bytes],
        boot: int,
        number: int,
        at: float,
        nonce: bytes,
    ) -> bytes:
        """What is left at a topic; the nonce is random. Raises ProtocolError when it would be too long."""
        head = (_NAMES[type(content)], key, boot, number, int(at), content)
        signature = sign(_signed(topic, msgspec.msgpack.encode(head)))
        sealed = nonce + self._cipher.encrypt(nonce, msgspec.msgpack.encode((*head, signature)), topic.encode())
        if len(sealed) > SEALED_BYTES_MAX:
            raise ProtocolError(f"a record of {len(sealed)} bytes; {SEALED_BYTES_MAX} are allowed")
        return sealed

    def open(self, topic: str, sealed: bytes, now: float) -> Opened:
        """What a member wrote there. Raises ProtocolError, PermissionDenied: forged, old, replayed, a stranger's."""
        if not NONCE_BYTES < len(sealed) <= SEALED_BYTES_MAX:
            raise ProtocolError(f"a record of {len(sealed)} bytes")
        try:
            plain = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], topic.encode())
        except InvalidTag as error:
            raise ProtocolError("forged, or left for another place") from error
        try:
            fields = _decoder.decode(plain)
            content: Content = msgspec.msgpack.decode(fields.content, type=_KINDS[fields.kind])
        except UNREADABLE as error:
            raise ProtocolError(f"a record of a form that is not known: {error}") from error
        node = identity.node_id(fields.key)
        head = (fields.kind, fields.key, fields.boot, fields.number, fields.at, fields.content)
        if not identity.verify(fields.key, _signed(topic, msgspec.msgpack.encode(head)), fields.signature):
            raise PermissionDenied(f"the signature of node {node[:8]} is wrong")
        self.check(node)
        if fields.kind == "here" and topic != self.place(node):
            raise PermissionDenied(f"node {node[:8]} wrote at the place of another")
        if abs(now - fields.at) > FRESH_S:
            raise ProtocolError(f"it is of {now - fields.at:.0f} s ago, by the clocks of its writer and of this node")
        self._check_new(node, fields)
        return Opened(node, fields.boot, fields.number, content)

    def _check_new(self, node: NodeId, fields: _Plain) -> None:
        # Numbers grow across topics; each is remembered by topic's kind, for they may overtake each other.
        lane = "here" if fields.kind == "here" else "notes"
        count = (fields.boot, fields.number)
        newest = self._newest.pop((node, lane), (-1, -1))
        self._newest[node, lane] = max(newest, count)
        while len(self._newest) > KNOWN_MAX:
            del self._newest[next(iter(self._newest))]
        if count < newest or (count == newest and lane == "notes"):
            raise ProtocolError(f"replayed: number {count} of node {node[:8]}, and {newest} came before")


def _signed(topic: str, head: bytes) -> bytes:
    return DOMAIN + b"\0" + topic.encode() + b"\0" + head
