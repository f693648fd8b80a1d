"""A server written by hand: grpc.aio, raw bytes without protobuf, a process and a port for each worker."""

from __future__ import annotations

import asyncio
import sys
from itertools import cycle

import grpc
import numpy as np
import uvloop

from scripts.bench.comparison.contract import SHAPES, Array, Place, module, read, session


def commands(place: Place) -> list[list[str]]:
    """As many servers as workers."""
    return [module("grpc_aio", place, str(port)) for port in place.ports[: place.workers]]


class Client:
    """A channel to each server, in turn."""

    def __init__(self, place: Place) -> None:
        self.place = place

    async def start(self) -> None:
        """Open the channels."""
        self.channels = [
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in self.place.ports[: self.place.workers]
        ]
        self.calls = {
            name: cycle([channel.unary_unary(f"/bench/{name}") for channel in self.channels]) for name in SHAPES
        }

    async def infer(self, model: str, x: Array) -> Array:
        """Ask the next one."""
        return np.frombuffer(await next(self.calls[model])(x.tobytes()), np.float32).reshape(1, -1)

    async def close(self) -> None:
        """Close the channels."""
        for channel in self.channels:
            await channel.close()


async def serve(place: Place, port: str) -> None:
    """One server."""

    def handler(name: str) -> grpc.RpcMethodHandler:
        model = session(place, name)

        async def answer(data: bytes, _: grpc.aio.ServicerContext) -> bytes:
            x = np.frombuffer(data, np.float32).reshape(SHAPES[name])
            found: bytes = model.run(["y"], {"x": x})[0].tobytes()
            return found

        return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server()
    handlers = {name: handler(name) for name in SHAPES}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(read(sys.argv[1]), sys.argv[2]))
