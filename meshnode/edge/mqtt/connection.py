"""One connection to a broker: aiomqtt, with what a bridge needs and it does not show.

That is: acknowledging a message when it is answered and not when it came, what the broker says of a delivery (again,
retained), of a publication (nobody listens) and of a connection (it still knows us), and bounds on what it sends.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiomqtt
from paho.mqtt.client import Client as Paho
from paho.mqtt.client import ConnectFlags, MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from meshnode.edge.mqtt.broker import Broker
from meshnode.edge.mqtt.requests import Incoming

NO_SUBSCRIBERS = 0x10
KEEPALIVE_S = 15
TIMEOUT_S = 10.0
ENVELOPE_BYTES = 64 * 1024
"""A packet may be so much larger than the message in it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the broker is told when a connection begins."""

    client: str
    session_s: int
    """It keeps what is undelivered for so long after the connection broke."""
    in_flight: int
    message_bytes_max: int
    will: str = ""
    """The topic that gets `offline`, retained, when this connection breaks."""


class Connection(aiomqtt.Client):
    """See the module's docstring. Used once: `async with`.

    Args:
        arrived: called for each message, in the event loop; it must not block.
    """

    def __init__(self, broker: Broker, terms: Terms, arrived: Callable[[Incoming], None]) -> None:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = terms.session_s
        properties.ReceiveMaximum = terms.in_flight
        self._packet_max = properties.MaximumPacketSize = terms.message_bytes_max + ENVELOPE_BYTES
        super().__init__(
            broker.host,
            broker.port,
            username=broker.user,
            password=broker.password,
            identifier=terms.client,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            will=aiomqtt.Will(terms.will, b"offline", qos=1, retain=True) if terms.will else None,
            keepalive=KEEPALIVE_S,
            timeout=TIMEOUT_S,
            properties=properties,
            tls_context=broker.tls,
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
        )
        self.pending_calls_threshold = 1024
        self.kept = False
        """Whether the broker still knew this client."""
        self._arrived = arrived
        self._reasons: dict[int, int] = {}
        self._thread = threading.get_ident()
        self._client.manual_ack_set(True)
        self._receive = self._client._sock_recv
        # Paho has no limit of its own and no hook for one: this is its private method, by which it asks for what is to
        # come. A test notices when a version asks elsewhere.
        self._client._sock_recv = self._received  # type: ignore[method-assign]

    async def __aenter__(self) -> Self:
        """Connect. Raises MqttError."""
        ended = self._disconnected
        try:
            await super().__aenter__()
            if ended.done():  # between the broker's answer and here: aiomqtt forgets it, and nobody would be told
                ended.result()
                raise aiomqtt.MqttError("the broker ended the connection as it began")
            return self
        except BaseException:
            self._hang_up()
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        """Disconnect. Raises MqttError."""
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        """What aiomqtt leaves open: a connection that it gave up, or that ended with an exception of ours."""
        if self._client.socket() is not None:
            self._client._sock_close()

    @property
    def broken(self) -> asyncio.Future[None]:
        """Done when the connection has ended."""
        return self._disconnected

    async def subscribed(self, topics: tuple[str, ...], *, retained: bool = True) -> bool:
        """Whether the broker let this node subscribe to all of them, QoS 1."""
        options = SubscribeOptions(qos=1, noLocal=not topics[0].startswith("$share/"))
        options.retainHandling = (
            SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if retained else SubscribeOptions.RETAIN_DO_NOT_SEND
        )
        codes = await self.subscribe([(topic, options) for topic in topics])
        return all(getattr(code, "value", code) < 0x80 for code in codes)

    async def send(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
        content_type: str = "",
        correlation: bytes = b"",
        properties: tuple[tuple[str, str], ...] = (),
    ) -> bool:
        """Whether somebody listens, as far as the broker says. Returns when it has taken it. Raises MqttError."""
        given = Properties(PacketTypes.PUBLISH)
        if expiry_s is not None:
            given.MessageExpiryInterval = expiry_s
        if content_type:
            given.ContentType = content_type
        if correlation:
            given.CorrelationData = correlation
        if properties:
            given.UserProperty = list(properties)
        if qos == 0:
            await self.publish(topic, payload, 0, retain, given)
            return True
        info = self._client.publish(topic, payload, qos, retain, given)
        if info.rc != 0:
            raise aiomqtt.MqttCodeError(info.rc, "Could not publish message")
        confirmation = asyncio.Event()
        with self._pending_call(info.mid, confirmation, self._pending_publishes):
            waits = asyncio.ensure_future(confirmation.wait())
            try:
                await asyncio.wait(
                    (waits, self._disconnected), timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                waits.cancel()
            if not confirmation.is_set():
                raise aiomqtt.MqttError("the broker did not acknowledge a publication")
        return self._reasons.pop(info.mid, 0) != NO_SUBSCRIBERS

    def acknowledge(self, message: Incoming) -> None:
        """The message is done with: the broker forgets it, and may send another."""
        if message.qos and not self._disconnected.done():
            self._client.ack(message.mid, message.qos)

    async def leave(self) -> None:
        """End the session with the broker: it keeps nothing for this client. The will is not published."""
        properties = Properties(PacketTypes.DISCONNECT)
        properties.SessionExpiryInterval = 0
        self._client.disconnect(properties=properties)
        await asyncio.wait((self._disconnected,), timeout=1.0)

    # --- what paho calls ---

    def _received(self, bufsize: int) -> bytes:
        """Bytes of the broker. It was told the largest packet; paho would gather the 256 MiB that MQTT allows."""
        if bufsize > self._packet_max:
            raise aiomqtt.MqttError(
                f"the broker sends a packet of {bufsize} bytes, and was told that {self._packet_max} are taken"
            )
        return self._receive(bufsize)

    def _on_connect(
        self, client: Paho, userdata: Any, flags: ConnectFlags, reason_code: ReasonCode, properties: Any = None
    ) -> None:
        self.kept = flags.session_present
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_socket_register_write(self, client: Paho, userdata: Any, sock: Any) -> None:
        if threading.get_ident() == self._thread:
            self._watch(sock)
        else:
            self._loop.call_soon_threadsafe(self._watch, sock)

    def _watch(self, sock: Any) -> None:
        """Write when there is room; aiomqtt takes a moment for it, in which the socket may be gone."""
        if sock.fileno() >= 0:
            self._loop.add_writer(sock.fileno(), self._write)

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except Exception as error:
            if not self._disconnected.done():
                self._disconnected.set_exception(error)

    def _on_publish(
        self, client: Paho, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        if mid in self._pending_publishes:
            self._reasons[mid] = reason_code.value
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_message(self, client: Paho, userdata: Any, message: MQTTMessage) -> None:
        try:
            incoming = _incoming(message)
        except UnicodeDecodeError:
            self._client.ack(message.mid, message.qos)
            return
        self._arrived(incoming)


def _incoming(message: MQTTMessage) -> Incoming:
    it = message.properties
    users = getattr(it, "UserProperty", [])
    return Incoming(
        topic=message.topic,
        payload=bytes(message.payload),
        qos=message.qos,
        mid=message.mid,
        again=bool(message.dup),
        retained=bool(message.retain),
        response=getattr(it, "ResponseTopic", ""),
        correlation=bytes(getattr(it, "CorrelationData", b"")),
        expiry_s=getattr(it, "MessageExpiryInterval", None),
        properties=tuple((str(key), str(value)) for key, value in users[:32]),
    )
