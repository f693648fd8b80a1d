"""The file of the remembered peers: read at the start, written now and then and at the end, gone with the mesh."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from meshnode.errors import HomeError
from meshnode.membership.remembered import Remembered
from meshnode.trust.files import read_checked, write_checked

log = logging.getLogger(__name__)

WRITE_S = 60.0


class PeersFile:
    """See the module's docstring.

    Args:
        pack: the content as it is now.
        now: monotonic seconds.
    """

    def __init__(self, path: Path, pack: Callable[[], bytes], now: Callable[[], float]) -> None:
        self._path, self._pack, self._now = path, pack, now
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Future[None] | None = None
        self._written = float("-inf")
        self._over = False

    def read(self, into: Remembered) -> None:
        """Take in what was remembered; a file that is none is one warning."""
        try:
            payload = read_checked(self._path)
            if payload is not None:
                into.unpack(payload)
        except (HomeError, ValueError) as error:
            log.warning("the remembered peers are ignored: %s", error)

    def soon(self) -> None:
        """There is something new: it is written at once, or a minute after the last time."""
        if self._timer is None and not self._over:
            wait = max(0.0, self._written + WRITE_S - self._now())
            self._timer = asyncio.get_running_loop().call_later(wait, self._save)

    def left(self) -> None:
        """This node is in this mesh no more: who was in it is kept no longer, nor written down again."""
        self._over = True

    async def close(self, *, write: bool) -> None:
        """The end: write what is not written yet, or leave nothing of a mesh that was left."""
        if self._timer is not None:
            self._timer.cancel()
        if self._saving is not None:
            await self._saving
        if self._over:
            self._path.unlink(missing_ok=True)
        elif write:
            self._write(self._pack())

    def _save(self) -> None:
        self._timer = None
        if not self._over:
            self._written = self._now()
            self._saving = asyncio.ensure_future(asyncio.to_thread(self._write, self._pack()))

    def _write(self, payload: bytes) -> None:
        try:
            write_checked(self._path, payload)
        except HomeError as error:
            log.warning("the peers are not remembered: %s", error)
