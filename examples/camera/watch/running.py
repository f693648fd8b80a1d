"""Pictures to the mesh and events out: what cannot be seen in time is dropped at the source, and counted."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from meshnode import AsyncClient
from meshnode.errors import ConfigError, InvalidInput, MeshError, ModelNotFound, PermissionDenied
from watch.reading import Picture
from watch.seeing import Detection, Question, Seer

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
Asked = dict[int, tuple[Picture, Question]]
NOTHING: npt.NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)
AGAIN_S, AGAIN_MAX_S = 0.2, 5.0
HOPELESS = (ConfigError, InvalidInput, ModelNotFound, PermissionDenied)
"""What does not pass by itself."""


@dataclass(frozen=True, slots=True)
class Pace:
    """`latest`: only the newest picture waits, at most `max_age` seconds; `all`: the source waits for the mesh."""

    keep: Literal["latest", "all"] = "latest"
    max_age: float = 0.2
    concurrency: int = 4
    timeout: float = 2.0
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the mesh says of one picture; without a node there was nothing to ask."""

    picture: Picture
    detections: tuple[Detection, ...]
    outputs: Mapping[str, Array] = field(default_factory=dict)
    node: str = ""
    latency_s: float = 0.0

    def event(self, camera: str) -> dict[str, Any]:
        """As it is told."""
        return {
            "event": "seen",
            "camera": camera,
            "frame": self.picture.number,
            "at": round(self.picture.at, 3),
            "ms": round(self.latency_s * 1000, 1),
            "node": self.node,
            "detections": [{"label": d.label, "score": d.score, "box": list(d.box)} for d in self.detections],
        }


@dataclass(slots=True)
class Tally:
    """What became of the pictures. A picture is read, and then nothing is in it, or it is answered, dropped or lost."""

    read: int = 0
    empty: int = 0
    answered: int = 0
    lost: int = 0
    """The mesh answered with an error."""
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    nodes: dict[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Too old when their turn came."""
        return self.read - self.empty - self.answered - self.lost

    def at(self, share: float) -> float:
        """A quantile of the latencies, in milliseconds."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else 0.0

    def event(self) -> dict[str, Any]:
        """As it is told at the end."""
        return {
            "event": "summary",
            "frames": self.read,
            "answered": self.answered,
            "empty": self.empty,
            "dropped": self.dropped,
            "lost": self.lost,
            "fps": round((self.answered + self.empty) / self.seconds, 1) if self.seconds else 0.0,
            "latency_ms_p50": round(self.at(0.5), 1),
            "latency_ms_p99": round(self.at(0.99), 1),
            "nodes": self.nodes,
        }


class Watch:
    """One source, one model.

    Args:
        tell: is given each picture that was answered or had nothing in it, in their order, and each error.
    """

    def __init__(self, seer: Seer, pace: Pace, tell: Callable[[Seen | MeshError], None]) -> None:
        self.tally = Tally()
        self._seer, self._pace, self._tell = seer, pace, tell
        self._turn = threading.Lock()
        self._asked: Asked = {}
        self._empty: deque[Seen] = deque()

    async def run(self, client: AsyncClient, pictures: Iterator[Picture]) -> None:
        """Until the source ends. The mesh may fail for a while; raises what does not pass by itself."""
        began, wait_s = time.monotonic(), AGAIN_S
        try:
            while True:
                before = self.tally.answered
                try:
                    await self._stream(client, pictures)
                    return
                except MeshError as error:
                    if isinstance(error, HOPELESS):
                        raise
                    self.tally.lost += 1
                    self._tell(error)
                wait_s = AGAIN_S if self.tally.answered > before else min(2 * wait_s, AGAIN_MAX_S)
                await asyncio.sleep(wait_s)
        finally:
            self._say_empty(None)
            self.tally.seconds = time.monotonic() - began

    async def _stream(self, client: AsyncClient, pictures: Iterator[Picture]) -> None:
        pace = self._pace
        asked = self._asked = {}
        results = client.stream(
            self._seer.model,
            self._questions(pictures, asked),
            max_age=pace.max_age,
            keep=pace.keep,
            concurrency=pace.concurrency,
            timeout=pace.timeout,
            zone=pace.zone,
        )
        async for result in results:
            picture, question = asked[result.index]
            for index in [it for it in list(asked) if it <= result.index]:
                del asked[index]  # those before it were dropped: results come in order
            self._say_empty(picture.number)
            latency_s = time.monotonic() - picture.captured
            found = tuple(self._seer.read(result, question))
            self.tally.answered += 1
            self.tally.latencies_s.append(latency_s)
            self.tally.nodes[result.node_name] = self.tally.nodes.get(result.node_name, 0) + 1
            self._tell(Seen(picture, found, dict(result), result.node_name, latency_s))

    def _questions(self, pictures: Iterator[Picture], asked: Asked) -> Iterator[Mapping[str, Array]]:
        """Runs in the thread that reads the source. After an error the thread before may still wait for its picture."""
        loop, index = asyncio.get_running_loop(), 0

        def questions() -> Iterator[Mapping[str, Array]]:
            nonlocal index
            while True:
                with self._turn:
                    picture = next(pictures, None)
                if picture is None:
                    return
                self.tally.read += 1
                question = self._seer.ask(picture.rgb)
                if question is None:
                    loop.call_soon_threadsafe(self._nothing, Seen(replace(picture, rgb=NOTHING), ()))
                    continue
                # Without what is large: of those that are dropped nobody hears.
                asked[index] = (replace(picture, rgb=NOTHING), replace(question, inputs={}))
                index += 1
                yield question.inputs

        return questions()

    def _nothing(self, seen: Seen) -> None:
        """Told at once, unless a picture before it is still being looked at."""
        self.tally.empty += 1
        self._empty.append(seen)
        oldest = time.monotonic() - self._pace.max_age - self._pace.timeout
        if not any(picture.captured > oldest for picture, _ in list(self._asked.values())):
            self._say_empty(None)

    def _say_empty(self, before: int | None) -> None:
        while self._empty and (before is None or self._empty[0].picture.number < before):
            self._tell(self._empty.popleft())
