"""What links must know of the rest of the agent to go through a member, and to be one that others go through."""

from __future__ import annotations

from collections.abc import Callable

from meshnode.edge import zoning
from meshnode.edge.node import Node
from meshnode.links.relay import Knowledge
from meshnode.trust.zones import kinship
from meshnode.wire.messages import NodeId


def knowledge(node: Callable[[], Node]) -> Knowledge:
    """The same for the agent's whole life; `node` is asked when there is something to know."""

    def alive(peer: NodeId) -> bool:
        member = node().membership.member(peer)
        return member is not None and member.state in ("alive", "suspect")

    def unwilling() -> str:
        if node().dispatcher.draining:
            return "it is stopping"
        return "it runs on battery" if node().power().source == "battery" else ""

    return Knowledge(
        addresses=lambda peer: node().membership.addresses(peer),
        alive=alive,
        admitted=lambda peer: node().keeper.statements.grant(peer) is not None,
        unwilling=unwilling,
        kin=lambda peer, member: kinship(zoning.granted(node(), peer), zoning.granted(node(), member)),
    )
