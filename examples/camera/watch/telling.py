"""Events out: JSON lines on standard output, the events of the mesh, and a broker, where Home Assistant finds them.

Below the topic: `events` has every picture that something is in, `state` (retained) what is seen now, told when it
changes, and `availability` (retained) whether this program runs; the broker says `offline` when it is gone without a
word.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import sys
from collections import Counter, deque
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

import aiomqtt

from meshnode import AsyncClient
from meshnode.errors import ConfigError, MeshError
from watch.settings import Mqtt

log = logging.getLogger(__name__)
WAITING = 256
"""Events that wait for a broker; then the oldest go."""
RETRY_S, RETRY_MAX_S = 0.5, 30.0
DRAIN_S = 5.0
BOARD_S = 1.0


class Lines:
    """One JSON object a line."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out

    def tell(self, event: dict[str, Any]) -> None:
        """At once: programs read along."""
        self._out.write(json.dumps(event) + "\n")
        self._out.flush()


class Board:
    """What is in sight, among the events of the mesh: in `meshnode events` and on the dashboard, when it changes.

    At most one a second; what changes meanwhile is told then.
    """

    def __init__(self, client: AsyncClient, camera: str) -> None:
        self._client, self._event = client, f"camera {camera}"[:64]
        self._state = self._told = ""
        self._teller: asyncio.Task[None] | None = None

    def tell(self, event: dict[str, Any]) -> None:
        """Never waits."""
        if event["event"] != "seen":
            return
        labels = Counter(it["label"] for it in event["detections"])
        counts = ", ".join(f"{count} {label}" for label, count in sorted(labels.items()))
        self._state = (counts or "nothing in sight")[:256]
        if self._state != self._told and self._teller is None:
            self._teller = asyncio.ensure_future(self._say())

    async def _say(self) -> None:
        while self._state != self._told:
            self._told = self._state
            try:
                await self._client.ask("note", event=self._event, why=self._told)
            except MeshError as error:
                log.debug("an event was not noted: %s", error)
            await asyncio.sleep(BOARD_S)
        self._teller = None

    async def __aenter__(self) -> Board:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._teller is not None:
            self._teller.cancel()
            await asyncio.gather(self._teller, return_exceptions=True)


class Broker:
    """See the module's docstring. A broker that is away costs nothing but its events."""

    def __init__(self, settings: Mqtt, camera: str) -> None:
        url = urlsplit(settings.url)
        if url.scheme not in ("mqtt", "mqtts") or not url.hostname:
            raise ConfigError(f"{settings.url!r} is no broker", hint="write mqtt://host:1883 or mqtts://host:8883")
        self._id = re.sub(r"[^a-zA-Z0-9_-]", "_", camera)
        self._topic = settings.topic or f"meshnode/camera/{self._id}"
        self._camera, self._discovery = camera, settings.discovery
        self._options: dict[str, Any] = {
            "hostname": url.hostname,
            "port": url.port or (8883 if url.scheme == "mqtts" else 1883),
            "username": unquote(url.username) if url.username else None,
            "password": unquote(url.password) if url.password else None,
            "tls_context": ssl.create_default_context() if url.scheme == "mqtts" else None,
            "will": aiomqtt.Will(f"{self._topic}/availability", "offline", qos=1, retain=True),
        }
        self._waiting: deque[tuple[str, str, bool]] = deque(maxlen=WAITING)
        self._news = asyncio.Event()
        self._state = ""
        self._sender: asyncio.Task[None] | None = None
        self.sent = 0

    async def __aenter__(self) -> Broker:
        self._sender = asyncio.ensure_future(self._send())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What waits is sent, if the broker takes it soon."""
        assert self._sender is not None
        self._put("availability", "offline", retain=True)
        try:
            async with asyncio.timeout(DRAIN_S):
                while self._waiting:  # noqa: ASYNC110 - emptied by a task that has nothing to say about it
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log.warning("%d events were not sent: the broker does not take them", len(self._waiting))
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)

    def tell(self, event: dict[str, Any]) -> None:
        """Never waits."""
        if event["event"] != "seen":
            return
        if event["detections"]:
            self._put("events", json.dumps(event))
        labels = Counter(it["label"] for it in event["detections"])
        state = json.dumps({"count": labels.total(), "labels": dict(sorted(labels.items()))})
        if state != self._state:
            self._state = state
            self._put("state", state, retain=True)

    def _put(self, name: str, payload: str, *, retain: bool = False) -> None:
        self._waiting.append((f"{self._topic}/{name}", payload, retain))
        self._news.set()

    async def _send(self) -> None:
        wait_s = RETRY_S
        while True:
            try:
                async with aiomqtt.Client(**self._options) as client:
                    await self._announce(client)
                    wait_s = RETRY_S
                    while True:
                        while self._waiting:
                            topic, payload, retain = self._waiting[0]
                            await client.publish(topic, payload, qos=1, retain=retain)
                            if self._waiting and self._waiting[0] == (topic, payload, retain):
                                self._waiting.popleft()
                            self.sent += 1
                        self._news.clear()
                        await self._news.wait()
            except aiomqtt.MqttError as error:
                log.warning("the broker is away: %s; tried again in %g s", error, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_MAX_S)

    async def _announce(self, client: aiomqtt.Client) -> None:
        await client.publish(f"{self._topic}/availability", "online", qos=1, retain=True)
        if self._state and not any(topic.endswith("/state") for topic, _, _ in self._waiting):
            await client.publish(f"{self._topic}/state", self._state, qos=1, retain=True)
        if self._discovery:
            config = {
                "name": "In sight",
                "unique_id": f"meshnode_camera_{self._id}",
                "state_topic": f"{self._topic}/state",
                "value_template": "{{ value_json.count }}",
                "json_attributes_topic": f"{self._topic}/state",
                "availability_topic": f"{self._topic}/availability",
                "state_class": "measurement",
                "icon": "mdi:cctv",
                "device": {"identifiers": [f"meshnode_camera_{self._id}"], "name": self._camera, "model": "meshnode"},
            }
            topic = f"{self._discovery}/sensor/meshnode_camera_{self._id}/config"
            await client.publish(topic, json.dumps(config), qos=1, retain=True)
