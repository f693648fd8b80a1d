"""The whole document of the dashboard at one moment. Parts that cannot have changed are the same objects as before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from meshnode.edge import admitting
from meshnode.edge.dashboard import tables
from meshnode.edge.dashboard.patching import pruned
from meshnode.edge.node import Node
from meshnode.errors import MeshError
from meshnode.links.link import Link
from meshnode.membership.view import Member
from meshnode.wire.messages import NodeId, Vitals, VitalsAsk

ASK_EVERY_S = 2.0
"""Load is asked for so often, and of so many nodes at once, in turn; only of those to which there is a link anyway."""
ASKED_MAX = 32
ASK_TIMEOUT_S = 1.0
FORGET_S = 10.0
INVITES_EVERY_S = 5.0


@dataclass(slots=True)
class Looking:
    """Makes the document, again and again."""

    node: Node
    _vitals: dict[NodeId, tuple[float, Vitals]] = field(default_factory=dict)
    _rates: dict[NodeId, float] = field(default_factory=dict)
    _turn: int = 0
    _asked_at: float = -ASK_EVERY_S
    _invites: dict[str, Any] = field(default_factory=dict)
    _invites_at: float = -INVITES_EVERY_S
    _seconds: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def document(self) -> dict[str, Any]:
        """Everything that is shown."""
        node, now = self.node, time.monotonic()
        if now - self._asked_at >= ASK_EVERY_S:
            self._asked_at = now
            await self._ask(now)
        if now - self._invites_at >= INVITES_EVERY_S:
            self._invites_at = now
            self._invites = tables.invites(await admitting.listed(node, None))
        fresh = {peer: it for peer, (at, it) in self._vitals.items() if now - at < FORGET_S}
        statements = node.keeper.statements
        whole: dict[str, Any] = pruned(
            {
                "self": node.keeper.id,
                "version": node.version,
                "mesh": {"id": statements.mesh_id, "name": statements.mesh_name},
                "notices": tables.notices(node),
                "nodes": tables.nodes(node, fresh, self._rates),
                "models": tables.models(node),
                "work": tables.work(node, now),
                "stories": tables.stories(node, node.lately.notable.stories(), now),
                "events": tables.events(node),
                "invites": self._invites,
            }
        )
        whole["flow"] = self._flow(now)
        return whole

    def _flow(self, now: float) -> dict[str, dict[str, Any]]:
        """By second since 1970. A second that is over does not change: its document is made once."""
        shift = round(time.time() - now)
        before, self._seconds = self._seconds, {}
        for number, second in self.node.lately.flow.seconds(now):
            key = str(number + shift)
            self._seconds[key] = before.get(key) or second.document()
        return self._seconds

    async def _ask(self, now: float) -> None:
        node = self.node
        self._heard(now, node.keeper.id, node.vitals())
        linked = [
            (member, link)
            for member in node.membership.view()
            if member.state == "alive" and (link := node.pool.get(member.id)) is not None
        ]
        asked = self._in_turn(linked)
        await asyncio.gather(*(self._one(now, member.id, link) for member, link in asked))

    def _in_turn(self, linked: Sequence[tuple[Member, Link]]) -> Sequence[tuple[Member, Link]]:
        if len(linked) <= ASKED_MAX:
            return linked
        begin = self._turn % len(linked)
        self._turn = begin + ASKED_MAX
        return [*linked[begin:], *linked[:begin]][:ASKED_MAX]

    async def _one(self, now: float, peer: NodeId, link: Link) -> None:
        try:
            received = await link.call(VitalsAsk(), timeout_s=ASK_TIMEOUT_S)
        except MeshError:
            return
        if isinstance(received.message, Vitals):
            self._heard(now, peer, received.message)

    def _heard(self, now: float, peer: NodeId, it: Vitals) -> None:
        at, before = self._vitals.get(peer, (now, it))
        if now > at:
            self._rates[peer] = max(0, it.tasks_done - before.tasks_done) / (now - at)
        self._vitals[peer] = (now, it)
