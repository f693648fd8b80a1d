"""The gRPC server: who may come in, the calls, and what an error of the mesh is in gRPC.

The token is the HTTP door's, asked for before anything of a call's message is read, and so are the certificate and the
limit of a request. No page of a browser can speak gRPC, so Host and Origin need no look.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from meshnode.config import host_port
from meshnode.edge import tracing
from meshnode.edge.http.guard import Guard, NoToken, no_token
from meshnode.edge.http.server import CLOSE_S, context_for, shown, token
from meshnode.edge.node import Node
from meshnode.edge.openinference import describing, service
from meshnode.errors import InvalidInput, ListenError, MeshError, ToolMissing

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # children are executed at once, and have nothing of it
try:
    import grpc
    from google.protobuf.json_format import ParseDict
    from google.protobuf.message import DecodeError

    from meshnode.edge.grpc import infer, messages
except ImportError as error:
    raise ToolMissing(
        f"gRPC needs packages that are not installed here ({error.name})", hint="pip install 'meshnode[grpc]'"
    ) from error

log = logging.getLogger(__name__)
METADATA_BYTES_MAX = 16 * 1024
Context = Any
"""What gRPC knows of a call; its types are generic beyond use."""
Call = Callable[[Any], Awaitable[Mapping[str, Any]]]
"""What a request asks for, as a document of the answer's shape."""

CODES = {
    "invalid_input": grpc.StatusCode.INVALID_ARGUMENT,
    "model_not_found": grpc.StatusCode.NOT_FOUND,
    "model_refused": grpc.StatusCode.FAILED_PRECONDITION,
    "poison_task": grpc.StatusCode.FAILED_PRECONDITION,
    "deadline_exceeded": grpc.StatusCode.DEADLINE_EXCEEDED,
    "no_capacity": grpc.StatusCode.UNAVAILABLE,
    "refused": grpc.StatusCode.UNAVAILABLE,
    "transfer_failed": grpc.StatusCode.UNAVAILABLE,
    "out_of_memory": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "no_node_in_zone": grpc.StatusCode.PERMISSION_DENIED,
    "permission_denied": grpc.StatusCode.PERMISSION_DENIED,
    "revoked": grpc.StatusCode.PERMISSION_DENIED,
    "execution_failed": grpc.StatusCode.FAILED_PRECONDITION,
    "cancelled": grpc.StatusCode.CANCELLED,
}


