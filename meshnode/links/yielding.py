"""Bulk gives way to tasks: the shell around `meshnode.links.courtesy`, over what the kernel says of each connection."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from meshnode.links.courtesy import Courtesy
from meshnode.links.link import Link
from meshnode.links.pool import Pool

LOOK_S = 0.05
IDLE_S = 0.25
BUSY_S = 1.0
"""So long after a task, others are believed to come."""
SO_MAX_PACING_RATE = 47
UNBOUND = 2**32 - 1
RTT, MIN_RTT, DELIVERY_RATE, INFO_BYTES = 68, 148, 160, 168
"""Where Linux's tcp_info has them: microseconds, microseconds, bytes a second."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the kernel knows about a connection."""

    rtt_s: float
    shortest_s: float
    arrives_bytes_s: float


class Yielding:
    """See the module's docstring. Where the kernel cannot pace or tell, it does nothing."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._task_at = float("-inf")
        self._of: WeakKeyDictionary[Link, Courtesy] = WeakKeyDictionary()

    def task(self) -> None:
        """A task is on its way between this node and another."""
        self._task_at = time.monotonic()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            busy = time.monotonic() - self._task_at < BUSY_S
            links = self._pool.bulk()
            for link in links:
                self._look(link, busy=busy)
            await asyncio.sleep(LOOK_S if busy and links else IDLE_S)

    def _look(self, link: Link, *, busy: bool) -> None:
        courtesy = self._of.setdefault(link, Courtesy())
        if (not busy and courtesy.bytes_s is None) or (told := _told(link.socket)) is None:
            return
        before = courtesy.bytes_s
        rate = courtesy.look(
            busy=busy, rtt_s=told.rtt_s, shortest_s=told.shortest_s, arrives_bytes_s=told.arrives_bytes_s
        )
        if rate != before and link.socket is not None:
            with suppress(OSError):
                pace(link.socket, rate)


def pace(connection: socket.socket, bytes_s: float | None) -> None:
    """Bound what a connection sends, or lift the bound. As bytes: Python takes the number only as a signed one."""
    bound = UNBOUND if bytes_s is None else min(UNBOUND, round(bytes_s))
    connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, bound.to_bytes(4, sys.byteorder))


def _told(connection: socket.socket | None) -> Told | None:
    if connection is None or not sys.platform.startswith("linux"):
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES)
    except OSError:
        return None
    if len(info) < INFO_BYTES:
        return None

    def number(at: int, nbytes: int) -> int:
        return int.from_bytes(info[at : at + nbytes], sys.byteorder)

    return Told(number(RTT, 4) / 1e6, number(MIN_RTT, 4) / 1e6, float(number(DELIVERY_RATE, 8)))
