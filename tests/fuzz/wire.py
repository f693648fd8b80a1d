"""Readers of what comes from other agents, for the table of targets. Raises what the decoders raise."""

from __future__ import annotations

from functools import cache

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from meshnode.catalog import rarity
from meshnode.config import Links
from meshnode.errors import ProtocolError, from_wire
from meshnode.membership import advert as adverts
from meshnode.membership import entropy, updates
from meshnode.trust import identity
from meshnode.trust.sealing import Sealer
from meshnode.wire import batches, messages
from meshnode.wire import tensors as tensors_
from meshnode.wire.flow import FrameWriter
from meshnode.wire.frames import Control, FrameReader, Landed, Message, Type, pack
from meshnode.wire.messages import TensorSpec
from tests.trust.cast import Person

LINKS = Links()
HELLO = pack(Type.HELLO, 0, b"hello")
TOWN = "ab" * 32
ANN, BOB = Person(11), Person(12)
EPOCH = 7
_specs = msgspec.msgpack.Decoder(tuple[TensorSpec, ...])


def frames(data: bytes) -> None:
    """A connection after its HELLO, or before it; the first byte says which, and in what pieces the rest comes."""
    reader, writer = FrameReader(LINKS), FrameWriter(LINKS)
    head, rest = data[:1] or b"\0", data[1:]
    if head[0] & 1:
        rest = HELLO + rest
    step, at = (head[0] >> 1) * 3 or len(rest), 0
    while at < len(rest):
        buffer = reader.get_buffer()
        assert len(buffer) > 0
        size = max(1, min(step, len(buffer), len(rest) - at))
        buffer[:size] = rest[at : at + size]
        at += size
        for event in reader.received(size):
            match event:
                case Message():
                    assert len(event.body) <= LINKS.body_bytes_max
                case Control(type=Type.CREDIT):
                    writer.credit(event.stream, event.aux)
                case Control(type=Type.CANCEL | Type.ERR):
                    reader.discard(event.stream)
                    writer.cancel(event.stream)
                case Landed():
                    assert event.nbytes >= 0
    assert reader.open_streams <= LINKS.streams_max


def _said_again(message: messages.AnyMessage, again: messages.AnyMessage) -> None:
    assert messages.encode(message) == messages.encode(again)


def hello(data: bytes) -> None:
    """The first frame of a link."""
    it = messages.decode_hello(data)
    _said_again(it, messages.decode_hello(messages.encode(it)))


def request(data: bytes) -> None:
    """A request of a peer, and whether its tensors contradict themselves."""
    it = messages.decode_peer_request(data)
    _said_again(it, messages.decode_peer_request(messages.encode(it)))
    if isinstance(it, messages.Infer):
        tensors_.layout(it.inputs)


def reply(data: bytes) -> None:
    """An answer of a peer."""
    it = messages.decode_peer_reply(data)
    _said_again(it, messages.decode_peer_reply(messages.encode(it)))
    if isinstance(it, messages.Inferred):
        tensors_.layout(it.outputs)


def error(data: bytes) -> None:
    """An error of a peer, which must go on to whoever waits here."""
    it = from_wire(messages.decode_error(data))
    again = from_wire(messages.decode_error(messages.encode_error(it.to_wire())))
    assert (it.code, str(it), it.stage) == (again.code, str(again), again.stage)


def batch(data: bytes) -> None:
    """Byte strings in a body."""
    items = batches.unpack_batch(data, item_bytes_max=4096)
    assert items == batches.unpack_batch(batches.pack_batch(items), item_bytes_max=4096)


def tensors(data: bytes) -> None:
    """Two bytes of length, the specs, the body."""
    size = int.from_bytes(data[:2], "little")
    try:
        specs = _specs.decode(data[2 : 2 + size])
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise ProtocolError("no specs") from wrong  # what the message around them would say
    if any(len(spec.shape) > 32 for spec in specs):
        raise ProtocolError("the message around them takes no more dimensions")
    arrays = tensors_.decode(specs, data[2 + size :])
    for spec in specs:
        assert spec.shape == arrays[spec.name].shape
    written, parts = tensors_.encode(arrays)
    assert sum(map(len, parts)) <= len(data) + tensors_.ALIGN
    assert [it.name for it in written] == [it.name for it in specs]


def packet(data: bytes) -> None:
    """What is in a datagram that opened."""
    it = updates.decode_packet(data)
    assert it == updates.decode_packet(updates.encode(it))
    for update in it.updates:
        updates.genuine(update, identity.verify, ANN.spki[-32:])


def table(data: bytes) -> None:
    """Rows, or news, of anti-entropy; the first byte says which."""
    body = memoryview(data)[1:]
    if data[:1] == b"r":
        rows = entropy.decode_rows(body)
        assert rows == entropy.decode_rows(entropy.encode(rows))
    else:
        news = entropy.decode_news(body)
        assert news == entropy.decode_news(entropy.encode(news))


@cache
def pair() -> tuple[Sealer, Sealer]:
    """Ann's seals and Bob's, who know each other."""
    keys = [X25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2)]
    ann, bob = (Sealer(key, who.id, TOWN, EPOCH) for key, who in zip(keys, (ANN, BOB), strict=True))
    ann.set_peer(BOB.id, EPOCH, bob.public)
    bob.set_peer(ANN.id, EPOCH, ann.public)
    return ann, bob


def sealed(data: bytes) -> None:
    """A datagram for Bob."""
    _, bob = pair()
    sender, plain = bob.open(data)
    assert sender == ANN.id
    updates.decode_packet(plain)


def advert(data: bytes) -> None:
    """The signed advert of a node. That begins with `s`: Ann signs the rest, as a member that lies does."""
    if data[:1] == b"s":
        data = msgspec.msgpack.encode(adverts.Signed(data[1:], ANN.key.sign(adverts.DOMAIN + data[1:])))
    it = adverts.unseal(data, _verify_raw, lambda key: identity.node_id(updates.SPKI_PREFIX + key))
    assert it == adverts.unseal(adverts.seal(it, ANN.key.sign), lambda *_: True, lambda _: it.id)  # type: ignore[arg-type,return-value]
    bob = Sealer(X25519PrivateKey.from_private_bytes(bytes(32)), BOB.id, TOWN, EPOCH)
    bob.set_peer(it.id, it.epoch, it.epoch_key)  # type: ignore[arg-type]


def _verify_raw(key: bytes, message: bytes, signature: bytes) -> bool:
    return identity.verify(updates.SPKI_PREFIX + key, message, signature)


def bitmap(data: bytes) -> None:
    """Which pieces somebody has: as many flags as asked for, whatever came."""
    count = int.from_bytes(data[:2], "little")
    flags = rarity.unpack(data[2:], count)
    assert count == len(flags)
    assert rarity.pack(flags) == rarity.pack(rarity.unpack(rarity.pack(flags), count))
