"""What peers get of the models on this node: pieces and their hashes, also of a model that is still on its way here."""

from __future__ import annotations

import asyncio
import random
import time

import numpy as np

from meshnode.catalog.fellows import Fellows
from meshnode.catalog.manifest import Manifest
from meshnode.catalog.rarity import numbering, pack
from meshnode.catalog.rate import Rate
from meshnode.catalog.store import Store
from meshnode.config import Catalog as Settings
from meshnode.wire.messages import NodeId


class Giver:
    """Answers those that fetch."""

    def __init__(self, store: Store, settings: Settings, rng: random.Random) -> None:
        self._store = store
        self._rate = Rate(settings.upload_bytes_s)
        self._fellows = Fellows(rng)
        self.given_bytes = 0
        """Of pieces, since the start."""

    async def piece(self, manifest: Manifest, file: int, index: int) -> bytes:
        """One piece, when the rate allows. Raises TransferFailed."""
        data = await self._store.piece(manifest.digest, file, index, manifest.piece_bytes)
        self._fellows.gave(manifest.digest, numbering(manifest)[file] + index)
        if (wait_s := self._rate.wait_s(time.monotonic(), len(data))) > 0:
            await asyncio.sleep(wait_s)
        self.given_bytes += len(data)
        return data

    async def piece_list(self, manifest: Manifest, file: int) -> bytes:
        """The hashes of a file's pieces. Raises TransferFailed."""
        return await self._store.piece_list(manifest.digest, file, manifest.piece_bytes)

    def have(self, manifest: Manifest, peer: NodeId) -> tuple[bytes, tuple[NodeId, ...]]:
        """(what is here and what was given lately, as bitmaps; who else is fetching). Raises TransferFailed."""
        present = self._store.present(manifest.digest)
        starts = numbering(manifest)
        have, given = np.zeros((2, starts[-1]), np.bool_)
        if present is None:
            have[:] = True
        else:
            have[[starts[file] + index for file, index in list(present)]] = True
        fellows = self._fellows.asked(time.monotonic(), manifest.digest, peer)
        given[list(self._fellows.given(manifest.digest))] = True
        return pack(have) + pack(given), fellows
