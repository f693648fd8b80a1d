"""One feed for all browsers: the whole document first, then what changed, at most twice a second.

Nothing is looked at while nobody watches. A browser that does not keep up is dropped; it comes back by itself, and
begins with a whole document.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from meshnode.edge.dashboard.patching import difference
from meshnode.errors import Refused

log = logging.getLogger(__name__)

EVERY_S = 0.5
WATCHERS_MAX = 16
WAITING_MAX = 8
"""Changes that may wait for a slow browser: four seconds."""
QUIET_S = 15.0
"""After so long without a change a comment is sent, by which a connection that is gone is noticed."""


@dataclass(eq=False, slots=True)
class _Watcher:
    """One browser."""

    queue: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(WAITING_MAX))
    dropped: bool = False


@dataclass(slots=True)
class Feed:
    """See the module's docstring.

    Args:
        look: the document at this moment.
    """

    look: Callable[[], Awaitable[dict[str, Any]]]
    _watchers: set[_Watcher] = field(default_factory=set)
    _document: dict[str, Any] | None = None
    _running: asyncio.Task[None] | None = None

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events until the browser is too slow or the feed ends. Raises Refused, before the first."""
        if len(self._watchers) >= WATCHERS_MAX:
            raise Refused(f"{WATCHERS_MAX} dashboards are open, the limit; close one", retry_after_s=10.0)
        if self._document is None:
            self._document = await self.look()
        watcher = _Watcher()
        self._watchers.add(watcher)
        watcher.queue.put_nowait(event("whole", self._document | {"at": round(time.time(), 3)}))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        try:
            while not watcher.dropped:
                try:
                    async with asyncio.timeout(QUIET_S):
                        sent = await watcher.queue.get()
                except TimeoutError:
                    sent = b":\n\n"
                if sent is None:
                    return
                yield sent
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                self._rest()

    def end(self) -> None:
        """The agent stops: so do all streams."""
        self._send(None)

    async def _run(self) -> None:
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                document = await self.look()
                patch = difference(self._document or {}, document)
                self._document = document
                if patch:
                    self._send(event("changed", patch))
        except Exception:
            log.exception("the dashboard's feed ended")
            self._running, self._document = None, None
            self.end()

    def _send(self, what: bytes | None) -> None:
        for watcher in self._watchers:
            try:
                watcher.queue.put_nowait(what)
            except asyncio.QueueFull:  # what waits is not worth sending any more
                watcher.dropped = True

    def _rest(self) -> None:
        """Nobody watches any more."""
        if self._running is not None:
            self._running.cancel()
        self._running, self._document = None, None


def event(name: str, document: dict[str, Any]) -> bytes:
    """One server-sent event; JSON has no line break of its own."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(document) + b"\n\n"
