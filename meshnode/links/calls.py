"""What was asked over one connection and is not answered yet, by stream."""

from __future__ import annotations

import asyncio

from meshnode.errors import MeshError
from meshnode.links.side import Received


class Calls:
    """Each side opens every second stream: who dialled the odd ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, dialled: bool) -> None:
        self._loop = loop
        self._next = 1 if dialled else 2
        self._open: dict[int, asyncio.Future[Received]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def values(self) -> list[asyncio.Future[Received]]:
        """The answers that are waited for."""
        return list(self._open.values())

    def is_ours(self, stream: int) -> bool:
        """Whether it is this side that opens such a stream."""
        return stream % 2 == self._next % 2

    def stream(self) -> int:
        """The next one that is ours."""
        stream, self._next = self._next, self._next + 2
        return stream

    def open(self, stream: int) -> asyncio.Future[Received]:
        """The answer to a request that is on its way."""
        answer = self._open[stream] = self._loop.create_future()
        return answer

    def get(self, stream: int) -> asyncio.Future[Received] | None:
        """The answer to a call; also when whoever asked has just given up."""
        return self._open.get(stream)

    def pop(self, stream: int) -> asyncio.Future[Received] | None:
        """The same, and the call is over."""
        return self._open.pop(stream, None)

    def fail(self, error: MeshError) -> None:
        """All of them, at once."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(error)
        self._open.clear()
