"""The HTTP server: what every request goes through before a part of the door sees it.

A part is a module with `routes(door)`; what is public of a refusal is one line of JSON, `{"error": "…"}`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from meshnode.config import host_port
from meshnode.doors import Http
from meshnode.edge.http import certificate
from meshnode.edge.http.doorstep import Doorstep
from meshnode.edge.http.guard import COOKIE, Guard, NoToken
from meshnode.edge.node import Node
from meshnode.errors import ConfigError, HomeError, ListenError, MeshError
from meshnode.trust.files import write_atomic

log = logging.getLogger(__name__)
_wire = logging.getLogger(f"{__name__}.wire")
"""aiohttp's own, to which each request that is no HTTP is an error with a traceback; ours is `log`."""
_wire.setLevel(logging.CRITICAL)
TOKEN = "http.token"  # noqa: S105 - the name of a file
HEADER_BYTES_MAX = 16 * 1024
CLOSE_S = 2.0
"""What is open when the agent stops may take so long."""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Door:
    """What the parts of the door share."""

    node: Node
    guard: Guard
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the agent stops: streams that would never end do."""
    open_to_all: set[Handler] = field(default_factory=set)
    """Pages and scripts without secrets, which a browser asks for before it can show who it is."""

    def for_all(self, handler: Handler) -> Handler:
        """The handler, which no token guards from now on."""
        self.open_to_all.add(handler)
        return handler


Part = Callable[[Door], Iterable[web.AbstractRouteDef]]


class HttpServer:
    """See the module's docstring.

    Args:
        parts: the routes of each part.
    """

    def __init__(self, node: Node, parts: Iterable[Part]) -> None:
        self._settings = node.settings.http
        self._parts = tuple(parts)
        self.door = Door(node, Guard(token(node.home), names(self._settings.hosts), f"{COOKIE}-{node.keeper.id[:8]}"))
        self._runner: web.AppRunner | None = None
        self._doorstep: Doorstep | None = None
        self.address = ""
        """host:port."""
        self.scheme = "http"

    async def start(self) -> None:
        """Raises ListenError, ConfigError, HomeError."""
        host, port = host_port(self._settings.listen)
        tls = context_for(self._settings, self.door.node.home, host)
        self.scheme = "https" if tls is not None else "http"
        app = web.Application(middlewares=[self._answer], client_max_size=self._settings.body_bytes_max)
        for part in self._parts:
            app.add_routes(part(self.door))
        # Cancelled when its client goes: so is the task that it asked for.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_wire,
            handler_cancellation=True,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            shutdown_timeout=CLOSE_S,
            lingering_time=CLOSE_S,  # what still comes after a refusal is read for so long, that it may be seen
        )
        await self._runner.setup()
        assert self._runner.server is not None, "it was set up"
        self._doorstep = Doorstep(self._runner.server, tls)
        try:
            bound = await self._doorstep.open(host, port)
        except ListenError as error:
            await self.stop()
            raise ListenError(
                f"cannot listen on {self._settings.listen} for HTTP: {error.__cause__ or error}",
                hint="choose another --http HOST:PORT; port 0 takes any free one",
            ) from error
        self.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        """Let what is open end, for a moment."""
        self.door.stopping.set()
        if self._doorstep is not None:
            self._doorstep.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def link(self, path: str = "/") -> str:
        """A link that opens a page of this door in a browser of this machine, once and soon."""
        host, _, port = self.address.rpartition(":")
        name = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - read, not bound
        return f"{self.scheme}://{name}:{port}{path}#{self.door.guard.new_code()}"

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.match_info.handler not in self.door.open_to_all:
                headers = request.headers
                cookies = request.cookies if "Cookie" in headers else {}
                self.door.guard.check(request.method, headers, cookies, request.scheme, request.path)
                assert self._doorstep is not None, "requests come over it"
                self._doorstep.known(request.transport)
            else:
                self.door.guard.check_host(request.headers.get("Host", ""))
            return await handler(request)
        except MeshError as error:
            return refused(error)
        except web.HTTPException as error:
            return said(error.status, error.text or error.reason, dict(error.headers))
        except Exception:
            log.exception("%s %s", request.method, request.path)
            return said(500, "an error of the agent; its log has more")


def said(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    """A refusal."""
    kept = {key: value for key, value in (headers or {}).items() if key.lower() in ("allow", "retry-after")}
    return web.json_response({"error": text}, status=status, headers=kept)


def refused(error: MeshError) -> web.Response:
    """What an error of the mesh is in HTTP."""
    text = f"{error} ({error.hint})" if error.hint else str(error)
    if isinstance(error, NoToken):
        return web.json_response({"error": text}, status=401, headers={"WWW-Authenticate": "Bearer"})
    headers = {}
    if (after_s := error.retry_after_s) is not None:
        headers["Retry-After"] = str(max(1, round(after_s)))
    body = {"error": text, "code": error.code, **getattr(error, "progress", {})}
    return web.json_response(body, status=STATUS.get(error.code, 500), headers=headers)


STATUS = {
    "invalid_input": 400,
    "model_not_found": 404,
    "model_refused": 422,
    "deadline_exceeded": 504,
    "no_capacity": 503,
    "refused": 503,
    "no_node_in_zone": 403,
    "permission_denied": 403,
    "poison_task": 422,
    "execution_failed": 422,
    "out_of_memory": 503,
    "transfer_failed": 503,
    "worker_crashed": 500,
}


def token(home: Path) -> str:
    """The token of a home, made when there is none. Raises HomeError."""
    path = home / TOKEN
    with suppress(FileNotFoundError):
        try:
            if kept := path.read_text("ascii").strip():
                return kept
        except (OSError, UnicodeDecodeError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise HomeError(f"{path} cannot be read: {error}", hint="remove it; a new one is made") from error
    made = secrets.token_urlsafe(32)
    write_atomic(path, f"{made}\n".encode())
    return made


def names(hosts: Iterable[str]) -> frozenset[str]:
    """By which this door is reached: loopback's, this machine's, and those of the settings."""
    own = socket.gethostname().lower()
    return frozenset({"localhost", own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}) | {
        host.lower().rstrip(".") for host in hosts
    }


def shown(settings: Http, home: Path, host: str) -> tuple[Path, Path] | None:
    """Certificate and key for who comes to this address; None on loopback, unless they are given: elsewhere the token
    would be seen on its way. Raises ConfigError, HomeError.
    """
    if bool(settings.certificate) != bool(settings.key):
        raise ConfigError("http.certificate and http.key go together", hint="give both or none")
    if is_loopback(host) and not settings.certificate:
        return None
    return (Path(settings.certificate), Path(settings.key)) if settings.certificate else certificate.ensure(home)


def context_for(settings: Http, home: Path, host: str) -> ssl.SSLContext | None:
    """What `shown` says, loaded. Raises ConfigError, HomeError."""
    files = shown(settings, home, host)
    if files is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(*files)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{files[0]} or {files[1]} is no certificate that can be used: {error}") from error
    return context


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
