"""The one place of a link that writes: as much as the transport takes, and no longer than a turn of the loop allows."""

from __future__ import annotations

import asyncio

from meshnode.links.machine import Machine
from meshnode.wire.flow import FrameWriter
from meshnode.wire.traffic import Traffic

TURN_S = 0.001
"""The event loop gets its turn after so long, so that probes and timers are not starved by bulk."""


class Pump:
    """Call it when there may be something to write."""

    def __init__(
        self, writer: FrameWriter, loop: asyncio.AbstractEventLoop, machine: Machine, traffic: Traffic
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.paused = False
        self._writer = writer
        self._loop = loop
        self._machine = machine
        self._traffic = traffic
        self._busy = False
        self._written = 0

    def sent(self) -> tuple[int, int]:
        """How many bytes have arrived at the other machine, and how many have not yet, as far as this one can tell."""
        if self.transport is None:
            return 0, 0
        waiting = self.transport.get_write_buffer_size()
        waiting += self._machine.unacknowledged(self.transport.get_extra_info("socket"))
        return self._written - waiting, waiting

    def __call__(self) -> None:
        """Write until the transport is full, nothing is left, or the turn is over."""
        transport = self.transport
        if self.paused or self._busy or transport is None or transport.is_closing():
            return
        self._busy = True
        ends = None
        try:
            while not self.paused and (data := self._writer.next_bytes()) is not None:
                transport.write(data)
                self._written += len(data)
                self._traffic.sent += len(data)
                now = self._machine.stopwatch()
                if ends is None:
                    ends = now + TURN_S
                elif now > ends:
                    self._loop.call_soon(self)
                    break
        finally:
            self._busy = False
