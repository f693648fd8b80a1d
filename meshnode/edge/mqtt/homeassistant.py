"""Nodes as devices of Home Assistant: the payloads of its device discovery over MQTT. Pure.

One message a device, at `PREFIX/device/ID/config`: `device`, `origin`, and `components`, each with `platform` and
`unique_id`. A value that is not known is `None` for a template, which Home Assistant shows as unknown. A device is
there while all of its availability topics say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshnode.edge.mqtt.topics import SHORT, Topics
from meshnode.version import __version__
from meshnode.wire.messages import NodeId

ORIGIN = {"name": "meshnode", "sw_version": __version__}
Component = dict[str, Any]


def _sensor(name: str, field: str, **more: Any) -> Component:
    return {"platform": "sensor", "name": name, "value_template": f"{{{{ value_json.{field} }}}}", **more}


def _bytes(name: str, field: str) -> Component:
    return _sensor(
        name,
        field,
        device_class="data_size",
        unit_of_measurement="B",
        suggested_unit_of_measurement="GiB",
        state_class="measurement",
        entity_category="diagnostic",
    )


NODE: Mapping[str, Component] = {
    "state": _sensor(
        "State", "state", device_class="enum", options=["alive", "suspect", "dead", "left"], icon="mdi:lan-connect"
    ),
    "usable": {
        "platform": "binary_sensor",
        "name": "Takes work",
        "value_template": "{{ 'ON' if value_json.usable and not value_json.paused else 'OFF' }}",
        "payload_on": "ON",
        "payload_off": "OFF",
        "device_class": "running",
    },
    "problem": {
        "platform": "binary_sensor",
        "name": "Problem",
        "value_template": "{{ 'None' if value_json.alarm is none else 'ON' if value_json.alarm else 'OFF' }}",
        "payload_on": "ON",
        "payload_off": "OFF",
        "device_class": "problem",
    },
    "tasks_in_flight": _sensor("Tasks in flight", "tasks_in_flight", state_class="measurement", icon="mdi:run-fast"),
    "tasks_done": _sensor("Tasks done", "tasks_done", state_class="total_increasing", icon="mdi:counter"),
    "backlog": _sensor(
        "Backlog", "backlog_s", device_class="duration", unit_of_measurement="s", state_class="measurement"
    ),
    "cpu": _sensor(
        "Processor", "cpu_percent", unit_of_measurement="%", state_class="measurement", icon="mdi:cpu-64-bit"
    ),
    "memory": _bytes("Memory available", "memory_available_bytes"),
    "models_loaded": _sensor(
        "Models in memory", "models_loaded", state_class="measurement", entity_category="diagnostic", icon="mdi:brain"
    ),
    "uptime": _sensor(
        "Uptime",
        "uptime_s",
        device_class="duration",
        unit_of_measurement="s",
        suggested_unit_of_measurement="h",
        entity_category="diagnostic",
    ),
}
BATTERY = _sensor(
    "Battery",
    "battery_percent",
    device_class="battery",
    unit_of_measurement="%",
    state_class="measurement",
    entity_category="diagnostic",
)
MESH: Mapping[str, Component] = {
    "nodes_alive": _sensor("Nodes alive", "nodes_alive", state_class="measurement", icon="mdi:lan"),
    "nodes_dead": _sensor("Nodes dead", "nodes_dead", state_class="measurement", icon="mdi:lan-disconnect"),
    "tasks_in_flight": _sensor("Tasks in flight", "tasks_in_flight", state_class="measurement", icon="mdi:run-fast"),
}


def node(topics: Topics, row: Mapping[str, Any], publisher: NodeId) -> dict[str, Any]:
    """The device of a node; of one that does not publish itself, it is known only while its publisher is there."""
    node = NodeId(row["id"])
    id = f"meshnode_{node[:SHORT]}"
    battery = {"battery": BATTERY} if (row["power"] or {}).get("percent") is not None else {}
    cpu = row["cpu"] or {}
    device = {
        "identifiers": [id],
        "name": row["name"],
        "manufacturer": "meshnode",
        "model": cpu.get("model") or "node",
        "serial_number": row["id"],
        "via_device": f"meshnode_mesh_{topics.mesh_id[:SHORT]}",
    }
    if row["version"]:
        device["sw_version"] = row["version"]
    return {
        "device": device,
        "origin": ORIGIN,
        "components": _components(id, {**NODE, **battery}),
        "state_topic": topics.node_state(node),
        "availability": [{"topic": topics.availability(it)} for it in dict.fromkeys((node, publisher))],
        "availability_mode": "all",
        "qos": 1,
    }


def mesh(topics: Topics, status: Mapping[str, Any], publisher: NodeId) -> dict[str, Any]:
    """The device of the mesh as a whole."""
    id = f"meshnode_mesh_{topics.mesh_id[:SHORT]}"
    return {
        "device": {
            "identifiers": [id],
            "name": f"Mesh {status['mesh']['name']}",
            "manufacturer": "meshnode",
            "model": "mesh",
            "serial_number": status["mesh"]["id"],
        },
        "origin": ORIGIN,
        "components": _components(id, MESH),
        "state_topic": topics.state,
        "availability": [{"topic": topics.availability(publisher)}],
        "availability_mode": "all",
        "qos": 1,
    }


def _components(id: str, components: Mapping[str, Component]) -> dict[str, Component]:
    return {key: {**it, "unique_id": f"{id}_{key}"} for key, it in components.items()}
