"""ONNX Runtime in the program itself: the bound. Nothing is started, sent or protected."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from scripts.bench.comparison.contract import SHAPES, Array, Place, session


def commands(place: Place) -> list[list[str]]:
    """None."""
    return []


class Client:
    """One session for each model; calls run in the caller's thread, or in as many as there are workers."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.threads = ThreadPoolExecutor(place.workers) if place.workers > 1 else None

    async def start(self) -> None:
        """Load."""
        self.sessions = {name: session(self.place, name) for name in SHAPES}

    async def infer(self, model: str, x: Array) -> Array:
        """Run."""
        if self.threads is None:
            return self._run(model, x)
        return await asyncio.get_running_loop().run_in_executor(self.threads, self._run, model, x)

    def _run(self, model: str, x: Array) -> Array:
        y: Array = self.sessions[model].run(["y"], {"x": x})[0]
        return y

    async def close(self) -> None:
        """Nothing to let go of."""
