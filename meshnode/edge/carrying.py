"""Models on the way between nodes: who has one, and how a piece of it is asked for."""

from __future__ import annotations

from meshnode.edge import zoning
from meshnode.edge.node import Node
from meshnode.errors import TransferFailed
from meshnode.links.pool import BULK
from meshnode.links.side import Incoming, Reply
from meshnode.wire.messages import Digest, NodeId, Piece, PieceAsk, PieceList, PieceListAsk


def holders(node: Node, digest: Digest) -> list[NodeId]:
    """Who advertises the model; and its publisher, whose advert may still be on its way."""
    publisher = node.catalog.of_digest(digest).publisher if node.catalog.knows(digest) else ""
    return [
        member.id
        for member in node.membership.view()
        if member.usable
        and member.id != node.keeper.id
        and zoning.may_have(node, member.id, digest)
        and member.advert is not None
        and (member.id == publisher or any(model.digest == digest for model in member.advert.models))
    ]


async def ask_piece(node: Node, peer: NodeId, ask: PieceAsk | PieceListAsk) -> bytes:
    """A piece, or a list of them, from a peer, over the link for bulk. Raises MeshError."""
    link = await node.pool.link(peer, node.membership.addresses(peer), kind=BULK)
    zoning.check_given(node, peer, link.via, node.catalog.bound(Digest(ask.model)))
    received = await link.call(ask)
    if not isinstance(received.message, Piece | PieceList):
        raise TransferFailed(f"a piece was answered with {type(received.message).__name__}")
    return bytes(received.body)


async def give(node: Node, incoming: Incoming, ask: PieceAsk | PieceListAsk) -> Reply:
    """A piece, or a list of them, for a peer. Raises ModelNotFound, NoNodeInZone, TransferFailed."""
    manifest = node.catalog.of_digest(Digest(ask.model))
    zoning.check_given(node, incoming.peer.id, incoming.link.via, manifest.bound)
    if isinstance(ask, PieceListAsk):
        return Reply(PieceList(), (await node.store.piece_list(manifest.digest, ask.file, manifest.piece_bytes),))
    return Reply(Piece(), (await node.store.piece(manifest.digest, ask.file, ask.piece, manifest.piece_bytes),))
