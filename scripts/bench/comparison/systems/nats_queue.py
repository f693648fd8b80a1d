"""A NATS queue group: nats-server, and workers that take raw bytes and answer them."""

from __future__ import annotations

import asyncio
import shutil
import sys

import nats
import numpy as np
import uvloop
from nats.aio.msg import Msg

from scripts.bench.comparison.contract import SHAPES, Array, Place, module, read, session

PATIENCE_S = 30.0


def commands(place: Place) -> list[list[str]]:
    """The broker and the workers."""
    server = shutil.which("nats-server", path=f"{place.tools}/usr/sbin:{place.tools}/usr/bin") or "nats-server"
    workers = [module("nats_queue", place) for _ in range(place.workers)]
    return [[server, "--addr", "127.0.0.1", "--port", str(place.ports[0])], *workers]


async def connect(place: Place) -> nats.NATS:
    """Wait for the broker, and come back to it."""
    url = f"nats://127.0.0.1:{place.ports[0]}"
    return await nats.connect(url, reconnect_time_wait=0.02, max_reconnect_attempts=-1, error_cb=_quiet)


async def _quiet(_: Exception) -> None:
    """Each attempt before the broker is up would be told."""


class Client:
    """nats-py's request and reply."""

    def __init__(self, place: Place) -> None:
        self.place = place

    async def start(self) -> None:
        """Connect."""
        self.nats = await connect(self.place)

    async def infer(self, model: str, x: Array) -> Array:
        """Ask whoever of the group takes it."""
        reply = await self.nats.request(model, x.tobytes(), timeout=PATIENCE_S)
        return np.frombuffer(reply.data, np.float32).reshape(1, -1)

    async def close(self) -> None:
        """Disconnect."""
        await self.nats.close()


async def work(place: Place) -> None:
    """One worker of the group."""
    sessions = {name: session(place, name) for name in SHAPES}

    async def answer(message: Msg) -> None:
        x = np.frombuffer(message.data, np.float32).reshape(SHAPES[message.subject])
        await message.respond(sessions[message.subject].run(["y"], {"x": x})[0].tobytes())

    client = await connect(place)
    for name in SHAPES:
        await client.subscribe(name, queue="workers", cb=answer)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(work(read(sys.argv[1])))
