"""What the dashboard shows, as plain documents by subject. Figures are rounded to what can be seen: others only change.

Each row has a key, so that what changed can be told from what did not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from meshnode.edge import flagging
from meshnode.edge.node import Node
from meshnode.membership.view import Member
from meshnode.tasks.notable import Story
from meshnode.wire.messages import Digest, NodeId, Vitals

EVENTS = 40
INVITE = ("kind", "uses", "used", "quarantined", "roles", "zones", "hardware", "expires_at", "issued_by_name")
MIB = 1024 * 1024
Rows = dict[str, Any]


def nodes(node: Node, vitals: Mapping[NodeId, Vitals], rates: Mapping[NodeId, float]) -> Rows:
    """Who is in the mesh, how it is linked with this node, and its load."""
    return {
        member.id: _node(node, member, vitals.get(member.id), rates.get(member.id)) for member in node.membership.view()
    }


def _node(node: Node, member: Member, vitals: Vitals | None, rate: float | None) -> Rows:
    me = member.id == node.keeper.id
    link = node.pool.get(member.id)
    grant = node.keeper.statements.grant(member.id)
    host, port = member.address or ("", 0)
    row: Rows = {
        "name": member.name,
        "state": member.state,
        "usable": member.usable,
        "path": member.path,
        "via": link.via.id if link is not None and link.via is not None else None,
        "rtt_ms": None if link is None or link.rtt_s is None else shortened(link.rtt_s * 1000),
        "reason": member.reason or None,
        "address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}" if host else None,
        "found_by": member.found_by,
        "roles": sorted(grant.roles) if grant is not None else None,
        "quarantine": (grant.quarantine or None) if grant is not None else None,
    }
    if vitals is not None and member.state != "dead":
        row |= {
            "load": round(vitals.cpu_load, 2),
            "in_flight": vitals.in_flight,
            "wait_ms": shortened(vitals.backlog_s * 1000),
            "memory_free": round(vitals.available_bytes / (64 * MIB)) * 64 * MIB,
            "gpu_free": [round(free / (64 * MIB)) * 64 * MIB for free in vitals.gpu_free_bytes] or None,
            "up_s": round(vitals.uptime_s / 60) * 60,
            "power": vitals.power_source,
            "charge": None if vitals.power_percent is None else round(vitals.power_percent),
            "per_s": None if rate is None else shortened(rate),
        }
    if (advert := member.advert) is not None:
        row |= {
            "zone": advert.zone or None,
            "labels": dict(advert.labels) or None,
            "software": advert.software,
            "paused": (node.owner.reason if me else advert.paused) or None,
            "draining": advert.draining or None,
            "sandbox": advert.sandbox or None,
            "cpu": advert.cpu.model,
            "cores": advert.cpu.cores,
            "memory": advert.memory_total,
            "gpus": [{"name": gpu.name, "memory": gpu.memory_total} for gpu in advert.gpus] or None,
            "providers": list(advert.providers),
            "slots": advert.slots,
        }
    return row


def models(node: Node) -> Rows:
    """Each model with who has it on disk and who in memory."""
    on_disk: dict[str, list[str]] = {}
    loaded: dict[str, list[str]] = {}
    for member in node.membership.view():
        if member.advert is None or member.state != "alive":
            continue
        for held in member.advert.models:
            on_disk.setdefault(held.digest, []).append(member.id)
            if held.loaded:
                loaded.setdefault(held.digest, []).append(member.id)
    return {
        f"{it.name}:{it.version}": {
            "name": it.name,
            "version": it.version,
            "digest": it.digest,
            "size": it.size,
            "memory": it.memory_bytes or None,
            "on_disk": on_disk.get(it.digest, []),
            "loaded": loaded.get(it.digest, []),
            "zone": it.zone or None,
            "signed": it.mark is not None,
            "reported": (flagging.document(node, it.digest) or {}).get("text"),
        }
        for it in node.catalog.manifests()
    }


def work(node: Node, now: float) -> Rows:
    """This agent's own tasks: the last ten seconds, by node, and since the start."""
    recent, counters = node.dispatcher.recent.document(now), node.dispatcher.counters
    return {
        **_figures(recent),
        "failed_per_s": shortened(recent["failed_per_s"]),
        "open": node.dispatcher.open,
        "answered": counters.answered,
        "failed": counters.failed,
        "moved": counters.rerouted,
        "hedged": counters.hedged,
        "nodes": {row["node"]: _figures(row) for row in recent["nodes"]},
    }


def _figures(row: Mapping[str, Any]) -> Rows:
    return {
        "per_s": shortened(row["per_s"]),
        "p50_ms": None if row["p50_s"] is None else shortened(row["p50_s"] * 1000),
        "p99_ms": None if row["p99_s"] is None else shortened(row["p99_s"] * 1000),
    }


def stories(node: Node, known: Iterable[Story], now: float) -> Rows:
    """Tasks that moved, failed or were refused."""
    names = {it.digest: f"{it.name}:{it.version}" for it in node.catalog.manifests()}
    people = {member.id: member.name for member in node.membership.view()}
    wall = time.time() - now
    return {str(it.number): _story(it, names, people, wall) for it in known}


def _story(it: Story, names: Mapping[Digest, str], people: Mapping[NodeId, str], wall: float) -> Rows:
    return {
        "kind": it.kind,
        "model": names.get(it.model, it.model[:12]),
        "outcome": it.outcome,
        "task": it.task,
        "by": None if it.by is None else people.get(it.by, it.by[:8]),
        "zone": it.zone,
        "steps": [{"name": step.name, "node": step.node, "outcome": step.outcome} for step in it.steps],
        "reason": it.reason or None,
        "count": it.count,
        "last": round(it.last + wall, 1),
        "ms": shortened(it.seconds * 1000),
    }


def events(node: Node) -> Rows:
    """What changed in the mesh."""
    return {
        str(it["number"]): {
            "at": round(it["at"], 1),
            "event": it["event"],
            "name": it["name"],
            "node": it["node"],
            "why": it["why"] or None,
        }
        for it in node.events.after(0)[-EVENTS:]
    }


def invites(rows: Iterable[Mapping[str, Any]]) -> Rows:
    """Those that still let somebody in, without what they are made of."""
    return {str(row["id"]): {key: row[key] for key in INVITE} for row in rows if row["state"] == "open"}


def notices(node: Node) -> list[str]:
    """What is wrong with this node, which the reader should know before anything else."""
    found = []
    if node.keeper.out is not None:
        found.append(f"This node is not in the mesh any more: {node.keeper.out}")
    if node.membership.isolated:
        found.append("This node is cut off: it reaches no other member. What is shown may be old.")
    if node.membership.copied:
        found.append(f"This node's home was copied: {node.membership.copied}")
    found += [f"{what.capitalize()}: {why}" for what, why in sorted(node.alarms.items())]
    if node.keeper.quarantine:
        found.append(f"This node is in quarantine: {node.keeper.quarantine}. An admin's `meshnode accept` lets it in.")
    return found


def shortened(value: float) -> float:
    """Three digits: what a person compares."""
    if not math.isfinite(value) or value == 0:
        return 0.0
    return round(value, max(0, 2 - math.floor(math.log10(abs(value)))))
