"""Leaves this node's addresses with the broker and dials those that others left: the shell around `sealing`.

What is found is one more address to try, like one that multicast announced: whoever answers there proves who it is.
A broker that loses, changes, replays or keeps back records costs that, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from meshnode.edge.mqtt.connection import Connection
from meshnode.edge.mqtt.sealing import ADDRESSES_MAX, Content, Here, Opened, Sealing
from meshnode.edge.node import Node
from meshnode.errors import MeshError, PermissionDenied, ProtocolError
from meshnode.links.address import Address
from meshnode.membership.candidates import Budget, Heard
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)
AGAIN_S = 600.0
LOOK_S = 2.0
EXPIRY_S = 1800
"""The broker drops the record of a node that did not come back."""
READ_A_MINUTE, READ_BURST = 300.0, 512.0
"""Records that are opened, at 0.2 ms each; a broker may send more."""


@dataclass(slots=True)
class Finding:
    """See the module's docstring."""

    node: Node
    sealing: Sealing
    rng: Random
    counts: Counter[str] = field(default_factory=Counter)
    _number: int = 0
    _budget: Budget = field(default_factory=lambda: Budget(READ_A_MINUTE, READ_BURST))

    @classmethod
    def of(cls, node: Node, rng: Random) -> Finding:
        """That of a node which belongs to a mesh."""

        def check(other: NodeId) -> None:
            held = node.keeper.statements
            grant = held.grant(other, time.time())
            if grant is None or grant.quarantine or held.revoked(other) is not None:
                raise PermissionDenied(f"node {other[:8]} is no member, as far as is known here")

        random = bytes(node.keeper.statements.genesis.body["random"])
        return cls(node, Sealing(random, node.settings.mqtt.prefix, check), rng)

    async def run(self, connection: Connection) -> None:
        """Leave the addresses, anew when they change and now and then, until cancelled. Raises MqttError."""
        place = self.sealing.place(self.node.keeper.id)
        clock = asyncio.get_running_loop().time
        left: tuple[Address, ...] | None = None
        due = 0.0
        while True:
            here = self.node.addresses()[:ADDRESSES_MAX]
            if here and (here != left or clock() >= due):
                record = self._record(here)
                if record:
                    await connection.send(place, record, retain=True, expiry_s=EXPIRY_S)
                left, due = here, clock() + AGAIN_S * self.rng.uniform(0.8, 1.0)
            await asyncio.sleep(LOOK_S)

    async def clear(self, connection: Connection) -> None:
        """This node goes. Raises MqttError."""
        await connection.send(self.sealing.place(self.node.keeper.id), b"", retain=True)

    def sealed(self, topic: str, content: Content) -> bytes:
        """What this node leaves at a topic. Raises ProtocolError when it is too long."""
        self._number += 1
        keeper = self.node.keeper
        return self.sealing.seal(
            topic,
            content,
            key=keeper.spki,
            sign=keeper.key.sign,
            boot=keeper.boot,
            number=self._number,
            at=time.time(),
            nonce=secrets.token_bytes(12),
        )

    def opened(self, topic: str, payload: bytes) -> Opened | None:
        """What another member left there; None for what counts for nothing."""
        if self._budget.take(asyncio.get_running_loop().time(), 1.0) > 0:
            self.counts["too many"] += 1
            return None
        try:
            found = self.sealing.open(topic, payload, time.time())
        except MeshError as error:
            self.counts["refused"] += 1
            log.info("a record at the broker is refused: %s", error)
            return None
        return found if found.node != self.node.keeper.id else None

    def heard(self, topic: str, payload: bytes) -> None:
        """A record of a node's addresses."""
        if not payload or topic == self.sealing.place(self.node.keeper.id):
            return
        found = self.opened(topic, payload)
        if found is not None and isinstance(found.content, Here):
            self.counts["found"] += 1
            self.node.discovery.announced(Heard(topic, found.content.addresses, "rendezvous", found.node))

    def _record(self, addresses: tuple[Address, ...]) -> bytes:
        while addresses:
            try:
                return self.sealed(self.sealing.place(self.node.keeper.id), Here(addresses))
            except ProtocolError:
                addresses = addresses[:-1]  # too many letters: the first ones are the best ones
        return b""
