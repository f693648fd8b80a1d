"""Bulk gives way by the kernel's pacing of its connection."""

from __future__ import annotations

import socket
import struct
import sys

import pytest

from meshnode.links.yielding import SO_MAX_PACING_RATE, UNBOUND, pace


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux paces a connection when asked")
@pytest.mark.parametrize("rate", [1.0, 1e6, 2.0**31 - 1, 2.0**31, 2.0**32 - 1, 1e12, None])
def test_every_rate_is_taken_by_the_kernel_and_none_ends_the_bound(rate: float | None) -> None:
    """Also those that a C int cannot hold: the end of a bound is one of them."""
    with socket.socket() as connection:
        pace(connection, 5e5)
        pace(connection, rate)
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8)
        bound = int.from_bytes(raw, sys.byteorder)
        unbound = {UNBOUND, 2**64 - 1}  # the kernel keeps "no bound" as the largest of its own words
        expected = unbound if rate is None or rate >= UNBOUND else {int(rate)}
        assert bound in expected, struct.unpack("=II", raw.ljust(8, b"\0"))
