"""What is published of the mesh: from the status document to topics and payloads. Pure.

Each node that has the door publishes itself. Nodes without one are published by one of those that have: the first, by
id, of those that are there. When it goes, the next one does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from meshnode.edge.mqtt import homeassistant
from meshnode.edge.mqtt.topics import SHORT, Topics
from meshnode.wire.messages import NodeId

ONLINE, OFFLINE = b"online", b"offline"
BY = "by"
"""The user property of an availability that another node publishes: which one."""
Documents = dict[str, bytes]
"""Payloads by topic, all retained; an empty one clears what is there."""


def leads(me: NodeId, bridges: Collection[str]) -> bool:
    """Whether this node publishes what nobody publishes for itself; `bridges` are short ids."""
    return me[:SHORT] <= min((*bridges, me[:SHORT]))


def documents(
    topics: Topics, status: Mapping[str, Any], bridges: Collection[str], alarms: Mapping[str, str]
) -> Documents:
    """What this node publishes; `bridges` are the nodes that publish themselves, short ids; `alarms` are its own."""
    me = NodeId(status["self"])
    first = leads(me, bridges)
    found: Documents = {}
    for row in status["nodes"]:
        node = NodeId(row["id"])
        if node != me and (not first or node[:SHORT] in bridges):
            continue
        found[topics.node_state(node)] = encoded(node_state(row, alarms if node == me else None))
        if node != me:
            found[topics.availability(node)] = ONLINE if row["state"] == "alive" else OFFLINE
        if topics.discovery:
            found[topics.device(node)] = encoded(homeassistant.node(topics, row, me))
    if first:
        found[topics.state] = encoded(mesh_state(status))
        if topics.discovery:
            found[topics.mesh_device] = encoded(homeassistant.mesh(topics, status, me))
    return found


def gone(topics: Topics, nodes: Collection[NodeId]) -> Documents:
    """What clears nodes that are no members any more."""
    found: Documents = {}
    for node in nodes:
        found |= dict.fromkeys((topics.node_state(node), topics.availability(node)), b"")
        if topics.discovery:
            found[topics.device(node)] = b""
    return found


def node_state(row: Mapping[str, Any], alarms: Mapping[str, str] | None) -> dict[str, Any]:
    """One node for programs that know nothing of meshnode: flat, units in the names; null where it is not known."""
    cpu, memory, power = row["cpu"] or {}, row["memory"] or {}, row["power"] or {}
    load = cpu.get("load")
    return {
        "id": row["id"],
        "name": row["name"],
        "state": row["state"],
        "usable": row["usable"],
        "reason": row["reason"],
        "alarm": None if alarms is None else "; ".join(f"{what}: {why}" for what, why in sorted(alarms.items())),
        "paused": row["paused"],
        "zone": row["zone"],
        "version": row["version"],
        "uptime_s": _rounded(row["uptime_s"], 0),
        "tasks_in_flight": row["in_flight"],
        "tasks_done": row["tasks_done"],
        "backlog_s": _rounded(row["backlog_s"], 3),
        "cpu_percent": None if load is None else round(load * 100, 1),
        "memory_available_bytes": memory.get("available"),
        "power_source": power.get("source"),
        "battery_percent": power.get("percent"),
        "models_loaded": sum(bool(held["loaded"]) for held in row["models"]),
        "models": sorted({f"{held['name']}:{held['version']}" for held in row["models"]}),
    }


def mesh_state(status: Mapping[str, Any]) -> dict[str, Any]:
    """The mesh as the publishing node sees it."""
    nodes = status["mesh"]["nodes"]
    return {
        "id": status["mesh"]["id"],
        "name": status["mesh"]["name"],
        "seen_by": status["self"],
        "nodes_alive": nodes["alive"],
        "nodes_suspect": nodes["suspect"],
        "nodes_dead": nodes["dead"],
        "tasks_in_flight": sum(row["in_flight"] or 0 for row in status["nodes"]),
        "models": sorted({f"{it['name']}:{it['version']}" for it in status["models"]}),
    }


def encoded(document: Mapping[str, Any]) -> bytes:
    """JSON."""
    return msgspec.json.encode(document)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
