"""What the dashboard's page is made of, the exchange of the link's code for a cookie, and the stream.

The page itself holds nothing secret, and may do nothing: no script but its own files, no request but to here.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable
from contextlib import aclosing
from importlib import resources

from aiohttp import web

from meshnode.edge.dashboard.feed import Feed
from meshnode.edge.dashboard.looking import Looking
from meshnode.edge.http.guard import PAGES as PATH
from meshnode.edge.http.guard import SESSION_S
from meshnode.edge.http.server import Door, Handler
from meshnode.errors import InvalidInput

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
CODE_BYTES_MAX = 512
STREAM_S = 3600.0
"""Then the browser asks again, and is looked at again."""
WRITE_S = 5.0
"""A browser that takes nothing for so long is gone or asleep."""


def routes(door: Door) -> Iterable[web.AbstractRouteDef]:
    """The dashboard's part of the HTTP door."""
    files = {name: _static(door, body, kind) for name, body, kind in _files()}
    return [
        web.get(PATH, door.for_all(_redirect)),
        web.get(f"{PATH}/", files["index.html"]),
        *(web.get(f"{PATH}/{name}", handler) for name, handler in files.items() if name != "index.html"),
        web.post(f"{PATH}/session", _session(door)),
        web.get(f"{PATH}/feed", _stream(door, Feed(Looking(door.node).document))),
    ]


def _files() -> Iterable[tuple[str, bytes, str]]:
    for entry in resources.files("meshnode.edge.dashboard").joinpath("page").iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in KINDS:
            yield entry.name, entry.read_bytes(), KINDS[suffix]


def _static(door: Door, body: bytes, kind: str) -> Handler:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = HEADERS | {"ETag": tag, "Cache-Control": "no-cache"}

    async def answer(request: web.Request) -> web.Response:
        known = [it.value for it in request.if_none_match or ()]
        if tag.strip('"') in known:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers | {"Content-Type": kind})

    return door.for_all(answer)


async def _redirect(request: web.Request) -> web.StreamResponse:
    return web.Response(status=308, headers=HEADERS | {"Location": f"{PATH}/"})


def _session(door: Door) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        """The code of a link, once, for a cookie that scripts cannot read."""
        door.guard.check_page(request.headers, request.scheme)
        try:
            if (request.content_length or 0) > CODE_BYTES_MAX or request.content_type != "application/json":
                raise ValueError
            code = json.loads((await request.content.read(CODE_BYTES_MAX)).decode())["code"]
            if not isinstance(code, str):
                raise TypeError
        except (ValueError, LookupError, TypeError, RecursionError):
            raise InvalidInput('a small JSON document {"code": …} was expected') from None
        response = web.Response(status=204, headers=HEADERS | {"Cache-Control": "no-store"})
        response.set_cookie(
            door.guard.cookie,
            door.guard.redeem(code),
            max_age=int(SESSION_S),
            path=PATH,
            httponly=True,
            samesite="Strict",
            secure=request.scheme == "https",
        )
        return response

    return door.for_all(answer)


def _stream(door: Door, feed: Feed) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        async with aclosing(feed.watch()) as events:
            first = await anext(events)
            headers = HEADERS | {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            stopping = asyncio.ensure_future(door.stopping.wait())
            stopping.add_done_callback(lambda it: None if it.cancelled() else feed.end())
            try:
                async with asyncio.timeout(STREAM_S):
                    await _write(request, response, b"retry: 2000\n\n" + first)
                    async for sent in events:
                        await _write(request, response, sent)
            except (TimeoutError, ConnectionResetError):
                pass  # it comes back by itself
            finally:
                stopping.cancel()
            return response

    return answer


async def _write(request: web.Request, response: web.StreamResponse, sent: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_S):
            await response.write(sent)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise
