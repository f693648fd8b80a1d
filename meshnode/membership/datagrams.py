"""The UDP port: datagrams to and from peers, sealed. What cannot be opened is dropped and counted, never answered."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from meshnode.errors import ProtocolError
from meshnode.links.address import Address
from meshnode.links.machine import Machine
from meshnode.membership import updates
from meshnode.membership.advert import Advert
from meshnode.membership.updates import Ack, AnyPacket, Ping
from meshnode.trust.sealing import Sealer
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

DATAGRAMS_A_TURN = 64
PINGS, PING_EVERY_S = 3, 0.3
"""Of `ping`: one of ten lost datagrams must not look like a firewall."""
OWN_SEQS = 2**31
"""The failure detector counts below."""


class Datagrams:
    """See the module's docstring.

    Args:
        received: what to do with a packet that opened.
        new_key: makes the key of an epoch.
    """

    def __init__(
        self,
        me: NodeId,
        mesh_id: str,
        epoch: int,
        machine: Machine,
        *,
        bytes_max: int,
        received: Callable[[NodeId, AnyPacket], None],
        new_key: Callable[[], X25519PrivateKey],
    ) -> None:
        self._me = me
        self._mesh_id = mesh_id
        self._machine = machine
        self._bytes_max = bytes_max
        self._new_key = new_key
        self._received = received
        self._socket: socket.socket | None = None
        self._sealer = Sealer(self._new_key(), me, mesh_id, epoch)
        self.dropped: Counter[str] = Counter()
        self.heard: dict[NodeId, float] = {}
        """When a datagram of each peer was last opened; monotonic."""
        self._pings: dict[tuple[NodeId, int], asyncio.Future[None]] = {}

    @property
    def epoch(self) -> int:
        """Which start of this node the keys belong to."""
        return self._sealer.epoch

    @property
    def public(self) -> bytes:
        """The public half of this epoch's key."""
        return self._sealer.public

    def renew(self, epoch: int, peers: Sequence[Advert]) -> None:
        """Begin a new epoch, with new keys."""
        self._sealer = Sealer(self._new_key(), self._me, self._mesh_id, epoch)
        for advert in peers:
            self.know(advert)

    def know(self, advert: Advert) -> None:
        """Learn a peer's epoch key."""
        if advert.id != self._me:
            try:
                self._sealer.set_peer(NodeId(advert.id), advert.epoch, advert.epoch_key)
            except ProtocolError as error:
                log.warning("%s", error)

    def forget(self, peer: NodeId) -> None:
        """Nothing of this peer opens any more."""
        self._sealer.forget(peer)
        self.heard.pop(peer, None)

    async def open(self, host: str, port: int) -> None:
        """Open the port. Raises ListenError when it is taken."""
        self._socket = await self._machine.listening(host, port, socket.SOCK_DGRAM)
        asyncio.get_running_loop().add_reader(self._socket, self.read)

    def close(self) -> None:
        """Close it."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def send(self, peer: NodeId, packet: AnyPacket, address: Address) -> None:
        """Send a packet, if the peer's key is known; what the network refuses is lost like any datagram."""
        if self._socket is None or not self._sealer.knows(peer):
            return
        host, port = address
        if self._socket.family == socket.AF_INET6 and ":" not in host:
            host = f"::ffff:{host}"
        try:
            self._socket.sendto(self._sealer.seal(peer, updates.encode(packet)), (host, port))
        except (OSError, ProtocolError) as error:
            log.debug("a datagram to %s was not sent: %s", peer[:8], error)

    def knows(self, peer: NodeId) -> bool:
        """Whether there is a key to seal with."""
        return self._sealer.knows(peer)

    async def ping(self, peer: NodeId, address: Address, *, timeout_s: float) -> float | None:
        """Seconds until a datagram to that address was answered by one; None when none came. It accuses nobody."""
        loop, began = asyncio.get_running_loop(), time.monotonic()
        key = (peer, OWN_SEQS + secrets.randbelow(OWN_SEQS))
        answer = self._pings[key] = loop.create_future()
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(PINGS):
                    self.send(peer, Ping(key[1]), address)
                    await asyncio.wait({answer}, timeout=PING_EVERY_S)
                    if answer.done():
                        break
                await answer
        except TimeoutError:
            return None
        finally:
            del self._pings[key]
        return time.monotonic() - began

    def read(self) -> None:
        """Take in what has come; also called before a timer is obeyed, since a late ack is an ack."""
        if self._socket is None:
            return
        for _ in range(DATAGRAMS_A_TURN):
            try:
                data, _ = self._socket.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("the UDP port: %s", error)
                return
            if len(data) > self._bytes_max:
                self.dropped["too long"] += 1
                continue
            try:
                sender, plain = self._sealer.open(data)
            except ProtocolError:
                self.dropped["not for us, or replayed, or forged"] += 1
                continue
            try:
                packet = updates.decode_packet(plain)
            except ProtocolError:
                self.dropped["malformed"] += 1
                continue
            self.heard[sender] = time.monotonic()
            answer = self._pings.get((sender, packet.seq)) if isinstance(packet, Ack) else None
            if answer is not None and not answer.done():
                answer.set_result(None)
            self._received(sender, packet)
