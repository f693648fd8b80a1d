"""Datagram contents: any bytes are a packet or one error."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st

from meshnode.errors import ProtocolError
from meshnode.membership import updates


@given(st.binary(max_size=300))
@example(b"\x95\x01\x00\xc0\xc0\xc0")
def test_any_bytes_are_a_packet_or_one_error(data: bytes) -> None:
    """Nothing but ProtocolError leaves the decoders."""
    for decode in (updates.decode_packet, updates.decode_update):
        with suppress(ProtocolError):
            decode(data)


def test_unknown_elements_at_the_end_are_ignored() -> None:
    """A newer version may add fields to a packet."""
    data = bytearray(updates.encode(updates.Ping(7)))
    assert 0x94 == data[0]
    data[0] = 0x95

    assert updates.Ping(7) == updates.decode_packet(bytes(data) + b"\xa3new")
