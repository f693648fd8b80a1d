"""The documents that people and programs read: status, models, members. Plain data; bytes and seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from meshnode.catalog.manifest import Manifest
from meshnode.edge import flagging, officers, renewal
from meshnode.edge.node import Node
from meshnode.errors import MeshError
from meshnode.membership.view import Member
from meshnode.trust import renewing
from meshnode.wire.messages import Digest, NodeId, Vitals, VitalsAsk

STATUS_SCHEMA = 1
VITALS_TIMEOUT_S = 0.5
VITALS_NODES_MAX = 64
"""Of larger meshes only so many nodes are asked for their load; the others' is shown as unknown."""


def ready(node: Node, name: str, doors: Mapping[str, str | None]) -> dict[str, Any]:
    """The first thing that an agent announces; `doors` are the addresses of those that are open."""
    host, port = node.address
    return {
        "event": "ready",
        "id": node.keeper.id,
        "name": name,
        "mesh": node.keeper.statements.mesh_id,
        "mesh_name": node.keeper.statements.mesh_name,
        "listen": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        **doors,
        "quarantine": node.keeper.quarantine or None,
    }


async def status(node: Node) -> dict[str, Any]:
    """The mesh as seen from here; `schema` grows when a field changes its meaning."""
    view = node.membership.view()
    vitals = await _vitals(node, view)
    by_digest: dict[Digest, list[Manifest]] = {}
    for manifest in node.catalog.manifests():
        by_digest.setdefault(manifest.digest, []).append(manifest)
    counts = {state: sum(m.state == state for m in view) for state in ("alive", "suspect", "dead", "left")}
    return {
        "schema": STATUS_SCHEMA,
        "self": node.keeper.id,
        "mesh": {"id": node.keeper.statements.mesh_id, "name": node.keeper.statements.mesh_name, "nodes": counts},
        "revoked": str(out) if (out := node.keeper.out) is not None else None,
        "isolated": node.membership.isolated,
        "copied": node.membership.copied or None,
        "renewal": renewal.document(node),
        "sandbox": _sandbox(node),
        "nodes": [_node(node, member, vitals.get(member.id), by_digest) for member in view],
        "models": models(node),
    }


def models(node: Node) -> list[dict[str, Any]]:
    """The models of the mesh and who has them, by what the nodes said of themselves: nobody is asked."""
    holders, loaders = _holders(node.membership.view())
    return [
        model_document(
            manifest,
            on_disk=holders.get(manifest.digest, []),
            loaded=loaders.get(manifest.digest, []),
            reported=flagging.document(node, manifest.digest),
        )
        for manifest in node.catalog.manifests()
    ]


def _sandbox(node: Node) -> dict[str, Any]:
    """How the workers of this node are confined."""
    return {
        "grade": node.execution.grade or None,
        "workers": [
            {
                "provider": provider,
                "grade": confined.grade,
                "holds": list(confined.holds),
                "lacks": [{"why": lack.why, "fix": lack.fix} for lack in confined.lacks],
            }
            for provider, confined in node.execution.confinement.items()
        ],
    }


async def _vitals(node: Node, view: tuple[Member, ...]) -> dict[NodeId, Vitals]:
    """The load of each reachable node, asked at this moment."""
    others = [m for m in view if m.state == "alive" and m.id != node.keeper.id][:VITALS_NODES_MAX]

    async def ask(member: Member) -> tuple[NodeId, Vitals] | None:
        try:
            async with asyncio.timeout(VITALS_TIMEOUT_S):
                link = await node.pool.link(member.id, member.addresses)
                received = await link.call(VitalsAsk(), timeout_s=VITALS_TIMEOUT_S)
        except (MeshError, TimeoutError):
            return None
        return (member.id, received.message) if isinstance(received.message, Vitals) else None

    answers = await asyncio.gather(*(ask(member) for member in others))
    return {node.keeper.id: node.vitals(), **dict(answer for answer in answers if answer is not None)}


