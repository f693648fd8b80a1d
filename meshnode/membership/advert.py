"""What a node can do: its advert, signed by itself and carried by anyone.

The newest `(boot, version)` of each node is kept. An advert holds slow facts only (where it is reached, what hardware
and models it has); load is asked for at the moment of use. The body is signed as it is sent, so that fields of newer
versions survive a relay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.errors import ProtocolError
from meshnode.wire.messages import NodeId
from meshnode.wire.terms import UNREADABLE, Hex64, Id, Name

DOMAIN = b"meshnode/advert/1\0"
ADVERT_BYTES_MAX = 16 * 1024
Text = Annotated[str, Meta(max_length=128)]
Amount = Annotated[int, Meta(ge=0, le=2**60)]


class Cpu(msgspec.Struct, frozen=True, array_like=True):
    """`score` is GFLOP/s of one core on a small product."""

    model: Text
    cores: Annotated[int, Meta(ge=1, le=65536)]
    score: Annotated[float, Meta(ge=0, le=1e9)]


class Gpu(msgspec.Struct, frozen=True, array_like=True):
    """Memory in bytes."""

    name: Text
    memory_total: Amount


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A model on this node's disk; `service_s` is the learnt run time, None before its first run."""

    digest: Hex64
    loaded: bool
    service_s: Annotated[float, Meta(ge=0, le=1e6)] | None


class PowerState(msgspec.Struct, frozen=True, array_like=True):
    """mains, battery or unknown; the charge in percent."""

    source: Text
    percent: Annotated[float, Meta(ge=0, le=100)] | None


class Content(msgspec.Struct, frozen=True):
    """What the agent says about itself; the rest of the advert follows from who says it and when."""

    addresses: Annotated[tuple[tuple[Text, Annotated[int, Meta(ge=1, le=65535)]], ...], Meta(max_length=16)]
    software: Text
    zone: Text
    labels: Annotated[dict[Text, Text], Meta(max_length=64)]
    cpu: Cpu
    memory_total: Amount
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=64)]
    providers: Annotated[tuple[Text, ...], Meta(max_length=16)]
    slots: Annotated[int, Meta(ge=1, le=65536)]
    models: Annotated[tuple[Held, ...], Meta(max_length=128)]
    power: PowerState
    draining: bool = False
    paused: Text = ""
    declined: Annotated[tuple[Hex64, ...], Meta(max_length=128)] = ()
    """Models that a blueprint wants here and that this node cannot have."""
    sandbox: Text = ""


class Advert(Content, frozen=True, kw_only=True):
    """A node's advert. `epoch` and `epoch_key` are those of its datagrams since this start."""

    id: Id
    name: Name
    key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    boot: Annotated[int, Meta(ge=0, lt=2**32)]
    version: Annotated[int, Meta(ge=0, lt=2**32)]
    epoch: Annotated[int, Meta(ge=0, lt=2**32)]
    epoch_key: Annotated[bytes, Meta(min_length=32, max_length=32)]


class Signed(msgspec.Struct, frozen=True, array_like=True):
    """What travels: the advert's bytes and its owner's signature over them."""

    body: bytes
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


_encoder = msgspec.msgpack.Encoder()
_signed = msgspec.msgpack.Decoder(Signed)
_advert = msgspec.msgpack.Decoder(Advert)


def seal(advert: Advert, sign: Callable[[bytes], bytes]) -> bytes:
    """The advert as it travels. Raises ProtocolError when it is too large."""
    body = _encoder.encode(advert)
    if len(body) > ADVERT_BYTES_MAX - 80:
        raise ProtocolError(f"an advert of {len(body)} bytes; {ADVERT_BYTES_MAX} are allowed")
    return _encoder.encode(Signed(body, sign(DOMAIN + body)))


def unseal(data: bytes, verify: Callable[[bytes, bytes, bytes], bool], id_of: Callable[[bytes], NodeId]) -> Advert:
    """The advert in the bytes, when its owner signed it. `verify` takes (raw key, message, signature).

    Raises ProtocolError.
    """
    if len(data) > ADVERT_BYTES_MAX:
        raise ProtocolError(f"an advert of {len(data)} bytes; {ADVERT_BYTES_MAX} are allowed")
    try:
        signed = _signed.decode(data)
        advert = _advert.decode(signed.body)
    except UNREADABLE as error:
        raise ProtocolError(f"not an advert: {error}") from error
    if id_of(advert.key) != advert.id:
        raise ProtocolError(f"an advert of node {advert.id[:8]} carries another node's key")
    if not verify(advert.key, DOMAIN + signed.body, signed.signature):
        raise ProtocolError(f"an advert of node {advert.id[:8]} is not signed by it")
    return advert
