"""The doors to programs of other kinds: those that the settings ask for are opened at the start and closed at the end.

Each is imported only when it is asked for: an agent without it does not pay for its libraries.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from meshnode.edge.node import Node
from meshnode.errors import ToolMissing

log = logging.getLogger(__name__)


class Outside(Protocol):
    """A door."""

    async def start(self) -> None:
        """Raises ListenError, ConfigError, HomeError, ToolMissing."""

    async def stop(self) -> None:
        """Also when `start` failed half way."""


class Doors:
    """See the module's docstring."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._open: list[Outside] = []
        self.addresses: dict[str, str | None] = {"http": None, "grpc": None, "mqtt": None}
        """host:port of each that is open; of MQTT, the broker's URL."""

    async def start(self) -> None:
        """Raises ListenError, ConfigError, HomeError, ToolMissing."""
        settings = self._node.settings
        if settings.http.listen:
            from meshnode.edge.http.parts import PARTS
            from meshnode.edge.http.server import HttpServer

            server = HttpServer(self._node, PARTS)
            await self._start(server)
            self._node.link = server.link
            self.addresses["http"] = server.address
        if settings.grpc.listen:
            from meshnode.edge.grpc.door import GrpcServer

            calls = GrpcServer(self._node)
            await self._start(calls)
            self.addresses["grpc"] = calls.address
        if settings.traces.endpoint:
            try:
                from meshnode.edge.otlp import Otlp
            except ModuleNotFoundError as error:
                raise missing(error, "opentelemetry", "traces") from error
            await self._start(Otlp(self._node))
        if settings.mqtt.url:
            from meshnode.edge.mqtt.bridge import Bridge

            bridge = Bridge(self._node)
            await self._start(bridge)
            self.addresses["mqtt"] = bridge.address
        if settings.frigate.listen:
            try:
                from meshnode.edge.frigate.door import FrigateDoor
            except ModuleNotFoundError as error:
                raise missing(error, "zmq", "frigate") from error
            door = FrigateDoor(self._node)
            await self._start(door)
            self.addresses["frigate"] = door.address

    async def stop(self) -> None:
        """Close them all."""
        for outcome in await asyncio.gather(*(it.stop() for it in self._open), return_exceptions=True):
            if isinstance(outcome, BaseException):
                log.error("while a door was closed: %r", outcome)
        self._open.clear()
        if self._node.inference is not None:
            await self._node.inference.stop()

    async def _start(self, door: Outside) -> None:
        self._open.append(door)
        await door.start()


def missing(error: ModuleNotFoundError, package: str, extra: str) -> Exception:
    """What to say when a door cannot be opened because a package of its extra is not installed."""
    if error.name is None or error.name.partition(".")[0] != package:
        return error
    return ToolMissing(
        f"[{extra}] in config.toml opens a door that needs the package {package}, which is not installed",
        hint=f'install it with `pip install "meshnode[{extra}]"`, or remove the setting',
    )
