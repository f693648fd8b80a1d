"""Running transfers: the shell around `meshnode.catalog.transfer`, from peers into the store.

Two tasks that want the same model wait for the same transfer; a task that gives up leaves it running. What was
verified and written before a restart is not fetched again. Hashing and writing happen in threads: pieces arrive while
small requests are served.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import assert_never

from meshnode.catalog.manifest import File, Manifest
from meshnode.catalog.partial import Partial
from meshnode.catalog.pieces import in_thread
from meshnode.catalog.rate import Rate
from meshnode.catalog.steps import (
    LIST,
    AskHave,
    AskList,
    AskPiece,
    Check,
    Complete,
    Effect,
    Event,
    Failed,
    GiveUp,
    HaveCame,
    Holders,
    ListCame,
    NoHave,
    OnDisk,
    PieceCame,
    Write,
)
from meshnode.catalog.store import Store
from meshnode.catalog.transfer import Transfer
from meshnode.config import Catalog as Settings
from meshnode.errors import HomeError, MeshError, ModelRefused, NoNodeInZone, TransferFailed
from meshnode.wire.messages import Digest, NodeId, PieceAsk, PieceListAsk

log = logging.getLogger(__name__)

REFRESH_S = 1.0
"""Who holds the model is looked up anew so often while it moves."""
Ask = Callable[[NodeId, PieceAsk | PieceListAsk], Awaitable[bytes]]
"""Ask a peer for a piece or a piece list; its bytes, or a MeshError."""
AskWhatIsThere = Callable[[NodeId, Digest], Awaitable[tuple[bytes, tuple[NodeId, ...]]]]
"""Ask a peer what it has: the body of its answer, and its fellows; or a MeshError."""
HoldersOf = Callable[[Digest], Sequence[NodeId]]
May = Callable[[Manifest], None]
"""Raises when this node must not have the model."""
Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)"""


