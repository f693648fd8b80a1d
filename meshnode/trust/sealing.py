"""Datagrams between two nodes: sealed with a key that only these two have, and that lives as long as one start of each.

Each start draws an X25519 epoch key, published in the node's signed advert. The key of a direction is HKDF-SHA256
over the shared secret, with both ids, both epochs and the mesh in it. ChaCha20-Poly1305 with a counter as the nonce.
The counter is one for all peers and never goes back, so it cannot repeat under a key, also when a peer is forgotten
and learnt again; a restart draws a new key. Datagram:

    magic "mn" | version 1 | sender 8 bytes of its id | epoch u32 | counter u64 | ciphertext | tag 16

The first 23 bytes are authenticated as they stand. A stranger's datagram costs one look-up in a dict, and is never
answered.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshnode.errors import ProtocolError
from meshnode.trust.identity import id_bytes
from meshnode.wire.messages import NodeId

HEADER = struct.Struct(">2sB8sIQ")
MAGIC = b"mn"
VERSION = 1
TAG_BYTES = 16
OVERHEAD_BYTES = HEADER.size + TAG_BYTES
WINDOW_BITS = 1024
PEERS_MAX = 2048
FORGOTTEN_MAX = 8192
"""Peers whose keys were dropped and of whom the last counter is still known."""
COUNTER_MAX = 2**48
EPOCH_MAX = 2**32 - 1
_ALL_SEEN = (1 << WINDOW_BITS) - 1


@dataclass(slots=True)
class _Peer:
    epoch: int
    sending: ChaCha20Poly1305
    receiving: ChaCha20Poly1305
    highest: int = -1
    seen: int = 0

    def fresh(self, counter: int) -> bool:
        """Whether this counter was not seen before (a sliding window as in RFC 6479)."""
        if counter > self.highest:
            return True
        behind = self.highest - counter
        return behind < WINDOW_BITS and not self.seen >> behind & 1

    def accept(self, counter: int) -> None:
        """Remember a counter that opened."""
        if (ahead := counter - self.highest) >= WINDOW_BITS:
            self.seen = 1  # not shifted: a member may send any counter, and the shift would be as long
            self.highest = counter
        elif ahead > 0:
            self.seen = (self.seen << ahead | 1) & _ALL_SEEN
            self.highest = counter
        else:
            self.seen |= 1 << (self.highest - counter)


class Sealer:
    """The seals of this start of this node with every peer whose epoch key is known."""

    def __init__(self, private: X25519PrivateKey, me: NodeId, mesh_id: str, epoch: int) -> None:
        self.epoch = epoch
        self.public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._private = private
        self._me = me
        self._mesh = mesh_id.encode()
        self._prefix = id_bytes(me)[:8]
        self._counter = 0
        self._peers: OrderedDict[NodeId, _Peer] = OrderedDict()
        self._forgotten: OrderedDict[NodeId, tuple[int, int]] = OrderedDict()
        self._by_prefix: dict[bytes, NodeId] = {}

    def set_peer(self, peer: NodeId, epoch: int, public: bytes) -> None:
        """Learn a peer's epoch key from its signed advert. An older epoch than the known one is ignored.

        Raises ProtocolError when the epoch is no u32 or the key is not usable.
        """
        known = self._peers.get(peer)
        if known is not None and epoch <= known.epoch:
            return
        if not 0 <= epoch <= EPOCH_MAX:
            raise ProtocolError(f"epoch {epoch} of node {peer[:8]} is no 32-bit number")
        last_epoch, highest = self._forgotten.get(peer, (-1, -1))
        if epoch < last_epoch:
            return
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:  # a low-order point, or not 32 bytes
            raise ProtocolError(f"the epoch key of node {peer[:8]} is not usable") from error
        self._peers[peer] = _Peer(
            epoch,
            sending=self._cipher(secret, self._me, self.epoch, peer, epoch),
            receiving=self._cipher(secret, peer, epoch, self._me, self.epoch),
            # Learnt again within one start: what came before it was forgotten is not accepted twice.
            highest=highest if epoch == last_epoch else -1,
            seen=_ALL_SEEN if epoch == last_epoch else 0,
        )
        self._peers.move_to_end(peer)
        self._forgotten.pop(peer, None)
        self._by_prefix[id_bytes(peer)[:8]] = peer
        while len(self._peers) > PEERS_MAX:
            self.forget(next(iter(self._peers)))

    def forget(self, peer: NodeId) -> None:
        """Drop a peer's keys: nothing of it opens any more."""
        it = self._peers.pop(peer, None)
        if it is not None:
            self._by_prefix.pop(id_bytes(peer)[:8], None)
            self._forgotten[peer] = (it.epoch, it.highest)
            while len(self._forgotten) > FORGOTTEN_MAX:
                self._forgotten.popitem(last=False)

    def knows(self, peer: NodeId) -> bool:
        """Whether datagrams to this peer can be sealed."""
        return peer in self._peers

    def seal(self, peer: NodeId, plain: bytes) -> bytes:
        """A datagram for the peer. Raises KeyError when its epoch key is not known."""
        it = self._peers[peer]
        self._peers.move_to_end(peer)
        if self._counter >= COUNTER_MAX:
            raise ProtocolError("this epoch's counter is used up; restart the agent")
        header = HEADER.pack(MAGIC, VERSION, self._prefix, self.epoch, self._counter)
        nonce = struct.pack(">IQ", 0, self._counter)
        self._counter += 1
        return header + it.sending.encrypt(nonce, plain, header)

    def open(self, datagram: bytes) -> tuple[NodeId, bytes]:
        """The sender and the plain bytes. Raises ProtocolError: unknown sender, wrong epoch, replayed, or forged."""
        if len(datagram) < OVERHEAD_BYTES:
            raise ProtocolError("too short")
        header = datagram[: HEADER.size]
        magic, version, prefix, epoch, counter = HEADER.unpack(header)
        if magic != MAGIC or version != VERSION:
            raise ProtocolError("not a datagram of this protocol")
        sender = self._by_prefix.get(prefix)
        if sender is None:
            raise ProtocolError("unknown sender")
        it = self._peers[sender]
        if epoch != it.epoch:
            raise ProtocolError(f"epoch {epoch} of node {sender[:8]}, not {it.epoch}")
        if counter >= COUNTER_MAX or not it.fresh(counter):
            raise ProtocolError("replayed, or too old")
        try:
            plain = it.receiving.decrypt(struct.pack(">IQ", 0, counter), datagram[HEADER.size :], header)
        except InvalidTag as error:
            raise ProtocolError("forged, or sealed for another start of this node") from error
        it.accept(counter)
        return sender, plain

    def _cipher(
        self, secret: bytes, sender: NodeId, sender_epoch: int, receiver: NodeId, epoch: int
    ) -> ChaCha20Poly1305:
        info = b"meshnode/datagram/1" + id_bytes(sender) + id_bytes(receiver) + struct.pack(">II", sender_epoch, epoch)
        key = HKDF(SHA256(), 32, salt=self._mesh, info=info).derive(secret)
        return ChaCha20Poly1305(key)
