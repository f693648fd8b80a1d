"""A file of this machine becomes a model of the mesh: stored, scanned, tried once, signed and told."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from meshnode.catalog.manifest import Manifest, Tensor, model_name
from meshnode.edge import documents, models, publishing, zoning
from meshnode.edge.node import Node
from meshnode.edge.verb import JSON
from meshnode.errors import InvalidInput
from meshnode.trust.zones import checked_zone


class AddModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path` is absolute and on this machine."""

    path: str
    name: str | None = None
    version: int | None = None
    zone: str | None = None
    signature: str | None = None


async def add(node: Node, args: AddModel) -> JSON:
    """The document of a model that the whole mesh knows then. Raises ModelRefused, InvalidInput, PermissionDenied."""
    node.keeper.check_may_publish()
    node.policing.check_publisher(node.keeper.id)
    path = Path(args.path)
    if not path.is_absolute():
        raise InvalidInput(
            f"{args.path[:200]!r} is no absolute path", hint="the agent stands in another folder than you"
        )
    name, zone = model_name(args.name or path.stem), checked_zone(args.zone) if args.zone else ""
    said, mark = publishing.mark_of(node, args.signature) if args.signature is not None else (None, None)
    with models.taking_in(node, path) as progress:
        stored = await node.store.add(path, progress)
    try:
        if said is not None:
            name, zone = said.name, said.zone
            if said.digest != stored.digest:
                raise InvalidInput(f"the signature is for {said.digest[:12]}, and {path.name} is {stored.digest[:12]}")
        report = await node.execution.probe(stored.path, node.store.needs(stored.digest))
        manifest = Manifest(
            name=name,
            version=said.version if said else args.version or node.catalog.next_version(name, stored.digest),
            files=stored.files,
            inputs=tuple(Tensor(t.name, t.dtype, t.shape) for t in report.inputs),
            outputs=tuple(Tensor(t.name, t.dtype, t.shape) for t in report.outputs),
            piece_bytes=node.settings.catalog.piece_bytes,
            memory_bytes=report.memory_bytes,
            run_us=None if report.run_s is None else round(report.run_s * 1e6),
            metadata={k: v for k, v in report.metadata.items() if k.startswith("meshnode.") and len(v) <= 256},
            provider=report.provider,
            runtime=report.runtime,
            created=int(time.time()),
            publisher=node.keeper.id,
            zone=zone,
            mark=mark,
            bound=tuple({zone} - {""} | set(node.catalog.bound(stored.digest))),
        )
        zoning.check_here(node, manifest)
        known = node.catalog.find(manifest.name, manifest.version)
        if known is not None and known.digest != manifest.digest:
            raise InvalidInput(
                f"{manifest.name}:{manifest.version} is another model in this mesh ({known.digest[:12]})",
                hint="choose another --version, or leave it out for the next one",
            )
        if known is not None and (known.zone, known.mark) != (zone, mark or known.mark):
            raise InvalidInput(
                f"{manifest.name}:{manifest.version} is known, in zone {known.zone or 'none'}, otherwise signed",
                hint="`meshnode model remove` it first, or choose another --version",
            )
        if known is None:
            statement = node.keeper.publish_model(manifest.to_map())
            node.trust.publish([statement.data])
            node.trust.learnt([statement])
    except BaseException:
        if not node.catalog.knows(stored.digest) or not zoning.may_have(node, node.keeper.id, stored.digest):
            node.store.remove(stored.digest)
        raise
    return documents.model(node, known or manifest) | {"on_disk": [node.keeper.id], "loaded": []}
