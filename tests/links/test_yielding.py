"""The bound on what a connection sends, as the kernel has it."""

from __future__ import annotations

import socket
import sys

import pytest

from meshnode.links.yielding import SO_MAX_PACING_RATE, UNBOUND, pace


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux paces connections")
@pytest.mark.parametrize(
    ("asked", "set_to"), [(1e6, 10**6), (3e9, 3 * 10**9), (1e12, UNBOUND), (None, UNBOUND)], ids=str
)
def test_a_bound_is_set_and_lifted(asked: float | None, set_to: int) -> None:
    """Also rates above 2 GB a second, and none at all: they do not fit into a signed number."""
    with socket.socket() as connection:
        pace(connection, asked)
        assert set_to == connection.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) % 2**32