class Fetcher:
    """Models on their way here."""

    def __init__(
        self,
        self_id: NodeId,
        store: Store,
        settings: Settings,
        ask: Ask,
        ask_have: AskWhatIsThere,
        holders: HoldersOf,
        rng: random.Random,
        may: May = lambda _: None,
    ) -> None:
        self._self_id = self_id
        self._store = store
        self._settings = settings
        self._ask = ask
        self._ask_have = ask_have
        self._holders = holders
        self._rng = rng
        self._rate = Rate(settings.download_bytes_s)
        self._may = may
        self._running: dict[Digest, asyncio.Task[None]] = {}
        self._watching: dict[Digest, list[Progress]] = {}
        self._refused: dict[tuple[File, ...], ModelRefused] = {}
        self.fetched: dict[Digest, int] = {}
        """Bytes that the last fetch of a model took from others."""
        self._moving: dict[Digest, tuple[int, int]] = {}
        self.came_bytes = 0
        """Of pieces, since the start."""

    async def ensure(self, manifest: Manifest, on_progress: Progress | None = None) -> Path:
        """The .onnx file of a model, hashed since the start, and fetched when it is not here.

        Raises TransferFailed (also when this node's disk has no room: another node's may), and ModelRefused when the
        manifest contradicts itself or the scanner refuses the model; and what `may` raises, also when it does so later.
        """
        self._may(manifest)
        digest = manifest.digest
        if not self._store.proven(digest):
            task = self._running.get(digest)
            if task is None:
                task = asyncio.ensure_future(self._provide(manifest))
                self._running[digest] = task
                task.add_done_callback(lambda done: self._ended(digest, done))
            if on_progress is not None:
                self._watching.setdefault(digest, []).append(on_progress)
            await asyncio.shield(task)
        self._store.used(digest)
        return self._store.path(digest)

    def refused(self, manifest: Manifest) -> ModelRefused | None:
        """Why a model was fetched and is not kept, since this agent started."""
        error = self._refused.get(manifest.files)
        return None if error is None else ModelRefused(str(error), hint=error.hint)

    @property
    def under_way(self) -> int:
        """Models on their way here."""
        return len(self._running)

    def progress(self, digest: Digest) -> tuple[int, int]:
        """(bytes done, bytes in all) of a model on its way here, or of the last try; zeros when it did not move."""
        return self._moving.get(digest, (0, 0))

    async def stop(self) -> None:
        """End what is under way; the pieces that came stay for the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, digest: Digest, task: asyncio.Task[None]) -> None:
        del self._running[digest]
        self._watching.pop(digest, None)
        if not task.cancelled():
            task.exception()  # whoever waited has seen it

    async def _provide(self, manifest: Manifest) -> None:
        if self._store.has(manifest.digest):
            try:
                if await self._store.verify(manifest.digest):
                    return
            except TransferFailed:
                if self._store.has(manifest.digest):
                    raise
            except ModelRefused as error:
                self._refused[manifest.files] = error
                raise
        if (refused := self.refused(manifest)) is not None:
            raise refused
        try:
            partial = self._store.begin(manifest)
        except HomeError as error:
            raise _not_here(error) from error
        try:
            await _Run(self, manifest, partial).run()
        except ModelRefused as error:  # it will be no better the next time: never fetch all of it again
            self._refused[manifest.files] = error
            await asyncio.to_thread(partial.discard)
            raise
        except NoNodeInZone:  # it was bound to one, or this node left one, on the way
            await asyncio.to_thread(partial.discard)
            raise
        except HomeError as error:  # a full disk is worse than a fetch from the start
            await asyncio.to_thread(partial.discard)
            raise _not_here(error) from error
        finally:
            self._store.end(partial)

    def _moved(self, digest: Digest, done: int, total: int) -> None:
        self._moving[digest] = (done, total)
        for watch in self._watching.get(digest, ()):
            watch(done, total)


def _not_here(error: HomeError) -> TransferFailed:
    """This node cannot keep the model; the task may go elsewhere."""
    return TransferFailed(f"this node cannot keep the model: {error}", hint=error.hint)


class _Run:
    """One transfer, from its first question to the model in the store."""

    def __init__(self, fetcher: Fetcher, manifest: Manifest, partial: Partial) -> None:
        self._fetcher = fetcher
        self._manifest = manifest
        self._partial = partial
        self._core = Transfer(fetcher._self_id, manifest, fetcher._settings, fetcher._rng)
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._asking: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Raises TransferFailed, HomeError, ModelRefused, and what `may` does."""
        began = time.monotonic()
        event: Event | Exception = self._present()
        try:
            while True:
                if isinstance(event, Exception):
                    raise event
                for effect in self._core.handle(time.monotonic(), event):
                    if await self._act(effect):
                        name, version = self._manifest.name, self._manifest.version
                        took_s = time.monotonic() - began
                        log.info("fetched %s:%s, %d bytes in %.2f s", name, version, self._core.fetched_bytes, took_s)
                        return
                event = await self._next_event()
        finally:
            for task in self._asking:
                task.cancel()
            await asyncio.gather(*self._asking, return_exceptions=True)

    async def _next_event(self) -> Event | Exception:
        deadline = self._core.next_deadline()
        limit_s = REFRESH_S if deadline is None else min(REFRESH_S, max(0.0, deadline - time.monotonic()))
        try:
            async with asyncio.timeout(limit_s):
                return await self._events.get()
        except TimeoutError:
            return self._present()

    def _present(self) -> Holders:
        """Who has it, in an order of our own: not every receiver begins with the same. Raises what `may` does."""
        self._fetcher._may(self._manifest)
        nodes = list(self._fetcher._holders(self._manifest.digest))
        self._fetcher._rng.shuffle(nodes)
        return Holders(tuple(nodes))

    async def _act(self, effect: Effect) -> bool:
        """Do what the core says; True when the model is there."""
        match effect:
            case AskHave(holder):
                self._start(self._request_have(holder))
            case AskList() | AskPiece():
                self._start(self._request(effect))
            case Check(file, hashes):
                held = await in_thread(lambda stop: self._partial.held(file, hashes, stop))
                self._events.put_nowait(OnDisk(file, tuple(held)))
            case Write(file, index, data):
                await asyncio.to_thread(self._partial.write, file, index, data)
                self._fetcher.fetched[self._manifest.digest] = self._core.fetched_bytes
                self._fetcher._moved(self._manifest.digest, self._core.done_bytes, self._manifest.size)
            case Complete():
                self._fetcher._may(self._manifest)
                await self._fetcher._store.finish(self._partial)
                return True
            case GiveUp(error):
                raise error
            case _:
                assert_never(effect)
        return False

    def _start(self, asking: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(asking)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _request_have(self, holder: NodeId) -> None:
        try:
            async with asyncio.timeout(self._fetcher._settings.piece_timeout_s):
                bitmaps, fellows = await self._fetcher._ask_have(holder, self._manifest.digest)
        except (MeshError, TimeoutError):
            self._events.put_nowait(NoHave(holder))
        else:
            half = len(bitmaps) // 2
            self._events.put_nowait(HaveCame(holder, bitmaps[:half], bitmaps[half:], fellows))

    async def _request(self, effect: AskList | AskPiece) -> None:
        """Put one question to a holder and its answer among the events."""
        holder, file, digest = effect.holder, effect.file, self._manifest.digest
        index = LIST if isinstance(effect, AskList) else effect.index
        event: Event | Exception
        if index != LIST:
            size = min(self._manifest.piece_bytes, self._manifest.files[file].size - index * self._manifest.piece_bytes)
            await asyncio.sleep(self._fetcher._rate.wait_s(time.monotonic(), size))
        try:
            async with asyncio.timeout(self._fetcher._settings.piece_timeout_s):
                if isinstance(effect, AskList):
                    data = await self._fetcher._ask(holder, PieceListAsk(model=digest, file=file))
                    event = ListCame(holder, file, data)
                else:
                    data = await self._fetcher._ask(holder, PieceAsk(model=digest, file=file, piece=index))
                    self._fetcher.came_bytes += len(data)
                    sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
                    event = PieceCame(holder, file, index, data, sha256)
        except (MeshError, TimeoutError) as error:
            event = Failed(holder, file, index, str(error) or "no answer in time")
        except Exception as error:  # a bug in what asks: end the transfer with it instead of waiting for ever
            event = error
        self._events.put_nowait(event)
