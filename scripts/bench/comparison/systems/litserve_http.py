"""LitServe over HTTP. Its requests are JSON documents, so that tensors go as base64 there, and come back as bytes."""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Response

from scripts.bench.comparison.contract import SHAPES, Array, Place, module, read, session
from scripts.bench.comparison.posting import Posting


def commands(place: Place) -> list[list[str]]:
    """The server; it starts its workers."""
    return [module("litserve_http", place)]


class Api(litserve.LitAPI):
    """Both models; the request says which."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def setup(self, device: str) -> None:
        """In each worker."""
        self.sessions = {name: session(self.place, name) for name in SHAPES}

    def decode_request(self, request: dict[str, str], **_: Any) -> tuple[str, Array]:
        """The name and the tensor."""
        data = base64.b64decode(request["data"])
        return request["model"], np.frombuffer(data, np.float32).reshape(SHAPES[request["model"]])

    def predict(self, x: tuple[str, Array], **_: Any) -> bytes:
        """Run it."""
        data: bytes = self.sessions[x[0]].run(["y"], {"x": x[1]})[0].tobytes()
        return data

    def encode_response(self, output: bytes, **_: Any) -> Response:
        """As it is."""
        return Response(output, media_type="application/octet-stream")


class Client(Posting):
    """aiohttp."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.url = f"http://127.0.0.1:{place.ports[0]}/predict"

    async def infer(self, model: str, x: Array) -> Array:
        """One request."""
        document = {"model": model, "data": base64.b64encode(x.tobytes()).decode()}
        return await self.post(self.url, json=document)


def serve(place: Place) -> None:
    """One server process before the workers."""
    # As it comes, the whole server ends when one of its workers dies.
    more = {"workers_per_device": place.workers, "restart_workers": True, "timeout": 60}
    server = litserve.LitServer(Api(place), accelerator="cpu", **more)
    server.run(host="127.0.0.1", port=place.ports[0], num_api_servers=1, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    serve(read(sys.argv[1]))
