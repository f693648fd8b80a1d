"""A real broker on a free loopback port, and a client of it that knows nothing of meshnode."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.waiting import until

COMMAND = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
MISSING = "needs the mosquitto broker: apt install mosquitto"


@dataclass
class Mosquitto:
    """The broker; it keeps its sessions and retained messages on disk, as Debian's own does."""

    folder: Path
    extra: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns when it takes connections."""
        self._launch()
        await until(self._listens, "the broker listens")

    def _launch(self) -> None:
        assert COMMAND is not None
        self.folder.mkdir(exist_ok=True)
        if not self.port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        user = ("user root",) if os.getuid() == 0 else ()
        anonymous = () if any(line.startswith("allow_anonymous") for line in self.extra) else ("allow_anonymous true",)
        lines = [f"listener {self.port} 127.0.0.1", *anonymous, "persistence true", "set_tcp_nodelay true"]
        lines += [f"persistence_location {self.folder}/", *user, *self.extra]
        (self.folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [COMMAND, "-c", str(self.folder / "mosquitto.conf")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text(errors="replace")[-2000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """It writes down what it keeps."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def kill(self) -> None:
        """As a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@asynccontextmanager
async def broker(folder: Path, *extra: str) -> AsyncIterator[Mosquitto]:
    """A broker until the end of the block."""
    it = Mosquitto(folder, extra)
    await it.start()
    try:
        yield it
    finally:
        it.stop()


@dataclass
class Seen:
    """A message that an outside client got."""

    topic: str
    payload: bytes
    retained: bool
    correlation: bytes
    content_type: str
    properties: dict[str, str]
    again: bool = False
    """The broker says that it delivered it before: QoS 1 allows that, and a client that minds looks at this."""


@dataclass
class Outsider:
    """A client of the broker, with MQTT 5 and nothing else."""

    client: aiomqtt.Client
    name: str
    seen: list[Seen] = field(default_factory=list)
    answers: dict[bytes, list[Seen]] = field(default_factory=lambda: defaultdict(list))

    @property
    def inbox(self) -> str:
        """Where it wants its answers."""
        return f"clients/{self.name}/answers"

    async def ask(
        self,
        topic: str,
        payload: bytes,
        correlation: bytes = b"",
        *,
        expiry_s: int | None = None,
        response: str | None = None,
        qos: int = 1,
        retain: bool = False,
        **properties: str,
    ) -> None:
        """A task; returns when the broker has it."""
        given = Properties(PacketTypes.PUBLISH)
        if response != "":
            given.ResponseTopic = response or self.inbox
        if correlation:
            given.CorrelationData = correlation
        if expiry_s is not None:
            given.MessageExpiryInterval = expiry_s
        if properties:
            given.UserProperty = list(properties.items())
        await self.client.publish(topic, payload, qos, retain, given)

    async def answer(self, correlation: bytes) -> Seen:
        """The answer with this correlation data."""
        return (await until(lambda: self.answers.get(correlation), f"an answer for {correlation!r}"))[0]

    def retained(self) -> dict[str, bytes]:
        """What was last seen at each topic."""
        return {it.topic: it.payload for it in self.seen}

    async def read(self) -> None:
        async for message in self.client.messages:
            it = message.properties
            seen = Seen(
                str(message.topic),
                bytes(message.payload),
                bool(message.retain),
                bytes(getattr(it, "CorrelationData", b"")),
                getattr(it, "ContentType", ""),
                dict(getattr(it, "UserProperty", [])),
            )
            self.seen.append(seen)
            if seen.topic == self.inbox:
                self.answers[seen.correlation].append(seen)


@asynccontextmanager
async def outsider(broker: Mosquitto, name: str = "out", *topics: str, **more: Any) -> AsyncIterator[Outsider]:
    """Subscribed to its inbox and to these topics. Its session outlives a restart of the broker."""
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 60
    client = aiomqtt.Client(
        "127.0.0.1",
        broker.port,
        identifier=f"{name}-{os.urandom(4).hex()}",
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=False,
        properties=properties,
        **more,
    )
    client.pending_calls_threshold = 10_000
    async with client:
        it = Outsider(client, name)
        for topic in (it.inbox, *topics):
            await client.subscribe(topic, qos=1)
        reading = asyncio.ensure_future(it.read())
        try:
            yield it
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


class Stubborn:
    """Paho's own client with its own thread, as most programs use it: it connects again and sends again by itself."""

    def __init__(self, broker: Mosquitto, name: str, *, at_once: bool = True) -> None:
        self.answers: dict[bytes, list[Seen]] = defaultdict(list)
        self.inbox = f"clients/{name}/answers"
        self._client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda client, *_: client.subscribe(self.inbox, 1)
        self._client.reconnect_delay_set(1, 1)
        if at_once:  # otherwise its acknowledgement of one answer holds back its next task for 40 ms (Nagle)
            self._client.on_socket_open = lambda client, userdata, sock: sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )
        self._client.max_inflight_messages_set(1000)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 60
        self._client.connect("127.0.0.1", broker.port, clean_start=False, properties=properties)
        self._client.loop_start()

    def ask(self, topic: str, payload: bytes, correlation: bytes, expiry_s: int = 60) -> None:
        given = Properties(PacketTypes.PUBLISH)
        given.ResponseTopic, given.CorrelationData, given.MessageExpiryInterval = self.inbox, correlation, expiry_s
        self._client.publish(topic, payload, 1, properties=given)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        it = message.properties
        users = dict(it.UserProperty)
        seen = Seen(message.topic, message.payload, False, it.CorrelationData, it.ContentType, users, bool(message.dup))
        self.answers[seen.correlation].append(seen)
