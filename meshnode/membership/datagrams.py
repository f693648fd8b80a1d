"""The UDP port: datagrams to and from peers, sealed. What cannot be opened is dropped and counted, never answered."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from meshnode.errors import ProtocolError
from meshnode.links.machine import Machine
from meshnode.links.pool import Address
from meshnode.membership import updates
from meshnode.membership.advert import Advert
from meshnode.membership.updates import AnyPacket
from meshnode.trust.sealing import Sealer
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

DATAGRAMS_A_TURN = 64


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
            self._received(sender, packet)
