"""The door for other agents: which request goes where.

A link is authenticated before it gets here. Requests about trust and membership are answered at once; those about
tasks and models wait until the trust sets of both sides agree on this link, and need a grant.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from meshnode.edge import carrying, fleet, models, officers, renewal, zoning
from meshnode.edge.looking import Looker
from meshnode.edge.node import Node
from meshnode.errors import PermissionDenied, ProtocolError
from meshnode.links.link import Incoming, Reply
from meshnode.wire.fleet import FleetAsk
from meshnode.wire.looks import LookAsk, ReachAsk
from meshnode.wire.messages import (
    AdminKeyAsk,
    AdvertPull,
    Digest,
    Done,
    HaveAsk,
    Infer,
    ModelDo,
    MovedAsk,
    PieceAsk,
    PieceListAsk,
    QuoteAsk,
    RelayClose,
    RelayData,
    RelayOffer,
    RelayOpen,
    RenewAsk,
    ResultAsk,
    RotateAsk,
    StreamPing,
    TrustPush,
    TrustSync,
    ViewAsk,
    ViewNews,
    ViewRows,
    VitalsAsk,
    Warm,
)

ABOUT_WORK = (QuoteAsk, Infer, Warm, ResultAsk, PieceListAsk, PieceAsk, HaveAsk, ModelDo, MovedAsk)
"""What a node in quarantine asks in vain: tasks, and models."""


@dataclass(frozen=True, slots=True)
class PeerDoor:
    """Answers the requests of peers."""

    node: Node
    looker: Looker = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "looker", Looker(self.node))

    async def handle(self, incoming: Incoming) -> Reply:
        """Raises MeshError, which the link sends as the answer."""
        node, request, peer = self.node, incoming.request, incoming.peer.id
        match request:
            case StreamPing() | ViewAsk() | ViewRows() | ViewNews() | AdvertPull():
                return await node.membership.handle(incoming)
            case TrustSync() | TrustPush():
                return await node.trust.handle(incoming)
        await node.trust.settled(incoming.link)
        grant = node.keeper.statements.grant(peer, time.time())
        if grant is None and not isinstance(
            request, RotateAsk
        ):  # who gave its place away may not have heard that it did
            raise PermissionDenied(f"node {peer[:8]} has no grant in this mesh, or it has expired")
        if grant is not None and grant.quarantine and isinstance(request, ABOUT_WORK):
            raise PermissionDenied(
                f"node {peer[:8]} is in quarantine: {grant.quarantine}",
                hint=f"an admin lets it in: `meshnode accept {peer[:8]}`",
            )
        match request:
            case QuoteAsk():
                return node.serving.quote(request, peer, incoming.link.rtt_s)
            case Infer():
                zoning.check_way(node, incoming.link.via, request)
                return await node.serving.infer_for(request, incoming.body, peer, incoming.link.closed.is_set)
            case Warm():
                await node.serving.warm(Digest(request.model), peer)
                return Reply(Done(), ())
            case ResultAsk():
                return await node.serving.result(request, peer, incoming.link.closed.is_set)
            case RelayData() | RelayOpen() | RelayOffer() | RelayClose():
                return await node.pool.relay.handle(incoming)
            case FleetAsk():
                return fleet.rows(node, request)
            case LookAsk():
                return self.looker.look(request, peer)
            case ReachAsk():
                return await self.looker.reach(peer)
            case VitalsAsk():
                return Reply(node.vitals(), ())
            case PieceListAsk() | PieceAsk() | HaveAsk():
                return await carrying.give(node, incoming, request)
            case ModelDo():
                return await models.do_for(node, request, peer)
            case RenewAsk() | RotateAsk():
                return renewal.for_peer(node, request, peer)
            case AdminKeyAsk():
                return officers.key_for(node, peer)
            case MovedAsk():
                return models.moved(node, Digest(request.model))
        raise ProtocolError(f"{type(request).__name__} is not a request between agents")
