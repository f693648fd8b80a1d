"""The peers of the last time: who was there, where, and when it was last seen. Rows in memory and their bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgpack
import msgspec
from msgspec import Meta

from meshnode.links.address import Address
from meshnode.membership.candidates import ADDRESSES_MAX, Row
from meshnode.wire.messages import NodeId
from meshnode.wire.terms import UNREADABLE

Text = Annotated[str, Meta(min_length=1, max_length=255)]
Place = tuple[Text, Annotated[int, Meta(ge=1, le=65535)]]


class _Row(msgspec.Struct, frozen=True, array_like=True):
    """`seen` is in seconds since 1970 and only orders the rows; 0 = not known."""

    node: Text
    addresses: Annotated[tuple[Place, ...], Meta(max_length=64)]
    seen: int = 0


_decoder = msgspec.msgpack.Decoder(Annotated[tuple[_Row, ...], Meta(max_length=4096)])


class Remembered:
    """At most `limit` nodes, those seen last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: dict[NodeId, tuple[tuple[Address, ...], int]] = {}

    def note(self, node: NodeId, addresses: Iterable[Address], seen: int) -> None:
        """A node is, or was, at these addresses; an older sighting does not make it younger."""
        before = self._rows.pop(node, ((), 0))
        self._rows[node] = tuple(addresses)[:ADDRESSES_MAX] or before[0], max(seen, before[1])

    def forget(self, node: NodeId) -> None:
        """A node is out for good."""
        self._rows.pop(node, None)

    def rows(self) -> tuple[Row, ...]:
        """Who was seen last comes first."""
        self._trim()
        return tuple((node, addresses) for node, (addresses, _) in reversed(self._rows.items()))

    def pack(self) -> bytes:
        """The content of the file."""
        self._trim()
        rows = [[node, [list(a) for a in addresses], seen] for node, (addresses, seen) in reversed(self._rows.items())]
        packed: bytes = msgpack.packb(rows)
        return packed

    def unpack(self, payload: bytes) -> None:
        """Take the content of a file. Raises ValueError when it is none."""
        try:
            rows = _decoder.decode(payload)
        except UNREADABLE as error:
            raise ValueError(str(error)) from error
        for row in reversed(rows):
            self.note(NodeId(row.node), row.addresses, row.seen)

    def _trim(self) -> None:
        self._rows = dict(sorted(self._rows.items(), key=lambda item: item[1][1])[-self._limit :])


def packed_peers(peers: Iterable[tuple[NodeId, Iterable[Address]]], seen: int = 0) -> bytes:
    """The content of the file for peers in this order."""
    remembered = Remembered(4096)
    for node, addresses in reversed(list(peers)):
        remembered.note(node, addresses, seen)
    return remembered.pack()
