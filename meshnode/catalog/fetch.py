"""Running transfers: the shell around `meshnode.catalog.transfer`, from peers into the store.

Two tasks that want the same model wait for the same transfer. What was verified and written before a restart is not
fetched again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from meshnode.catalog import transfer
from meshnode.catalog.manifest import Manifest
from meshnode.catalog.store import Store
from meshnode.catalog.transfer import AskList, AskPiece, Check, Complete, GiveUp, Transfer, Write
from meshnode.config import Catalog as Settings
from meshnode.errors import HomeError, MeshError, ProtocolError
from meshnode.wire.messages import Digest, NodeId, PieceAsk, PieceListAsk

log = logging.getLogger(__name__)

Ask = Callable[[NodeId, PieceAsk | PieceListAsk], Awaitable[bytes]]
"""Ask a peer for a piece or a piece list; its bytes, or a MeshError."""
HoldersOf = Callable[[Digest], Sequence[NodeId]]


class Fetcher:
    """Models on their way here."""

    def __init__(self, store: Store, settings: Settings, ask: Ask, holders: HoldersOf) -> None:
        self._store = store
        self._settings = settings
        self._ask = ask
        self._holders = holders
        self._running: dict[Digest, asyncio.Task[None]] = {}

    async def ensure(self, manifest: Manifest) -> Path:
        """The .onnx file of a model, fetched when it is not here. Raises TransferFailed, HomeError."""
        digest = manifest.digest
        if not self._store.has(digest):
            task = self._running.get(digest)
            if task is None:
                task = asyncio.ensure_future(self._fetch(manifest))
                self._running[digest] = task
                task.add_done_callback(lambda done: self._ended(digest, done))
            await asyncio.shield(task)
        return self._store.path(digest)

    async def stop(self) -> None:
        """End what is under way; the pieces that came stay for the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, digest: Digest, task: asyncio.Task[None]) -> None:
        del self._running[digest]
        if not task.cancelled():
            task.exception()  # whoever waited has seen it

    async def _fetch(self, manifest: Manifest) -> None:
        folder = self._store.begin(manifest)
        core = Transfer(manifest, self._settings)
        events: asyncio.Queue[transfer.Event] = asyncio.Queue()
        asking: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        events.put_nowait(transfer.Holders(tuple(self._holders(manifest.digest))))
        try:
            while True:
                effects = core.handle(time.monotonic(), await events.get())
                while effects:
                    effect = effects.pop(0)
                    match effect:
                        case AskList() | AskPiece():
                            task = asyncio.ensure_future(self._request(manifest, effect, events))
                            asking.add(task)
                            task.add_done_callback(asking.discard)
                        case Check(file):
                            path = folder / manifest.files[file].path
                            held = await asyncio.to_thread(_held, path, core.hashes(file), manifest.piece_bytes)
                            core.have(file, held)
                            events.put_nowait(transfer.Holders(tuple(self._holders(manifest.digest))))
                        case Write(file, index, data):
                            offset = index * manifest.piece_bytes
                            await asyncio.to_thread(_write, folder / manifest.files[file].path, offset, data)
                        case Complete():
                            await self._store.finish(manifest, folder)
                            log.info(
                                "fetched %s:%s, %s bytes in %.2f s",
                                manifest.name,
                                manifest.version,
                                core.fetched_bytes,
                                time.monotonic() - began,
                            )
                            return
                        case GiveUp(error):
                            raise error
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _request(
        self, manifest: Manifest, effect: AskList | AskPiece, events: asyncio.Queue[transfer.Event]
    ) -> None:
        index = -1 if isinstance(effect, AskList) else effect.index
        try:
            async with asyncio.timeout(self._settings.piece_timeout_s):
                if isinstance(effect, AskList):
                    message = PieceListAsk(model=manifest.digest, file=effect.file)
                    data = await self._ask(effect.holder, message)
                    events.put_nowait(transfer.ListCame(effect.holder, effect.file, data))
                else:
                    ask = PieceAsk(model=manifest.digest, file=effect.file, piece=effect.index)
                    data = await self._ask(effect.holder, ask)
                    events.put_nowait(transfer.PieceCame(effect.holder, effect.file, effect.index, data))
        except (MeshError, TimeoutError) as error:
            reason = str(error) or "no answer"
            events.put_nowait(transfer.Failed(effect.holder, effect.file, index, reason))


def _held(path: Path, hashes: list[bytes], piece_bytes: int) -> list[int]:
    """Which pieces of a half-fetched file are right."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [i for i, expected in enumerate(hashes) if hashlib.sha256(file.read(piece_bytes)).digest() == expected]


def _write(path: Path, offset: int, data: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if os.pwrite(fd, data, offset) != len(data):
                raise ProtocolError(f"{path.name}: a piece was written in part")
        finally:
            os.close(fd)
    except OSError as error:
        raise HomeError(f"the model cannot be stored: {error.strerror}", hint="is the disk full?") from error
