"""The one place of a link that writes: as much as the transport takes, and no longer than a turn of the loop allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from meshnode.wire.flow import FrameWriter

TURN_S = 0.001
"""The event loop gets its turn after so long, so that probes and timers are not starved by bulk."""


class Pump:
    """Call it when there may be something to write."""

    def __init__(self, writer: FrameWriter, loop: asyncio.AbstractEventLoop, stopwatch: Callable[[], float]) -> None:
        self.transport: asyncio.Transport | None = None
        self.paused = False
        self._writer = writer
        self._loop = loop
        self._stopwatch = stopwatch
        self._busy = False

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
                now = self._stopwatch()
                if ends is None:
                    ends = now + TURN_S
                elif now > ends:
                    self._loop.call_soon(self)
                    break
        finally:
            self._busy = False
