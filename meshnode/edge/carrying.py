"""Models on the way between nodes: who has one, and how a piece of it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from meshnode.catalog.fetch import Fetcher
from meshnode.catalog.store import Store
from meshnode.config import Catalog
from meshnode.edge import zoning
from meshnode.edge.node import Node
from meshnode.errors import TransferFailed
from meshnode.links.pool import BULK
from meshnode.links.side import Incoming, Reply
from meshnode.wire.messages import Digest, Have, HaveAsk, NodeId, Piece, PieceAsk, PieceList, PieceListAsk


def fetcher(node: Callable[[], Node], self_id: NodeId, store: Store, settings: Catalog, rng: Random) -> Fetcher:
    """What fetches models from peers; the node is made after it."""
    return Fetcher(
        self_id,
        store,
        settings,
        lambda peer, ask: ask_piece(node(), peer, ask),
        lambda peer, digest: ask_have(node(), peer, digest),
        lambda digest: holders(node(), digest),
        rng,
        lambda manifest: zoning.check_here(node(), manifest),
    )


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


async def ask_have(node: Node, peer: NodeId, digest: Digest) -> tuple[bytes, tuple[NodeId, ...]]:
    """What a peer has of a model, and who else is fetching it. Raises MeshError."""
    link = await node.pool.link(peer, node.membership.addresses(peer))
    zoning.check_given(node, peer, link.via, node.catalog.bound(digest))
    received = await link.call(HaveAsk(model=digest))
    if not isinstance(received.message, Have):
        raise TransferFailed(f"a question for pieces was answered with {type(received.message).__name__}")
    usable = {member.id for member in node.membership.view() if member.usable}
    fellows = (NodeId(it) for it in received.message.fellows if it in usable and it != node.keeper.id)
    return bytes(received.body), tuple(it for it in fellows if zoning.may_have(node, it, digest))


async def give(node: Node, incoming: Incoming, request: PieceAsk | PieceListAsk | HaveAsk) -> Reply:
    """What a peer gets that fetches a model. Raises ModelNotFound, NoNodeInZone, TransferFailed."""
    manifest, peer = node.catalog.of_digest(Digest(request.model)), incoming.peer.id
    zoning.check_given(node, peer, incoming.link.via, manifest.bound)
    match request:
        case PieceListAsk():
            return Reply(PieceList(), (await node.giver.piece_list(manifest, request.file),))
        case PieceAsk():
            return Reply(Piece(), (await node.giver.piece(manifest, request.file, request.piece),))
        case HaveAsk():
            bitmaps, fellows = node.giver.have(manifest, peer)
            return Reply(Have(fellows=fellows), (bitmaps,))


def may_go(node: Node) -> frozenset[Digest]:
    """Models that may leave this disk when their room is needed.

    Not those in memory, those that a blueprint wants here, and those that nobody else who is up has; what the mesh does
    not know any more may always go.
    """
    busy = {model.digest for model in node.execution.loaded()} | node.fleet.duties.pinned()
    elsewhere = {
        Digest(model.digest)
        for member in node.membership.view()
        if member.usable and member.id != node.keeper.id and member.advert is not None
        for model in member.advert.models
        if zoning.may_have(node, member.id, Digest(model.digest))
    }
    return frozenset(
        digest
        for digest in node.store.digests()
        if digest not in busy and (digest in elsewhere or not node.catalog.knows(digest))
    )