def _node(node: Node, member: Member, vitals: Vitals | None, manifests: dict[Digest, list[Manifest]]) -> dict[str, Any]:
    advert = member.advert
    free = dict(enumerate(vitals.gpu_free_bytes)) if vitals else {}
    host, port = member.address or ("", 0)
    link = node.pool.get(member.id)
    rtt_s = link.rtt_s if link is not None else None
    row: dict[str, Any] = {
        "id": member.id,
        "name": member.name,
        "self": member.id == node.keeper.id,
        "state": member.state,
        "zone": None,
        "labels": {},
        "address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}" if host else None,
        "version": None,
        "uptime_s": vitals.uptime_s if vitals else None,
        "cpu": None,
        "memory": None,
        "gpus": [],
        "providers": [],
        "slots": None,
        "power": None,
        "in_flight": vitals.in_flight if vitals else None,
        "backlog_s": vitals.backlog_s if vitals else None,
        "tasks_done": vitals.tasks_done if vitals else None,
        "rtt_ms": None if rtt_s is None else round(rtt_s * 1000, 3),
        "models": [],
        "usable": member.usable,
        "found_by": member.found_by,
        "path": member.path,
        "reason": member.reason or None,
        "paused": None,
        "sandbox": None,
        "quarantine": grant.quarantine or None if (grant := node.keeper.statements.grant(member.id)) else None,
    }
    if advert is None:
        return row
    return row | {
        "zone": advert.zone or None,
        "labels": dict(advert.labels),
        "version": advert.software,
        "paused": (node.owner.reason if member.id == node.keeper.id else advert.paused) or None,
        "sandbox": advert.sandbox or None,
        "cpu": {"model": advert.cpu.model, "cores": advert.cpu.cores, "load": vitals.cpu_load if vitals else None},
        "memory": {"total": advert.memory_total, "available": vitals.available_bytes if vitals else None},
        "gpus": [
            {"name": gpu.name, "memory_total": gpu.memory_total, "memory_free": free.get(i)}
            for i, gpu in enumerate(advert.gpus)
        ],
        "providers": list(advert.providers),
        "slots": advert.slots,
        "power": {
            "source": vitals.power_source if vitals else advert.power.source,
            "percent": vitals.power_percent if vitals else advert.power.percent,
        },
        "models": [
            {
                "name": manifest.name,
                "version": manifest.version,
                "digest": held.digest,
                "loaded": held.loaded,
            }
            for held in advert.models
            for manifest in manifests.get(Digest(held.digest), ())
        ],
    }


def model(node: Node, manifest: Manifest) -> dict[str, Any]:
    """One model and who has it, also one whose name another model has."""
    holders, loaders = _holders(node.membership.view())
    digest = manifest.digest
    verdict, refused = node.store.verdict(digest), node.fetcher.refused(manifest)
    return model_document(
        manifest,
        on_disk=holders.get(digest, []),
        loaded=loaders.get(digest, []),
        reported=flagging.document(node, digest),
    ) | {
        "scan": None if verdict is None else msgspec.to_builtins(verdict) | {"memory_bytes": verdict.memory_bytes},
        "refused": None if refused is None else str(refused),
    }


def _holders(view: tuple[Member, ...]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Who has which digest on disk, and who in memory."""
    holders: dict[str, list[str]] = {}
    loaders: dict[str, list[str]] = {}
    for member in view:
        if member.advert is not None and member.state == "alive":
            for held in member.advert.models:
                holders.setdefault(held.digest, []).append(member.id)
                if held.loaded:
                    loaders.setdefault(held.digest, []).append(member.id)
    return holders, loaders


def model_document(
    manifest: Manifest, *, on_disk: list[str], loaded: list[str], reported: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One model of the mesh; `reported` is who saw it do harm."""
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "size": manifest.size,
        "inputs": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in manifest.inputs],
        "outputs": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in manifest.outputs],
        "on_disk": on_disk,
        "loaded": loaded,
        "memory_bytes": manifest.memory_bytes,
        "metadata": dict(manifest.metadata),
        "publisher": manifest.publisher,
        "reported": reported,
        "zone": manifest.zone or None,
        "signed": manifest.mark is not None,
    }


def members(node: Node) -> list[dict[str, Any]]:
    """Who is in, granted by whom, and who was thrown out. `granted_by` is an admin key; its holder has the name."""
    view = {member.id: member for member in node.membership.view()}
    statements = node.keeper.statements
    holders, now = officers.names(statements), time.time()
    at = officers.holders(statements)
    admins = {at[key] for key in statements.admins() if key in at}
    rows = []
    for grant in statements.members():
        revocation = statements.revoked(grant.node)
        member = view.get(grant.node)
        rows.append(
            {
                "id": grant.node,
                "name": grant.name,
                "roles": sorted(grant.roles),
                "zones": sorted(grant.zones),
                "granted_by": grant.granted_by,
                "granted_by_name": holders.get(grant.granted_by),
                "granted_at": grant.granted_at,
                "expires_at": grant.expires_at,
                "final": grant.final,
                "due": renewing.grant_is_due(grant, now),
                "admin": grant.node in admins,
                "state": member.state if member else None,
                "revoked": revocation is not None,
                "reason": revocation.reason if revocation else None,
                "quarantine": grant.quarantine or None,
                "invite": grant.invite.hex()[:16] or None,
            }
        )
    return rows
