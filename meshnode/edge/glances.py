"""Short looks that a person takes: which models are in memory here, how far another node is, and the dashboard."""

from __future__ import annotations

import asyncio
import time

import msgspec

from meshnode.edge import speaking
from meshnode.edge.http.guard import CODE_S
from meshnode.edge.node import Node
from meshnode.edge.verb import JSON, Nothing, Verbs
from meshnode.errors import ConfigError
from meshnode.tasks.finding import find_member
from meshnode.wire.messages import StreamPing

PING_TIMEOUT_S = 5.0


class PingNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`count` pings, one after the other."""

    node: str
    count: int = 4


async def _ps(node: Node, _: Nothing) -> JSON:
    names = {m.digest: m for m in node.catalog.manifests()}
    rows = []
    for loaded in node.execution.loaded():
        manifest = names.get(loaded.digest)
        rows.append(
            {
                "node": node.keeper.id,
                "name": manifest.name if manifest else None,
                "version": manifest.version if manifest else None,
                "digest": loaded.digest,
                "memory_bytes": loaded.bytes,
                "in_flight": loaded.in_flight,
                "last_used_s": loaded.last_used_s,
                "service_ms": None if loaded.service_s is None else loaded.service_s * 1000,
                "provider": loaded.provider,
            }
        )
    return rows


async def _ping(node: Node, args: PingNode) -> JSON:
    member = find_member(node.membership.view(), args.node)
    if member.id == node.keeper.id:
        return [{"seq": 1, "rtt_ms": 0.0, "path": "self", "address": None}]
    rows = []
    for seq in range(1, max(1, min(args.count, 100)) + 1):
        link = await node.pool.link(member.id, member.addresses)
        began = time.monotonic()
        await link.call(StreamPing(), timeout_s=PING_TIMEOUT_S)
        rtt_ms = (time.monotonic() - began) * 1000
        address = link.peer.address
        rows.append(
            {
                "seq": seq,
                "rtt_ms": round(rtt_ms, 3),
                "path": "direct",
                "address": f"{address[0]}:{address[1]}" if address else None,
            }
        )
        if seq < args.count:
            await asyncio.sleep(0.2)
    return rows


async def _speaks(node: Node, _: Nothing) -> JSON:
    return await speaking.everyone(node)


async def _dashboard(node: Node, _: Nothing) -> JSON:
    """A link that opens the dashboard, once and soon."""
    if node.link is None:
        raise ConfigError(
            "this agent has no dashboard: its HTTP door is closed",
            hint="start it with `meshnode up --http 127.0.0.1:8080`, or set http.listen in config.toml",
        )
    return {"link": node.link("/dashboard/"), "within_s": CODE_S}


VERBS: Verbs = {
    "ps": (Nothing, _ps),
    "ping": (PingNode, _ping),
    "speaks": (Nothing, _speaks),
    "dashboard": (Nothing, _dashboard),
}
