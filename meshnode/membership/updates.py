"""What nodes tell each other about nodes: signed updates, and the datagrams that carry them.

An update is about one subject at one version `(gen, inc)`: `gen` counts the starts of its agent, `inc` its
refutations. Only the subject can raise its version, for `Alive` and `Left` carry its signature and its key; `Suspect`
and `Dead` carry the accuser's and name a version that the subject has signed. Everything is a MessagePack array;
unknown fields at the end are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshnode.errors import ProtocolError
from meshnode.wire.terms import UNREADABLE

DOMAIN = b"meshnode/membership/1\0"
SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in its DER SubjectPublicKeyInfo."""

Id = Annotated[bytes, Meta(min_length=32, max_length=32)]
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Gen = Annotated[int, Meta(ge=0, lt=2**32)]
Inc = Annotated[int, Meta(ge=0, lt=2**32)]
Born = Annotated[int, Meta(ge=0, lt=2**62)]
Seq = Annotated[int, Meta(ge=0, lt=2**32)]
View = Annotated[int, Meta(ge=0, lt=2**32)]
Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes, bytes], bool]
"""(DER key, message, signature) -> is it right?"""


class Update(msgspec.Struct, frozen=True, array_like=True, tag_field="t"):
    """The base of updates."""


class Alive(Update, frozen=True, tag=1):
    """The subject says that it lives.

    `advert` is the version of its advert; `born` names this start of it, a later start having a greater one; `twin`
    is not 0 when the subject knows that another start with the same key runs at the same time, and names that one.
    """

    key: Key
    gen: Gen
    inc: Inc
    advert: Annotated[int, Meta(ge=0, lt=2**32)]
    born: Born
    twin: Born
    signature: Signature


class Suspect(Update, frozen=True, tag=2):
    """The accuser could not reach the subject."""

    subject: Id
    gen: Gen
    inc: Inc
    accuser: Id
    signature: Signature


class Dead(Update, frozen=True, tag=3):
    """The accuser's suspicion was not refuted in time."""

    subject: Id
    gen: Gen
    inc: Inc
    accuser: Id
    signature: Signature


class Left(Update, frozen=True, tag=4):
    """The subject says goodbye."""

    key: Key
    gen: Gen
    inc: Inc
    reason: Annotated[str, Meta(max_length=32)]
    signature: Signature


AnyUpdate = Alive | Suspect | Dead | Left
Updates = Annotated[tuple[AnyUpdate, ...], Meta(max_length=64)]


class Packet(msgspec.Struct, frozen=True, array_like=True, tag_field="t"):
    """The base of datagrams' contents."""


class Ping(Packet, frozen=True, tag=1):
    """Are you there? `view` is the sender's root of its table, 0 while it has news to tell."""

    seq: Seq
    updates: Updates = ()
    view: View = 0


class Ack(Packet, frozen=True, tag=2):
    """I am, or: the one you asked me to ping is."""

    seq: Seq
    updates: Updates = ()
    view: View = 0


class PingReq(Packet, frozen=True, tag=3):
    """Ping this node for me, and tell me within `timeout_ms`, also when it does not answer."""

    seq: Seq
    target: Id
    timeout_ms: Annotated[int, Meta(ge=1, le=60_000)]
    updates: Updates = ()


class Nack(Packet, frozen=True, tag=4):
    """It did not answer me either."""

    seq: Seq
    updates: Updates = ()


class Gossip(Packet, frozen=True, tag=5):
    """Only updates."""

    updates: Updates = ()


AnyPacket = Ping | Ack | PingReq | Nack | Gossip

_encoder = msgspec.msgpack.Encoder()
_packet = msgspec.msgpack.Decoder(AnyPacket)
_update = msgspec.msgpack.Decoder(AnyUpdate)


def encode(value: AnyPacket | AnyUpdate) -> bytes:
    """As MessagePack."""
    return _encoder.encode(value)


def _decode(decoder: Any, data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except UNREADABLE as error:
        raise ProtocolError(f"not a datagram's content: {error}") from error


def decode_packet(data: bytes) -> AnyPacket:
    """Raises ProtocolError."""
    packet: AnyPacket = _decode(_packet, data)
    return packet


def decode_update(data: bytes) -> AnyUpdate:
    """Raises ProtocolError."""
    update: AnyUpdate = _decode(_update, data)
    return update


def _signed(kind: int, *fields: object) -> bytes:
    return DOMAIN + _encoder.encode([kind, *fields])


def alive(sign: Sign, key: bytes, gen: int, inc: int, advert: int, *, born: int = 0, twin: int = 0) -> Alive:
    """Signed by the subject."""
    return Alive(key, gen, inc, advert, born, twin, sign(_signed(1, key, gen, inc, advert, born, twin)))


def left(sign: Sign, key: bytes, gen: int, inc: int, reason: str) -> Left:
    """Signed by the subject."""
    return Left(key, gen, inc, reason, sign(_signed(4, key, gen, inc, reason)))


def suspect(sign: Sign, subject: bytes, gen: int, inc: int, accuser: bytes) -> Suspect:
    """Signed by the accuser."""
    return Suspect(subject, gen, inc, accuser, sign(_signed(2, subject, gen, inc, accuser)))


def dead(sign: Sign, subject: bytes, gen: int, inc: int, accuser: bytes) -> Dead:
    """Signed by the accuser."""
    return Dead(subject, gen, inc, accuser, sign(_signed(3, subject, gen, inc, accuser)))


def genuine(update: AnyUpdate, verify: Verify, key_of_accuser: bytes | None) -> bool:
    """Whether the signature is its signer's; an accuser whose key is not known is not believed."""
    match update:
        case Alive(key, gen, inc, advert, born, twin, signature):
            return verify(SPKI_PREFIX + key, _signed(1, key, gen, inc, advert, born, twin), signature)
        case Left(key, gen, inc, reason, signature):
            return verify(SPKI_PREFIX + key, _signed(4, key, gen, inc, reason), signature)
        case Suspect(subject, gen, inc, accuser, signature) | Dead(subject, gen, inc, accuser, signature):
            kind = 2 if isinstance(update, Suspect) else 3
            message = _signed(kind, subject, gen, inc, accuser)
            return key_of_accuser is not None and verify(SPKI_PREFIX + key_of_accuser, message, signature)


def size(updates: Sequence[AnyUpdate]) -> int:
    """Bytes of some updates in a packet."""
    return sum(len(_encoder.encode(update)) for update in updates)
