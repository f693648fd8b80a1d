"""The local door's socket: the same frames on a Unix socket that only the same user can open.

The socket lies in the home (0600 in a 0700 folder); a home whose path is too long for a socket gets a short one in a
private folder of the user. The kernel is asked who is calling; the path's rights alone are not trusted.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import stat
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

from meshnode.config import Links
from meshnode.errors import AgentUnavailable, HomeError, MeshError, PermissionDenied
from meshnode.links.link import Link
from meshnode.links.side import Incoming, Reply, Side
from meshnode.wire import messages
from meshnode.wire.messages import Hello, NodeId

log = logging.getLogger(__name__)

PATH_BYTES_MAX = 100
"""Unix sockets allow 104 to 108 bytes, depending on the system."""
NOBODY = NodeId("a" * 52)
"""The id that a local client's HELLO carries: it has no key."""


def socket_path(home: Path) -> Path:
    """Where the agent of a home listens for local clients."""
    path = home / "agent.sock"
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        return path
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and len(runtime) > 50:
        runtime = None
    folder = Path(runtime or tempfile.gettempdir()) / f"meshnode-{os.getuid()}"
    digest = hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:16]
    return folder / f"{digest}.sock"


class LocalServer:
    """Local clients of an agent."""

    def __init__(self, home: Path, side: Side) -> None:
        self.path = socket_path(home)
        self._side = side
        self._links: set[Link] = set()
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Listen. The caller holds the home's lock, so that a socket that is already there is a dead agent's."""
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
            raise HomeError(f"{folder} must be a folder of this user that nobody else can open (0700)")
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            before = os.umask(0o177)
            try:
                listener.bind(str(self.path))
            finally:
                os.umask(before)
            self._server = await asyncio.get_running_loop().create_unix_server(self._accept, sock=listener)
        except OSError as error:
            listener.close()
            raise HomeError(f"the local door {self.path} cannot be opened: {error}") from error

    async def stop(self) -> None:
        """Let open requests end, hang up, remove the socket."""
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*(link.close("stopping", "the agent is stopping") for link in list(self._links)))
        self.path.unlink(missing_ok=True)

    def _accept(self) -> Link:
        def prove(_: bytes | None) -> None:
            caller = _caller_uid(link.socket)
            if caller not in (os.getuid(), 0):
                raise PermissionDenied(f"the local door is for user {os.getuid()}, and user {caller} called")

        link = Link(self._side, dialled=False, prove=prove, lost=lambda link, _: self._links.discard(link))
        self._links.add(link)
        return link


def _caller_uid(connection: socket.socket | None) -> int:
    """The user at the other end, by the kernel's word."""
    if connection is None:
        return -1
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return int(uid)
    # macOS and the BSDs: LOCAL_PEERCRED gives a struct xucred { u_int version; uid_t uid; ... }.
    _, uid = struct.unpack_from("2I", connection.getsockopt(0, 1, 76))
    return int(uid)


async def connect(home: Path, settings: Links) -> Link:
    """A link to the agent of a home. Raises AgentUnavailable."""
    path = socket_path(home)
    side = Side(
        hello=lambda: Hello(
            versions=(messages.PROTOCOL_VERSION,),
            id=NOBODY,
            name="client",
            boot=0,
            body_bytes_max=settings.body_bytes_max,
        ),
        handler=_no_requests,
        settings=settings,
        requests=messages.decode_peer_request,
        replies=messages.decode_local_reply,
        local=True,
    )
    try:
        _, link = await asyncio.get_running_loop().create_unix_connection(
            lambda: Link(side, dialled=True, prove=lambda _: None), str(path)
        )
    except OSError as error:
        raise AgentUnavailable(
            f"no agent answers on the home {home}", hint="start one with `meshnode up` (and the same --home)"
        ) from error
    try:
        async with asyncio.timeout(settings.handshake_s):
            await link.opened()
    except (MeshError, TimeoutError) as error:
        link.abort("no HELLO")
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        if isinstance(error, PermissionDenied):
            raise
        raise AgentUnavailable(f"the agent on the home {home} does not answer: {error or 'no HELLO'}") from error
    return link


async def _no_requests(incoming: Incoming) -> Reply:
    raise PermissionDenied("a local client answers no requests")
