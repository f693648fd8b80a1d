"""MLServer: the Open Inference Protocol over gRPC with raw contents, a custom runtime, inference in its workers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import grpc
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.grpc import dataplane_pb2, dataplane_pb2_grpc
from mlserver.types import InferenceRequest, InferenceResponse

from scripts.bench.comparison.contract import SHAPES, Array, Place, read, session


class Runtime(MLModel):
    """One model."""

    async def load(self) -> bool:
        """Make the session."""
        parameters = self.settings.parameters
        assert parameters is not None
        assert parameters.extra is not None
        self.session = session(read(parameters.extra["place"]), self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run it."""
        x = NumpyCodec.decode_input(payload.inputs[0])
        y = self.session.run(["y"], {"x": x})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])


def configure(place: Place, workers: int) -> list[list[str]]:
    """Its folder as its documents have it, and the command."""
    folder, (http, port, metrics, _) = Path(place.folder), place.ports
    ports = {"http_port": http, "grpc_port": port, "metrics_port": metrics, "host": "127.0.0.1"}
    settings = ports | {"parallel_workers": workers, "debug": False}
    (folder / "settings.json").write_text(json.dumps(settings))
    for name in SHAPES:
        (folder / name).mkdir(exist_ok=True)
        implementation = f"{__name__}.Runtime" if __name__ != "__main__" else ""
        model = {"name": name, "implementation": implementation, "parameters": {"extra": {"place": place.text()}}}
        (folder / name / "model-settings.json").write_text(json.dumps(model))
    return [[str(Path(sys.executable).with_name("mlserver")), "start", str(folder)]]


def commands(place: Place) -> list[list[str]]:
    """With as many worker processes."""
    return configure(place, place.workers)


class Client:
    """MLServer's own stubs."""

    def __init__(self, place: Place) -> None:
        self.place = place

    async def start(self) -> None:
        """Open the channel."""
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.place.ports[1]}")
        self.stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    async def infer(self, model: str, x: Array) -> Array:
        """One request."""
        asked = dataplane_pb2.ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
        asked.inputs.add(name="x", datatype="FP32", shape=x.shape)
        reply = await self.stub.ModelInfer(asked)
        if reply.raw_output_contents:
            return np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(1, -1)
        return np.array(reply.outputs[0].contents.fp32_contents, np.float32).reshape(1, -1)

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()
