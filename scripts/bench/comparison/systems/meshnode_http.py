"""This project: the Open Inference Protocol over HTTP, tensors as bytes, at the local agent."""

from __future__ import annotations

import json

import aiohttp
import numpy as np

from scripts.bench.comparison.contract import Array, Place
from scripts.bench.comparison.systems import agents

LENGTH = "Inference-Header-Content-Length"


def prepare(place: Place) -> None:
    """A mesh of one."""
    agents.prepare(place, ["n0"], place.workers)


def commands(place: Place) -> list[list[str]]:
    """The agent with its door."""
    return [agents.command(place, "n0", place.ports[0], "--http", f"127.0.0.1:{place.ports[1]}")]


class Client:
    """aiohttp, and the protocol's binary tensors."""

    def __init__(self, place: Place) -> None:
        self.place, self.url = place, f"http://127.0.0.1:{place.ports[1]}/v2/models"
        self.http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Read the token."""
        token = (agents.home(self.place, "n0") / "http.token").read_text().strip()
        self.http = aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"})

    async def infer(self, model: str, x: Array) -> Array:
        """One request."""
        assert self.http is not None
        row = {"name": "x", "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}
        head = json.dumps({"inputs": [row], "parameters": {"binary_data_output": True}}).encode()
        headers = {LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
        async with self.http.post(f"{self.url}/{model}/infer", data=head + x.tobytes(), headers=headers) as reply:
            body = await reply.read()
            if reply.status != 200:
                raise RuntimeError(f"{reply.status}: {body[:200]!r}")
            return np.frombuffer(body, np.float32, offset=int(reply.headers[LENGTH])).reshape(1, -1)

    async def close(self) -> None:
        """Disconnect."""
        if self.http is not None:
            await self.http.close()
