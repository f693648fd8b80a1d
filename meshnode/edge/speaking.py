"""What other nodes speak, by their HELLO: a mesh may be of two neighbouring versions, and what is new is not sent to
who would not understand it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshnode.edge.verb import JSON
from meshnode.errors import InvalidInput, MeshError
from meshnode.links.side import Peer
from meshnode.membership.view import Member
from meshnode.wire.messages import FEATURES, PROTOCOL_VERSION

if TYPE_CHECKING:
    from meshnode.edge.node import Node

ANSWER_S = 5.0


async def everyone(node: Node) -> list[JSON]:
    """A row for each node that is up, this one too; those without a link are dialled."""
    asked = [_one(node, member) for member in node.membership.view() if member.state in ("alive", "suspect")]
    return await asyncio.gather(*asked)


async def _one(node: Node, member: Member) -> JSON:
    row = {"id": member.id, "name": member.name, "software": "", "versions": None, "features": None, "why": ""}
    if member.id == node.keeper.id:
        return row | {
            "software": f"meshnode/{node.version}",
            "versions": [PROTOCOL_VERSION],
            "features": list(FEATURES),
        }
    try:
        async with asyncio.timeout(ANSWER_S):
            peer = (await node.pool.link(member.id, member.addresses)).peer
    except (MeshError, TimeoutError) as error:
        return row | {"why": str(error) or f"no answer within {ANSWER_S:.0f} s"}
    return row | {"software": peer.software, "versions": list(peer.versions), "features": sorted(peer.features)}


def check(peer: Peer, feature: str, what: str) -> None:
    """Raises InvalidInput when a peer's software does not take part in something."""
    if feature not in peer.features:
        raise InvalidInput(f"{peer.name} runs {_software(peer.software)}, which {what}", hint=f"update {peer.name}")


async def check_everyone(node: Node, feature: str, what: str, hint: str) -> None:
    """Raises InvalidInput when the software of a node that is up does not take part in something.

    Of nodes that are away, or do not answer, nothing is known.
    """
    rows = [row for row in await everyone(node) if row["features"] is not None and feature not in row["features"]]
    if rows:
        who = ", ".join(f"{row['name']} ({_software(row['software'])})" for row in rows)
        raise InvalidInput(f"{who}: {what}", hint=hint)


def _software(said: str) -> str:
    return said.replace("/", " ") or "another software"
