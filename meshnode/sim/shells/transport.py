"""A transport as asyncio's TLS gives it, over a stream in memory: the same calls in the same order.

Two flights of a handshake come first, in which both sides show their certificate; `connection_made` follows. Closing
waits for the other side's goodbye, as TLS does. Everything runs as callbacks of the process that owns it.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from meshnode.sim.shells.streams import FIN, Handshake, StreamEnd

SHUTDOWN_S = 30.0
"""asyncio's `ssl_shutdown_timeout`."""


class _Certificate:
    """What `ssl_object` tells."""

    def __init__(self, leaf: bytes) -> None:
        self._leaf = leaf

    def getpeercert(self, binary_form: bool = False) -> bytes:
        """The certificate that was shown."""
        assert binary_form, "nobody asks for the other form"
        return self._leaf


class Transport(asyncio.Transport):
    """See the module's docstring."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        end: StreamEnd,
        protocol: asyncio.BufferedProtocol,
        leaf: bytes,
        *,
        server: bool,
    ) -> None:
        super().__init__({"peername": end.peername, "sockname": end.sockname, "socket": end})
        self._loop = loop
        self._end = end
        self._protocol = protocol
        self._leaf = leaf
        self._server = server
        self._context = contextvars.copy_context()
        self._shaken: asyncio.Future[None] = loop.create_future()
        self._made = self._closing = self._over = self._paused = self._coming = self._ended = False
        self._high, self._low = 64 * 1024, 16 * 1024
        self._patience: asyncio.TimerHandle | None = None
        end.on_event = self._event
        if end.here:
            self._event()

    async def shaken(self, patience_s: float) -> None:
        """Show and be shown certificates. Raises OSError."""
        timer = self._loop.call_later(patience_s, self._late)
        try:
            if not self._server:
                self._end.send(Handshake(None))
            await self._shaken
        finally:
            timer.cancel()

    def give_up(self) -> None:
        """Whoever waited for the handshake does not any more."""
        self._shaken.cancel()
        self.abort()

    def _late(self) -> None:
        if not self._shaken.done():
            self._shaken.set_exception(ConnectionAbortedError("SSL handshake is taking too long"))

    # --- what a protocol asks ---

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection."""
        if name == "socket" and self._over:
            return default
        return super().get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When to pause the writer."""
        self._high = high if high is not None else 64 * 1024
        self._low = low if low is not None else self._high // 4

    def get_write_buffer_size(self) -> int:
        """What waits."""
        return self._end.waiting_bytes

    def is_closing(self) -> bool:
        """Whether it ends."""
        return self._closing

    def write(self, data: Any) -> None:
        """Send."""
        if self._closing:
            return
        self._end.send(bytes(data))
        if self._end.waiting_bytes > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        """Say goodbye, and wait for the other's."""
        if self._closing:
            return
        self._closing = True
        self._end.send(FIN)
        if self._ended:
            self._finish(None)
        else:
            self._patience = self._loop.call_later(SHUTDOWN_S, self.abort)

    def abort(self) -> None:
        """Now."""
        self._closing = True
        self._end.abort()
        self._finish(None)

    # --- what the kernel says ---

    def _event(self) -> None:
        idle = not self._end.here and self._end.error is None and not self._paused
        if not self._coming and not self._over and not idle:
            self._coming = True
            self._loop.call_soon(self._ready, context=self._context)

    def _ready(self) -> None:
        self._coming = False
        if self._paused and self._end.waiting_bytes <= self._low and not self._closing:
            self._paused = False
            self._protocol.resume_writing()
        while self._end.here and not self._over:
            item = self._end.here[0]
            self._end.took(item)
            if isinstance(item, Handshake):
                self._flight(item)
            elif item is FIN:
                self._goodbye()
            elif not self._closing and isinstance(item, bytes):
                self._data(memoryview(item))
        if self._end.error is not None and not self._over:
            if not self._shaken.done():
                self._shaken.set_exception(self._end.error)
            self._closing = True
            self._finish(self._end.error)

    def _flight(self, flight: Handshake) -> None:
        if flight.leaf is None or not self._server:
            self._end.send(Handshake(self._leaf))
        if flight.leaf is None or self._shaken.done():
            return
        self._extra["ssl_object"] = _Certificate(flight.leaf)  # type: ignore[attr-defined]
        self._made = True
        self._protocol.connection_made(self)
        self._shaken.set_result(None)

    def _goodbye(self) -> None:
        self._ended = True
        if self._closing:
            self._finish(None)
        elif not self._made:
            if not self._shaken.done():
                self._shaken.set_exception(ConnectionResetError("the connection ended during the handshake"))
        else:
            self._protocol.eof_received()
            self.close()

    def _data(self, data: memoryview) -> None:
        while len(data) and not self._closing:
            room = memoryview(self._protocol.get_buffer(-1))
            n = min(len(room), len(data))
            room[:n] = data[:n]
            self._protocol.buffer_updated(n)
            data = data[n:]

    def _finish(self, error: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        if self._patience is not None:
            self._patience.cancel()
        self._end.on_event = None
        self._end.close()
        if self._made:
            self._loop.call_soon(self._protocol.connection_lost, error, context=self._context)
