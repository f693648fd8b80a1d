"""dask.distributed: a scheduler, a nanny and a worker process for each worker, tasks submitted as futures."""

from __future__ import annotations

import sys
import threading
from functools import cache
from typing import Any

import distributed

from scripts.bench.comparison.contract import Array, Place, module, read, session


def commands(place: Place) -> list[list[str]]:
    """The cluster of one machine."""
    return [module("dask_submit", place)]


@cache
def loaded(place: str, model: str) -> Any:
    """In a worker: once."""
    return session(read(place), model)


def run(place: str, model: str, x: Array) -> Array:
    """In a worker."""
    y: Array = loaded(place, model).run(["y"], {"x": x})[0]
    return y


class Client:
    """Its asynchronous client."""

    def __init__(self, place: Place) -> None:
        self.place = place.text()
        self.address = f"tcp://127.0.0.1:{place.ports[0]}"
        self.client: distributed.Client | None = None

    async def start(self) -> None:
        """Connect, and see a worker: before that a task waits in the scheduler."""
        self.client = await distributed.Client(self.address, asynchronous=True, timeout=1)

    async def infer(self, model: str, x: Array) -> Array:
        """Submit, and gather."""
        assert self.client is not None
        y: Array = await self.client.submit(run, self.place, model, x, pure=False)
        return y

    async def close(self) -> None:
        """Disconnect."""
        if self.client is not None:
            await self.client.close()


def serve(place: Place) -> None:
    """The cluster."""
    with distributed.LocalCluster(
        n_workers=place.workers,
        threads_per_worker=1,
        host="127.0.0.1",
        scheduler_port=place.ports[0],
        dashboard_address=None,
        worker_dashboard_address=None,
    ):
        threading.Event().wait()


if __name__ == "__main__":
    serve(read(sys.argv[1]))
