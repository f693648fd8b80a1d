"""Ray Serve over HTTP, raw bytes both ways; a replica for each worker, on a cluster of this machine alone."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np

from scripts.bench.comparison.contract import SHAPES, Array, Place, module, read, session
from scripts.bench.comparison.posting import Posting

QUEUE = 16


def commands(place: Place) -> list[list[str]]:
    """The head, the controller, the proxy and the replicas are started by this."""
    return [module("ray_http", place)]


class Client(Posting):
    """aiohttp."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.url = f"http://127.0.0.1:{place.ports[0]}"

    async def infer(self, model: str, x: Array) -> Array:
        """One request."""
        return await self.post(f"{self.url}/{model}", data=x.tobytes())


def serve(place: Place) -> None:
    """A cluster with a deployment."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing leaves the machine
    # On a machine with much other work its proxy takes longer to start than it is given, and is killed for it.
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "120"
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    @serve.deployment(
        num_replicas=place.workers, max_ongoing_requests=QUEUE, ray_actor_options={"num_cpus": 1 / place.workers}
    )
    class Models:
        def __init__(self) -> None:
            self.sessions = {name: session(place, name) for name in SHAPES}

        async def __call__(self, request: Request) -> Response:
            name = request.url.path.strip("/")
            x = np.frombuffer(await request.body(), np.float32).reshape(SHAPES[name])
            return Response(self.sessions[name].run(["y"], {"x": x})[0].tobytes())

    temporary = str(Path(place.folder) / "ray")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, _temp_dir=temporary)
    while True:
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": place.ports[0]})
        except TimeoutError:  # after a minute, however busy the machine; its processes go on starting
            continue
        break
    serve.run(Models.bind())
    threading.Event().wait()


if __name__ == "__main__":
    serve(read(sys.argv[1]))
