"""Byte strings as one body: a MessagePack array of bin, bounded while it is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.errors import ProtocolError
from meshnode.wire.terms import UNREADABLE

ID_BYTES = 32
BATCH_ITEMS_MAX = 50_000

_decoder = msgspec.msgpack.Decoder(Annotated[list[bytes], Meta(max_length=BATCH_ITEMS_MAX)])


def pack_batch(items: Sequence[bytes]) -> bytes:
    """The items as one body."""
    return msgspec.msgpack.encode(items)


def unpack_batch(data: bytes | bytearray | memoryview, *, item_bytes_max: int) -> list[bytes]:
    """The items of a body made by `pack_batch`. Raises ProtocolError, also when an item is longer than allowed."""
    try:
        items: list[bytes] = _decoder.decode(data)
    except UNREADABLE as error:
        raise ProtocolError(f"not a valid batch: {error}") from error
    if any(len(item) > item_bytes_max for item in items):
        raise ProtocolError(f"an item of a batch is longer than {item_bytes_max} bytes")
    return items
