"""Models at the door: onto a disk and into memory, here or on another node, how far that is, and where they stay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from meshnode.catalog.manifest import Manifest
from meshnode.edge import fleet
from meshnode.edge.node import Node
from meshnode.edge.verb import JSON, Verbs
from meshnode.errors import HomeError, InvalidInput, MeshError, PeerLost, PermissionDenied, TransferFailed
from meshnode.execution.job import ModelFile
from meshnode.links.link import Reply
from meshnode.membership.view import Member
from meshnode.tasks.finding import find_member
from meshnode.wire.messages import Digest, Done, ModelDo, Moved, MovedAsk, NodeId, Warm

PATIENCE_S = 30.0
"""A pull is tried again until nothing has moved for so long."""
PAUSE_S = 1.0
ASK_S = 5.0
PIN = "pin-"
"""What the blueprint of a pinned model is called, with its name behind."""


class ModelOn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node` is a name, an id or the beginning of one; this node without it."""

    model: str
    node: str | None = None


class MovedOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model on its way to a node, or, with `path`, into the store of this one."""

    model: str | None = None
    node: str | None = None
    path: str | None = None


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many `replicas`, or one, on `node`."""

    model: str
    replicas: int | None = None
    node: str | None = None


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By its name."""

    model: str


# --- for a user of this node ---


async def _pull(node: Node, args: ModelOn) -> JSON:
    """Until it is there. It goes on through restarts of those who give it, as long as something moves."""
    manifest, member = node.catalog.resolve(args.model), _member(node, args.node)
    began = moved_at = time.monotonic()
    before = (0, 0)
    while True:
        try:
            await _fetch(node, manifest, member)
            fetched = node.fetcher.fetched.get(manifest.digest, 0) if member.id == node.keeper.id else None
            seconds = round(time.monotonic() - began, 3)
            return _document(manifest, member) | {"seconds": seconds, "fetched_bytes": fetched}
        except (TransferFailed, PeerLost) as error:
            if isinstance(error.__cause__, HomeError):
                raise
            now, done = time.monotonic(), await moved_of(node, manifest.digest, member)
            if done != before:
                before, moved_at = done, now
            if now - moved_at > PATIENCE_S:
                raise
            await asyncio.sleep(PAUSE_S)


async def _fetch(node: Node, manifest: Manifest, member: Member) -> None:
    if member.id == node.keeper.id:
        await node.fetcher.ensure(manifest)
    else:
        await _tell(node, member, ModelDo(model=manifest.digest, what="fetch"))


async def _tell(node: Node, member: Member, message: ModelDo | Warm) -> None:
    link = await node.pool.link(member.id, node.membership.addresses(member.id))
    await link.call(message)


async def _load(node: Node, args: ModelOn) -> JSON:
    manifest, member = node.catalog.resolve(args.model), _member(node, args.node)
    await load(node, manifest, member)
    return _document(manifest, member)


async def load(node: Node, manifest: Manifest, member: Member) -> None:
    """Have a model in the memory of a node, from wherever it is. Raises MeshError."""
    if member.id == node.keeper.id:
        node.policing.check_model(manifest)
        await node.execution.load(ModelFile(manifest.digest, await node.fetcher.ensure(manifest)))
    else:
        await _tell(node, member, Warm(model=manifest.digest))


async def _unload(node: Node, args: ModelOn) -> JSON:
    manifest, member = node.catalog.resolve(args.model), _member(node, args.node)
    await unload(node, manifest, member)
    return _document(manifest, member)


async def unload(node: Node, manifest: Manifest, member: Member) -> None:
    """Take a model out of the memory of a node. Raises MeshError."""
    if member.id == node.keeper.id:
        node.execution.unload(manifest.digest)
    else:
        await _tell(node, member, ModelDo(model=manifest.digest, what="unload"))


async def _moved(node: Node, args: MovedOf) -> JSON:
    """`fetched` is what this node took from others in its last fetch; the rest was on its disk."""
    manifest: Manifest | None
    if args.path is not None:
        manifest = None
        done, total = node.intake.get(args.path, (0, 0))
    else:
        manifest = node.catalog.resolve(args.model or "")
        done, total = await moved_of(node, manifest.digest, _member(node, args.node))
    fetched = node.fetcher.fetched.get(manifest.digest, 0) if manifest is not None else 0
    return {"done": done, "total": total, "fetched": fetched}


async def moved_of(node: Node, digest: Digest, member: Member) -> tuple[int, int]:
    """(bytes done, bytes in all) of a model on its way to a node; zeros when nothing moves, or it does not say."""
    if member.id == node.keeper.id:
        return node.fetcher.progress(digest)
    try:
        link = await node.pool.link(member.id, node.membership.addresses(member.id))
        received = await link.call(MovedAsk(model=digest), timeout_s=ASK_S)
    except MeshError:
        return 0, 0
    assert isinstance(received.message, Moved)
    return received.message.done, received.message.total


async def _pin(node: Node, args: Pin) -> JSON:
    """A blueprint of one entry: what a person would write, and nothing that it could not say."""
    manifest = node.catalog.resolve(args.model)
    if (args.replicas is None) == (args.node is None):
        raise InvalidInput("say how many nodes are to keep the model, or which one: --replicas N or --on NODE")
    where = f"replicas = {args.replicas}" if args.node is None else f'node = "{_member(node, args.node).id}"'
    text = f'name = "{PIN}{manifest.name}"\n[[models]]\nmodel = "{manifest.name}:{manifest.version}"\nkeep = "disk"\n'
    document: JSON = await fleet.apply(node, fleet.Apply(text=text + where + "\n"))
    return document


async def _unpin(node: Node, args: Model) -> JSON:
    name = args.model.partition(":")[0].lower()
    document: JSON = await fleet.remove(node, fleet.Name(name=PIN + name))
    return document


def _member(node: Node, wanted: str | None) -> Member:
    return find_member(node.membership.view(), wanted or node.keeper.id)


def _document(manifest: Manifest, member: Member) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "size": manifest.size,
        "node": member.id,
        "node_name": member.name,
    }


@contextmanager
def taking_in(node: Node, path: Path) -> Iterator[Callable[[int, int], None]]:
    """While a model is added: what is to be told how far it is."""

    def progress(done: int, total: int) -> None:
        node.intake[str(path)] = (done, total)

    try:
        yield progress
    finally:
        node.intake.pop(str(path), None)


# --- for peers ---


async def do_for(node: Node, request: ModelDo, peer: NodeId) -> Reply:
    """What a peer wants done with a model here. Raises MeshError."""
    grant = node.keeper.statements.grant(peer, time.time())
    if grant is None or not set(grant.roles) & {"worker", "submitter"}:
        raise PermissionDenied(f"node {peer[:8]} neither works nor submits tasks in this mesh")
    manifest = node.catalog.of_digest(Digest(request.model))
    match request.what:
        case "fetch":
            await node.fetcher.ensure(manifest)
        case "unload":
            node.execution.unload(manifest.digest)
        case what:
            raise InvalidInput(f"this node cannot {what!r} a model", hint="is it older than the node that asks?")
    return Reply(Done(), ())


def moved(node: Node, digest: Digest) -> Reply:
    """How much of a model on its way here is there."""
    done, total = node.fetcher.progress(digest)
    return Reply(Moved(done=done, total=total), ())


VERBS: Verbs = {
    "model.pull": (ModelOn, _pull),
    "model.load": (ModelOn, _load),
    "model.unload": (ModelOn, _unload),
    "model.moved": (MovedOf, _moved),
    "model.pin": (Pin, _pin),
    "model.unpin": (Model, _unpin),
}
