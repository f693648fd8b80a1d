"""HTTP for clients of systems to which a request is one POST, and whose answer is the numbers as they are."""

from __future__ import annotations

from typing import Any

import aiohttp
import numpy as np

from scripts.bench.comparison.contract import Array


class Posting:
    """One aiohttp session: connections are made when they are needed, and kept."""

    def __init__(self) -> None:
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Inside of the loop that will be used."""
        self._http = aiohttp.ClientSession()

    async def post(self, url: str, **content: Any) -> Array:
        """One request."""
        assert self._http is not None
        async with self._http.post(url, **content) as reply:
            body = await reply.read()
            if reply.status != 200:
                raise RuntimeError(f"{reply.status}: {body[:200]!r}")
            return np.frombuffer(body, np.float32).reshape(1, -1)

    async def close(self) -> None:
        """Disconnect."""
        if self._http is not None:
            await self._http.close()
