"""Tells the broker what the mesh is: the shell around `state`."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from meshnode.edge import documents
from meshnode.edge.mqtt import state
from meshnode.edge.mqtt.connection import Connection
from meshnode.edge.mqtt.topics import SHORT, Topics
from meshnode.edge.node import Node
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)
HEAR_S = 0.3
"""Who else publishes is known so long after a connection began."""
LOOK_S = 1.0
"""How soon a node that comes or goes is told."""


@dataclass(slots=True)
class Reporting:
    """See the module's docstring."""

    node: Node
    topics: Topics
    bridges: set[str] = field(default_factory=set)
    """Who publishes itself, by the broker's word; short ids."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _told_wrong: bool = False
    """Somebody said of this node what is not so: another that had not heard of it, or the will of its last life."""

    def heard(self, bridge: str, payload: bytes, *, itself: bool) -> None:
        """The availability of a node, as it says itself or as another says of it."""
        before = set(self.bridges)
        if bridge == self.node.keeper.id[:SHORT]:
            self._told_wrong |= not itself or payload != state.ONLINE
        else:
            (self.bridges.add if itself and payload == state.ONLINE else self.bridges.discard)(bridge)
        if before != self.bridges or self._told_wrong:
            self._changed.set()

    async def run(self, connection: Connection) -> None:
        """Publish what changed, until cancelled. Raises MqttError."""
        me = self.node.keeper.id
        own = self.topics.availability(me)
        await connection.send(own, state.ONLINE, retain=True)
        published: state.Documents = {}
        nodes: set[NodeId] = set()
        clock = asyncio.get_running_loop().time
        seen: tuple[Any, frozenset[str]] | None = None
        due = 0.0
        await asyncio.sleep(HEAR_S)
        while True:
            if self._told_wrong:
                self._told_wrong = False
                await connection.send(own, state.ONLINE, retain=True)
            look = self._look()
            if look != seen or clock() >= due:
                if seen is not None and look[1] != seen[1]:
                    published = {}  # who came may have published what is this node's to publish
                seen, due = look, clock() + self.node.settings.mqtt.state_s
                status = await documents.status(self.node)
                now = {NodeId(row["id"]) for row in status["nodes"]}
                others = self.bridges - self._absent() - {me[:SHORT]}
                fresh = state.documents(self.topics, status, others, self.node.alarms)
                fresh |= state.gone(self.topics, nodes - now)
                nodes = now
                for topic, payload in fresh.items():
                    if published.get(topic) != payload:
                        by = ((state.BY, me),) if self.topics.bridge_of(topic) else ()
                        await connection.send(topic, payload, retain=True, properties=by)
                published = fresh  # what another node publishes meanwhile is not known here
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            self._changed.clear()

    def _look(self) -> tuple[Any, frozenset[str]]:
        view = self.node.membership.view()
        rows = tuple((m.id, m.state, m.usable, m.advert.paused if m.advert else "") for m in view)
        models = tuple(it.digest for it in self.node.catalog.manifests())
        return (rows, models, tuple(self.node.alarms.items())), frozenset(self.bridges)

    def _absent(self) -> set[str]:
        """Nodes that are dead in the mesh publish nothing, whatever the broker still says."""
        return {m.id[:SHORT] for m in self.node.membership.view() if m.state in ("dead", "left")}
