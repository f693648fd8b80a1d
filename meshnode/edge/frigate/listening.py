"""The socket of the Frigate door: where it may listen, who may come in, and what is dropped before anybody reads it."""

from __future__ import annotations

import ipaddress
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from meshnode.config import host_port
from meshnode.doors import Frigate
from meshnode.errors import ConfigError, HomeError, ListenError
from meshnode.trust.files import write_atomic

log = logging.getLogger(__name__)
KEY = "frigate.key"
HANDSHAKE_MS = 5000
WAITING = 64
"""Messages of one client that wait; Frigate has one on its way at a time."""
IPC_PATH_MAX = 107
"""Bytes that an address of the kernel holds."""


class Listening:
    """An open socket; `address` is where, with the port that was found."""

    def __init__(self, home: Path, settings: Frigate) -> None:
        self._home, self._settings = home, settings
        self._context = zmq.asyncio.Context()
        self._keys: AsyncioAuthenticator | None = None
        self.socket: zmq.asyncio.Socket | None = None
        self.address = ""

    def open(self) -> None:
        """Raises ConfigError, HomeError, ListenError."""
        it = self._settings
        path = checked(it)
        socket = self.socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, max(it.frame_bytes_max, it.upload_bytes_max))
        socket.setsockopt(zmq.RCVHWM, WAITING)
        socket.setsockopt(zmq.SNDHWM, WAITING)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        if it.listen.startswith("tcp://["):
            socket.setsockopt(zmq.IPV6, 1)
        if it.curve_clients:
            self._lock(socket)
        before = os.umask(0o177)  # a socket in the file system is its owner's from the first moment
        try:
            socket.bind(it.listen)
        except zmq.ZMQError as error:
            raise ListenError(
                f"cannot listen on {it.listen} for Frigate: {error}", hint="choose another [frigate] listen"
            ) from error
        finally:
            os.umask(before)
        self.address = it.listen if path else str(socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def close(self) -> None:
        """Also when `open` failed half way."""
        if self._keys is not None:
            self._keys.stop()
            self._keys = None
        if self.socket is not None:
            self.socket.close(linger=0)
            self.socket = None
        self._context.term()

    def _lock(self, socket: zmq.asyncio.Socket) -> None:
        """Only those with one of the keys that the settings name."""
        known = frozenset(self._settings.curve_clients)
        secret = _key(self._home / KEY)
        public = zmq.curve_public(secret)
        self._keys = AsyncioAuthenticator(self._context)
        self._keys.start()
        self._keys.configure_curve_callback(credentials_provider=_Known(lambda key: key in known))
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        log.info("the CURVE key of the Frigate door is %s", public.decode())


class _Known:
    """What the authenticator asks."""

    def __init__(self, known: Callable[[str], bool]) -> None:
        self._known = known

    def callback(self, _domain: str, key: bytes) -> bool:
        """Whether the owner of this key may come in."""
        return self._known(key.decode())


def checked(settings: Frigate) -> Path | None:
    """The path of a socket in the file system, or None for TCP. Raises ConfigError."""
    kind, _, where = settings.listen.partition("://")
    if any(len(key) != 40 for key in settings.curve_clients):
        raise ConfigError("frigate.curve_clients holds a key that has not 40 characters", hint="Z85, as zmq prints it")
    if kind == "ipc":
        path = Path(where)
        if not path.is_absolute() or len(os.fsencode(where)) > IPC_PATH_MAX:
            raise ConfigError(f"frigate.listen: {where!r} is no absolute path of at most {IPC_PATH_MAX} bytes")
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigError(f"frigate.listen: {where} is a file; it would be replaced", hint="choose another path")
        return path
    if kind != "tcp":
        raise ConfigError(
            f"frigate.listen: {settings.listen!r} is no address", hint="write tcp://127.0.0.1:5555 or ipc:///a/path"
        )
    host, _ = host_port(where)
    if not (_is_loopback(host) or settings.curve_clients or settings.unprotected):
        raise ConfigError(
            f"frigate.listen: {host} is reached by other machines, and the protocol has no token",
            hint="listen on tcp://127.0.0.1:PORT or ipc:///a/path; or name who may come in with `curve_clients`; or "
            "set `unprotected = true`, and whoever reaches the port can have pictures judged",
        )
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name means what a resolver says


def _key(path: Path) -> bytes:
    """The door's secret key, made when there is none. Raises HomeError."""
    try:
        kept = path.read_bytes().strip()
        zmq.curve_public(kept)
    except FileNotFoundError:
        _, kept = zmq.curve_keypair()
        write_atomic(path, kept + b"\n")
    except (OSError, ValueError, zmq.ZMQError) as error:
        raise HomeError(f"{path} cannot be used: {error}", hint="remove it; a new one is made") from error
    return kept
