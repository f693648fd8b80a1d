"""The Open Inference Protocol over HTTP: paths, bodies and headers. What they mean is `meshnode.edge.openinference`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from meshnode.edge import tracing
from meshnode.edge.http.server import Door
from meshnode.edge.openinference import describing, document, service
from meshnode.errors import InvalidInput
from meshnode.wire.tensors import Buffer

JSON_LENGTH = "Inference-Header-Content-Length"
LARGE_BYTES = 256 * 1024
"""JSON from here on is read, and answers are written, in a thread: between its steps the agent goes on."""
ASKED_BYTES_MAX = 64 * 1024
"""Of requests that carry no tensors."""


class _Asked(msgspec.Struct, frozen=True):
    """What the repository is asked for."""

    parameters: dict[str, Any] = {}
    ready: bool = False


_asked = msgspec.json.Decoder(_Asked)
_encode = msgspec.json.Encoder().encode


def routes(door: Door) -> Iterable[web.AbstractRouteDef]:
    """Of the protocol."""
    it = _Oip(door)
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    both = [
        route
        for path in (model, version)
        for route in (
            web.get(path, it.metadata),
            web.get(f"{path}/ready", it.model_ready),
            web.get(f"{path}/config", it.config),
            web.get(f"{path}/stats", it.statistics),
        )
    ]
    return (
        web.post(f"{model}/infer", it.infer),  # looked for first
        web.post(f"{version}/infer", it.infer),
        web.get("/v2", it.server),
        web.get("/v2/", it.server),
        web.get("/v2/health/live", it.live),
        web.get("/v2/health/ready", it.ready),
        web.get("/v2/models/stats", it.statistics),
        *both,
        web.post("/v2/repository/index", it.index),
        web.post("/v2/repository/models/{model}/load", it.load),
        web.post("/v2/repository/models/{model}/unload", it.unload),
    )


class _Oip:
    def __init__(self, door: Door) -> None:
        self._inference = service.of(door.node)
        self._bytes_max = door.node.settings.http.body_bytes_max

    async def server(self, request: web.Request) -> web.Response:
        return _json(describing.server())

    async def live(self, request: web.Request) -> web.Response:
        return _json({"live": True})

    async def ready(self, request: web.Request) -> web.Response:
        ready = self._inference.ready()
        return _json({"ready": ready}, 200 if ready else 503)

    async def metadata(self, request: web.Request) -> web.Response:
        return _json(self._inference.metadata(*_named(request)))

    async def config(self, request: web.Request) -> web.Response:
        return _json(describing.config(self._inference.find(*_named(request))))

    async def model_ready(self, request: web.Request) -> web.Response:
        manifest = self._inference.find(*_named(request))
        why = self._inference.why_not(manifest)
        row = {"name": manifest.name, "ready": not why}
        return _json(
            {**row, "error": f"{manifest.name}:{manifest.version}: {why}"} if why else row, 503 if why else 200
        )

    async def statistics(self, request: web.Request) -> web.Response:
        return _json(self._inference.statistics(*_named(request)))

    async def index(self, request: web.Request) -> web.Response:
        return _json(self._inference.index(ready=(await self._read_asked(request)).ready))

    async def load(self, request: web.Request) -> web.Response:
        await self._inference.load(request.match_info["model"], (await self._read_asked(request)).parameters)
        return _json({})

    async def unload(self, request: web.Request) -> web.Response:
        await self._inference.unload(request.match_info["model"], (await self._read_asked(request)).parameters)
        return _json({})

    async def infer(self, request: web.Request) -> web.Response:
        body = await _body(request, self._bytes_max)
        json_bytes = document.header_length(request.headers.get(JSON_LENGTH), len(body))
        small = (len(body) if json_bytes is None else json_bytes) <= LARGE_BYTES
        asked = document.read(body, json_bytes) if small else await asyncio.to_thread(document.read, body, json_bytes)
        wanted = *_named(request), asked.inputs, asked.outputs, asked.wishes
        answer = await self._inference.infer(*wanted, trace=tracing.parent(request.headers))
        told = self._inference.told(answer)
        written = asked, answer.model, answer.version, answer.outputs, told
        small = sum(spec.nbytes for spec, _ in answer.outputs) <= LARGE_BYTES
        parts, json_bytes = document.write(*written) if small else await asyncio.to_thread(document.write, *written)
        headers = {"Content-Type": "application/json"}
        if json_bytes is not None:
            headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(json_bytes)}
        if told:
            headers["Meshnode-Node"] = told["meshnode_node"].encode("ascii", "backslashreplace").decode()
            headers["Meshnode-Attempts"] = str(told["meshnode_attempts"])
        return web.Response(body=parts[0] if len(parts) == 1 else b"".join(parts), headers=headers)

    async def _read_asked(self, request: web.Request) -> _Asked:
        body = await _body(request, ASKED_BYTES_MAX)
        try:
            return _asked.decode(body) if len(body) else _Asked()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"not a request to the repository: {error}") from error


def _named(request: web.Request) -> tuple[str, str]:
    """The model and the version of the path; empty where it has none."""
    return request.match_info.get("model", ""), request.match_info.get("version", "")


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=_encode(value), status=status, content_type="application/json")


async def _body(request: web.Request, bytes_max: int) -> Buffer:
    """Read once to where it stays. Raises HTTPRequestEntityTooLarge, before it is read where that is known."""
    said, content = request.content_length, request.content
    if said is not None and said > bytes_max:
        raise web.HTTPRequestEntityTooLarge(max_size=bytes_max, actual_size=said)
    try:
        first = await content.readany()
        if content.at_eof():
            return _within(first, bytes_max)
        body = bytearray(first)
        async for chunk in content.iter_any():
            body += chunk
            _within(body, bytes_max)
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise InvalidInput(f"the body of the request cannot be read: {error!r:.300}") from error
    return _within(body, bytes_max)


def _within(body: Buffer, bytes_max: int) -> Buffer:
    if len(body) > bytes_max:
        raise web.HTTPRequestEntityTooLarge(max_size=bytes_max, actual_size=len(body))
    return body
