"""This project: the Open Inference Protocol over gRPC, with the messages of Triton's client, at the local agent."""

from __future__ import annotations

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from scripts.bench.comparison.contract import Array, Place
from scripts.bench.comparison.systems import agents

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def prepare(place: Place) -> None:
    """A mesh of one."""
    agents.prepare(place, ["n0"], place.workers)


def commands(place: Place) -> list[list[str]]:
    """The agent with its doors: the token is the HTTP door's."""
    doors = ["--http", f"127.0.0.1:{place.ports[1]}", "--grpc", f"127.0.0.1:{place.ports[2]}"]
    return [agents.command(place, "n0", place.ports[0], *doors)]


class Client:
    """grpc.aio."""

    def __init__(self, place: Place) -> None:
        self.place = place

    async def start(self) -> None:
        """Open the channel."""
        token = (agents.home(self.place, "n0") / "http.token").read_text().strip()
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.place.ports[2]}")
        self.call = self.channel.unary_unary(
            METHOD, service_pb2.ModelInferRequest.SerializeToString, service_pb2.ModelInferResponse.FromString
        )

    async def infer(self, model: str, x: Array) -> Array:
        """One request."""
        asked = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
        asked.inputs.add(name="x", datatype="FP32", shape=x.shape)
        reply = await self.call(asked, metadata=self.metadata)
        return np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(1, -1)

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()
