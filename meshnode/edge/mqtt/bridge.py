"""The MQTT door: keeps a connection to the broker and gives each message to the part that it is for.

The agent starts and works without the broker; a connection that breaks is made again, with pauses that grow from a
fifth of a second to half a minute. Where another node that had the door died, what the broker keeps for it is taken
over by the first of the others, so that its tasks are not lost with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import aiomqtt

from meshnode.edge.mqtt import state
from meshnode.edge.mqtt.answering import Answering, Uplink
from meshnode.edge.mqtt.broker import Broker, broker
from meshnode.edge.mqtt.connection import Connection, Terms
from meshnode.edge.mqtt.decoding import Decoding
from meshnode.edge.mqtt.finding import Finding
from meshnode.edge.mqtt.reporting import Reporting
from meshnode.edge.mqtt.requests import Incoming
from meshnode.edge.mqtt.sealing import Again, Taken
from meshnode.edge.mqtt.topics import SHORT, Topics, segment
from meshnode.edge.node import Node
from meshnode.errors import ConfigError
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

PAUSE_S, PAUSE_MAX_S = 0.2, 30.0
SESSION_S = 300
"""The broker keeps what is undelivered for so long when a connection breaks."""
TAKE_OVER_S = 2.0
"""A node that died is given so long to come back; and its session is held until so long nothing came."""
STOP_S = 2.0


@dataclass(frozen=True, slots=True)
class Names:
    """Checked settings."""

    broker: Broker
    topics: Topics


def names(node: Node) -> Names:
    """Raises ConfigError."""
    it, held = node.settings.mqtt, node.keeper.statements
    for key, text in (("prefix", it.prefix), ("mesh", it.mesh), ("discovery_prefix", it.discovery_prefix)):
        levels = text.split("/") if text else []
        if any(level != segment(level) for level in levels) or (key != "discovery_prefix" and len(levels) > 1):
            raise ConfigError(f"mqtt.{key} = {text[:60]!r} is no level of a topic", hint="letters, digits, ., _ and -")
    if not it.prefix:
        raise ConfigError("mqtt.prefix is empty", hint='leave it out for "meshnode"')
    topics = Topics(it.prefix, it.mesh or segment(held.mesh_name), held.mesh_id, it.discovery_prefix)
    return Names(broker(node.home, it), topics)


class Bridge:
    """See the module's docstring."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._settings = node.settings.mqtt
        self._rng = Random()
        checked = names(node)
        self._broker, self.topics = checked.broker, checked.topics
        self.address = self._broker.shown
        self.uplink = Uplink()
        self.finding = Finding.of(node, self._rng)
        self.reporting = Reporting(node, self.topics)
        self.answering = Answering(
            node,
            self.topics,
            self.uplink,
            Decoding(node.home / "worker" / "decoder", node.settings.execution.sandbox),
            self._tell,
        )
        self.trouble = ""
        """Why there is no connection."""
        self.serving = False
        """Whether a connection stands and everything is subscribed to."""
        self._work: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self._heirs: set[str] = set()

    async def start(self) -> None:
        """Begin, in the background: a broker that is not there delays nothing."""
        if self._broker.overheard:
            log.warning("the password for %s goes over the network as it is: use mqtts://", self.address)
        self._work = asyncio.ensure_future(self._keep())

    async def stop(self) -> None:
        """Say that this node goes, and let the broker forget it."""
        connection = self.uplink.connection
        if connection is not None:
            with suppress(aiomqtt.MqttError, TimeoutError, OSError):
                async with asyncio.timeout(STOP_S):
                    await self._farewell(connection)
        await self.answering.stop()
        if connection is not None:
            with suppress(aiomqtt.MqttError, OSError):
                await connection.leave()
        tasks = [*self._beside, *([self._work] if self._work is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the connection ---

    async def _keep(self) -> None:
        failures, told = 0, False
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._live()
            except (aiomqtt.MqttError, OSError, ValueError) as error:
                self.trouble = _why(error)
                if not told:
                    log.warning("the MQTT broker %s: %s; trying again", self.address, self.trouble)
                told = True
            finally:
                self.uplink.end()
            if asyncio.get_running_loop().time() - began > PAUSE_MAX_S:
                failures, told = 0, False
            pause = min(PAUSE_MAX_S, PAUSE_S * 2.0 ** min(failures, 10))
            failures += 1
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))

    async def _live(self) -> None:
        """One connection, from its beginning to its end. Raises MqttError, OSError."""
        me = self._node.keeper.id
        will = self.topics.availability(me) if self._settings.state else ""
        connection = self._connection(me[:SHORT], will)
        async with connection:
            self.uplink.begin(connection)
            log.info("connected with the MQTT broker %s", self.address)
            await self._subscribe(connection)
            self.serving, self.trouble = True, ""
            parts = [asyncio.ensure_future(_ended(connection))]
            if self._settings.state:
                parts.append(asyncio.ensure_future(self.reporting.run(connection)))
            if self._settings.rendezvous:
                parts.append(asyncio.ensure_future(self.finding.run(connection)))
            try:
                done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                for part in done:
                    part.result()
            finally:
                self.serving = False
                self.uplink.end()
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
                if connection.broken.done():
                    connection.broken.exception()  # another part may have noticed first

    def _connection(self, short: str, will: str = "") -> Connection:
        it = self._settings
        terms = Terms(
            client=f"meshnode-{short}",
            session_s=SESSION_S if it.tasks else 0,
            in_flight=it.tasks_max,
            message_bytes_max=it.message_bytes_max,
            will=will,
        )
        connection = Connection(self._broker, terms, lambda message: self._arrived(message, connection))
        return connection

    async def _subscribe(self, connection: Connection) -> None:
        wanted: list[tuple[str, tuple[str, ...]]] = []
        if self._settings.tasks:
            wanted.append(("tasks", self.topics.tasks))
        if self._settings.state:
            wanted.append(("other nodes", (self.topics.bridges,)))
        if self._settings.rendezvous:
            wanted.append(("addresses", (f"{self.finding.sealing.base}/+",)))
        elif self._settings.tasks:
            wanted.append(("what other nodes have taken", (self.finding.sealing.notes,)))
        for what, topics in wanted:
            if not await connection.subscribed(topics):
                log.warning("the MQTT broker %s does not let this node subscribe to %s", self.address, what)

    async def _farewell(self, connection: Connection) -> None:
        if self._settings.tasks:
            await connection.unsubscribe(list(self.topics.tasks))
        if self._settings.rendezvous:
            await self.finding.clear(connection)
        if self._settings.state:
            await connection.send(self.topics.availability(self._node.keeper.id), state.OFFLINE, retain=True)
        while self.answering.busy:  # noqa: ASYNC110 - watched for two seconds at most
            await asyncio.sleep(0.02)

    # --- messages ---

    def _arrived(self, message: Incoming, connection: Connection) -> None:
        topic = message.topic
        if self._settings.tasks and self.topics.model_of(topic) is not None:
            self.answering.arrived(message, connection)
            return
        connection.acknowledge(message)
        if (bridge := self.topics.bridge_of(topic)) is not None:
            self._bridge(bridge, message)
        elif topic == self.finding.sealing.notes:
            self._note(message)
        elif topic.startswith(f"{self.finding.sealing.base}/"):
            self.finding.heard(topic, message.payload)

    def _tell(self, content: Taken | Again) -> None:
        """The other nodes that take tasks here, when there are any."""
        connection = self.uplink.connection
        if connection is not None and self.reporting.bridges - {self._node.keeper.id[:SHORT]}:
            notes = self.finding.sealing.notes
            self._beside_start(self._send_note(connection, notes, self.finding.sealed(notes, content)))

    async def _send_note(self, connection: Connection, topic: str, payload: bytes) -> None:
        with suppress(aiomqtt.MqttError, ValueError):
            await connection.send(topic, payload, qos=0)

    def _note(self, message: Incoming) -> None:
        opened = self.finding.opened(message.topic, message.payload)
        match opened.content if opened is not None else None:
            case Taken(task=task, seconds=seconds) if opened is not None:
                self.answering.taken(task, opened.node, seconds)
            case Again(task=task, of=of) if of == self._node.keeper.id:
                self.answering.asked_again(task)

    # --- the session of a node that died ---

    def _bridge(self, bridge: str, message: Incoming) -> None:
        itself = state.BY not in dict(message.properties)
        self.reporting.heard(bridge, message.payload, itself=itself)
        if (
            itself
            and message.payload == state.OFFLINE
            and bridge != self._node.keeper.id[:SHORT]
            and bridge not in self._heirs
        ):
            self._heirs.add(bridge)
            self._beside_start(self._take_over(bridge))

    async def _take_over(self, bridge: str) -> None:
        """What the broker keeps for a node that died: receive it, answer it, end the session."""
        try:
            await asyncio.sleep(TAKE_OVER_S)
            end = asyncio.get_running_loop().time() + SESSION_S
            while not self._died(bridge):
                if bridge in self.reporting.bridges or asyncio.get_running_loop().time() > end:
                    return
                await asyncio.sleep(TAKE_OVER_S / 2)
            if not self._settings.tasks or not state.leads(self._node.keeper.id, self.reporting.bridges - {bridge}):
                return
            connection = self._connection(bridge)
            async with connection:
                if connection.kept:
                    log.info("the tasks that the broker kept for %s, which died, are taken over", bridge)
                    await connection.unsubscribe(list(self.topics.tasks))
                    await self._drained(connection)
                await connection.leave()
            if connection.broken.done() and (error := connection.broken.exception()) is not None:
                raise error
        except (aiomqtt.MqttError, OSError) as error:
            log.info("what the broker keeps for %s is not taken over: %s", bridge, _why(error))
        finally:
            self._heirs.discard(bridge)

    async def _drained(self, connection: Connection) -> None:
        quiet = 0
        while quiet < 10 and not connection.broken.done():
            await asyncio.sleep(TAKE_OVER_S / 10)
            quiet = 0 if self.answering.busy else quiet + 1

    def _died(self, bridge: str) -> bool:
        found: Iterable[NodeId] = (m.id for m in self._node.membership.view() if m.state in ("dead", "left"))
        return any(node[:SHORT] == bridge for node in found)

    def _beside_start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)


async def _ended(connection: Connection) -> None:
    """Wait for the end of a connection. Raises MqttError."""
    await asyncio.wait((connection.broken,))
    connection.broken.result()


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