class GrpcServer:
    """See the module's docstring."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._guard = Guard(token(node.home), ())
        self._inference = service.of(node)
        self._server: Any = None
        self.address = ""
        """host:port."""

    async def start(self) -> None:
        """Raises ListenError, ConfigError, HomeError."""
        listen, http = self._node.settings.grpc.listen, self._node.settings.http
        host, port = host_port(listen)
        options = (
            ("grpc.max_receive_message_length", http.body_bytes_max),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", METADATA_BYTES_MAX),
            ("grpc.so_reuseport", 0),
        )
        self._server = server = grpc.aio.server(interceptors=(_Gate(self._guard),), options=options)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE, self._handlers()),))
        name = f"[{host}]" if ":" in host else host
        context_for(http, self._node.home, host)  # a certificate that cannot be used is said now
        files = shown(http, self._node.home, host)
        try:
            if files is None:
                bound = server.add_insecure_port(f"{name}:{port}")
            else:
                chain, key = (it.read_bytes() for it in files)
                bound = server.add_secure_port(f"{name}:{port}", grpc.ssl_server_credentials([(key, chain)]))
        except RuntimeError as error:
            raise ListenError(
                f"cannot listen on {listen} for gRPC: {error}",
                hint="choose another --grpc HOST:PORT; port 0 takes any free one",
            ) from error
        await server.start()
        self.address = f"{name}:{bound}"

    async def stop(self) -> None:
        """Let what is open end, for a moment."""
        if self._server is not None:
            await self._server.stop(CLOSE_S)
            self._server = None

    # --- the calls ---

    def _handlers(self) -> dict[str, Any]:
        calls: dict[str, Call] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        handlers = {name: self._handler(name, call) for name, call in calls.items()}
        return {**handlers, "ModelInfer": grpc.unary_unary_rpc_method_handler(self._guarded(self._infer))}

    def _handler(self, name: str, call: Call) -> Any:
        """Takes bytes, as all do: what is no message is an error of ours, not of gRPC."""
        asked, answered = messages.asked(name), messages.answered(name)

        async def act(data: bytes, context: Context) -> bytes:
            try:
                request = asked.FromString(data)
            except DecodeError as error:
                raise InvalidInput(f"not a {name} request: {error}") from error
            answer: bytes = ParseDict(await call(request), answered()).SerializeToString()
            return answer

        return grpc.unary_unary_rpc_method_handler(self._guarded(act))

    def _guarded(
        self, act: Callable[[bytes, Context], Awaitable[bytes]]
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def guarded(data: bytes, context: Context) -> bytes:
            try:
                return await act(data, context)
            except MeshError as error:
                return await _abort(context, error)
            except Exception as error:
                if isinstance(error, grpc.aio.AbortError):
                    raise
                log.exception("a call over gRPC")
                return await _abort(context, MeshError("an error of the agent; its log has more"))

        return guarded

    async def _infer(self, data: bytes, context: Context) -> bytes:
        asked = infer.read(data)
        answer = await self._inference.infer(
            asked.model,
            asked.version,
            asked.inputs,
            asked.outputs,
            asked.wishes,
            limit_s=context.time_remaining(),
            trace=tracing.parent(context.invocation_metadata() or ()),
        )
        told = self._inference.told(answer)
        return infer.write(asked, answer.model, answer.version, answer.outputs, told)

    async def _live(self, request: Any) -> Mapping[str, Any]:
        return {"live": True}

    async def _ready(self, request: Any) -> Mapping[str, Any]:
        return {"ready": self._inference.ready()}

    async def _model_ready(self, request: Any) -> Mapping[str, Any]:
        return {"ready": not self._inference.why_not(self._inference.find(request.name, request.version))}

    async def _server_metadata(self, request: Any) -> Mapping[str, Any]:
        return describing.server()

    async def _metadata(self, request: Any) -> Mapping[str, Any]:
        return self._inference.metadata(request.name, request.version)

    async def _config(self, request: Any) -> Mapping[str, Any]:
        config = describing.config(self._inference.find(request.name, request.version))
        for row in (*config["input"], *config["output"]):
            if row["data_type"] not in _KNOWN:
                row["data_type"] = "TYPE_INVALID"
        return {"config": config}

    async def _statistics(self, request: Any) -> Mapping[str, Any]:
        document = self._inference.statistics(request.name, request.version)
        empty = ("batch_stats", "memory_usage")
        return {"model_stats": [{k: v for k, v in row.items() if k not in empty} for row in document["model_stats"]]}

    async def _index(self, request: Any) -> Mapping[str, Any]:
        return {"models": self._inference.index(ready=request.ready)}

    async def _load(self, request: Any) -> Mapping[str, Any]:
        await self._inference.load(request.model_name, infer.plain(request.parameters))
        return {}

    async def _unload(self, request: Any) -> Mapping[str, Any]:
        await self._inference.unload(request.model_name, infer.plain(request.parameters))
        return {}


class _Gate:
    """Turns away who does not show the token, by the head of a call alone: nothing of its message is read."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The call's handler, or one that takes a stream and so waits for no message."""
        given = [value for key, value in details.invocation_metadata or () if key == "authorization"]
        if len(given) == 1 and isinstance(given[0], str) and self._guard.has_token(given[0]):
            return await continuation(details)
        return _TURNED_AWAY


grpc.aio.ServerInterceptor.register(_Gate)  # which is without types: a class of ours below it would be, too


async def _turn_away(_: object, context: Context) -> bytes:
    return await _abort(context, no_token())


_TURNED_AWAY = grpc.stream_unary_rpc_method_handler(_turn_away)
_KNOWN = frozenset(messages.of("ModelInput").DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name)


async def _abort(context: Context, error: MeshError) -> bytes:
    """End the call with an error; what HTTP says in headers and JSON is said in the metadata behind it."""
    text = f"{error} ({error.hint})" if error.hint else str(error)
    code = grpc.StatusCode.UNAUTHENTICATED if isinstance(error, NoToken) else CODES.get(error.code)
    behind = [("meshnode-code", error.code)]
    if (after_s := error.retry_after_s) is not None:
        behind.append(("retry-after", str(max(1, round(after_s)))))
    behind += [
        (f"meshnode-{key.replace('_', '-')}", str(value)) for key, value in getattr(error, "progress", {}).items()
    ]
    await context.abort(code or grpc.StatusCode.INTERNAL, text[:4096], tuple(behind))
    raise AssertionError
