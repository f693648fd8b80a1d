"""State and availability at a real broker, and the payloads that Home Assistant documents for its discovery."""

from __future__ import annotations

import json
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from meshnode.doors import Frigate, Mqtt
from meshnode.edge import documents
from meshnode.edge.mqtt import homeassistant, state
from meshnode.edge.mqtt.topics import SHORT, Topics
from meshnode.edge.node import Node
from meshnode.wire.messages import NodeId
from tests.edge.living import ask, founder, joiner
from tests.edge.mqtt.doors import bridge_of, serving
from tests.edge.mqtt.mosquitto import Mosquitto, outsider
from tests.edge.test_local import ECHO
from tests.waiting import until

TOPICS = Topics("meshnode", "home", "0123456789abcdef" * 4, "homeassistant")
# From https://www.home-assistant.io/integrations/mqtt/, sensor.mqtt and binary_sensor.mqtt: what a device's payload,
# its device, its origin and its components may have.
ROOT = {"device", "origin", "components", "state_topic", "availability", "availability_mode", "qos", "encoding"}
DEVICE = {"identifiers", "connections", "configuration_url", "hw_version", "manufacturer", "model", "model_id", "name"}
DEVICE |= {"serial_number", "suggested_area", "sw_version", "via_device"}
ORIGIN = {"name", "sw_version", "support_url"}
ENTITY = {"platform", "unique_id", "name", "value_template", "device_class", "icon", "entity_category"}
SENSOR = ENTITY | {"unit_of_measurement", "suggested_unit_of_measurement", "state_class", "options"}
BINARY = ENTITY | {"payload_on", "payload_off"}
CLASSES = {"enum", "data_size", "duration", "battery"}
UNITS = {"data_size": {"B", "GiB"}, "duration": {"s", "h"}, "battery": {"%"}}


def check_device(payload: dict[str, Any], fields: set[str]) -> None:
    """A payload of device discovery, as it is documented; `fields` are those of the state."""
    assert ROOT >= set(payload)
    assert DEVICE >= set(payload["device"])
    assert payload["device"]["identifiers"]
    assert ORIGIN >= set(payload["origin"])
    assert payload["origin"]["name"], "the origin is required, with its name"
    assert payload["availability_mode"] in ("all", "any", "latest")
    ids = [it["unique_id"] for it in payload["components"].values()]
    assert len(set(ids)) == len(ids) > 0
    for it in payload["components"].values():
        assert {"sensor": SENSOR, "binary_sensor": BINARY}[it["platform"]] >= set(it)
        used = set(re.findall(r"value_json\.(\w+)", it["value_template"]))
        assert used
        assert fields >= used
        if it["platform"] == "sensor" and (kind := it.get("device_class")):
            assert kind in CLASSES
            assert UNITS.get(kind, {None}) >= {it.get("unit_of_measurement")}
            assert (kind == "enum") == ("options" in it)
            assert not (kind == "enum" and ("state_class" in it or "unit_of_measurement" in it))
        assert it.get("state_class") in (None, "measurement", "total", "total_increasing")
        assert it.get("entity_category") in (None, "config", "diagnostic")


async def test_the_devices_are_as_documented(node: Node) -> None:
    """Of a real status document, with everything that a node may lack as well."""
    status = await documents.status(node)
    (row,) = status["nodes"]
    bare = row | {"cpu": None, "memory": None, "power": None, "version": None}
    battery = row | {"power": {"source": "battery", "percent": 50.0}}
    for it in (row, bare, battery):
        payload = homeassistant.node(TOPICS, it, node.keeper.id)
        check_device(payload, set(state.node_state(it, None)))
        assert (it is battery) == ("battery" in payload["components"])
    check_device(homeassistant.mesh(TOPICS, status, node.keeper.id), set(state.mesh_state(status)))


def rows(*nodes: str, state_of: str = "alive") -> dict[str, Any]:
    """A status of which the first node is the one that looks."""
    keys = ("usable", "reason", "paused", "zone", "version", "uptime_s", "in_flight", "tasks_done", "backlog_s")
    plain: dict[str, Any] = dict.fromkeys((*keys, "cpu", "memory", "power"))
    listed = [plain | {"id": it, "name": it[:1], "state": state_of, "models": []} for it in nodes]
    counts = {"alive": len(nodes), "suspect": 0, "dead": 0, "left": 0}
    return {"self": nodes[0], "nodes": listed, "models": [], "mesh": {"id": "m", "name": "home", "nodes": counts}}


A, B, C = (NodeId(letter * 52) for letter in "abc")


@pytest.mark.parametrize(
    ("me", "bridges", "expected"),
    [
        (A, (), {A, B, C}),
        (A, (B,), {A, C}),
        (B, (A,), {B}),
        (B, (C,), {A, B}),
        (C, (A, B), {C}),
    ],
)
def test_each_node_has_one_publisher(me: NodeId, bridges: tuple[NodeId, ...], expected: set[NodeId]) -> None:
    """Itself, where it has the door; otherwise the first of those that have."""
    others = [it for it in (A, B, C) if it != me]
    found = state.documents(TOPICS, rows(me, *others), {it[:SHORT] for it in bridges}, {})
    assert expected == {it for it in (A, B, C) if TOPICS.node_state(it) in found}
    assert (TOPICS.state in found) == all(me < it for it in bridges)
    assert TOPICS.availability(me) not in found, "its own is the will's"


async def test_a_node_appears_with_its_state(tmp_path: Path, broker: Mosquitto) -> None:
    """Retained: who subscribes later gets it too. A node without the door is published by one that has it."""
    async with AsyncExitStack() as stack:
        ann = await stack.enter_async_context(founder(tmp_path / "ann", mqtt=Mqtt(broker.url, state_s=1)))
        await ask(ann.node.home, "model.add", {"path": ECHO, "name": "echo"})
        bob_stack = AsyncExitStack()
        bob = await bob_stack.enter_async_context(joiner(tmp_path / "bob", ann.node))
        await serving(ann)
        topics, me, other = bridge_of(ann).topics, ann.node.keeper.id, bob.node.keeper.id
        first = await stack.enter_async_context(outsider(broker, "first", "meshnode/#", "homeassistant/#"))
        await until(lambda: topics.device(other) in first.retained(), "bob appears")
        out = await stack.enter_async_context(outsider(broker, "out", "meshnode/#", "homeassistant/#"))
        await until(lambda: topics.device(other) in out.retained(), "bob is there for who comes later")
        seen = out.retained()
        assert all(it.retained for it in out.seen[:4])
        by = {it.topic: it.properties.get("by") for it in out.seen}
        assert [None, me] == [by[topics.availability(it)] for it in (me, other)]
        assert [b"online"] * 2 == [seen[topics.availability(it)] for it in (me, other)]
        assert ("ann", "alive", True) == tuple(
            json.loads(seen[topics.node_state(me)])[k] for k in ("name", "state", "usable")
        )
        await until(lambda: ["echo:1"] == json.loads(out.retained()[topics.state])["models"], "the mesh has a model")
        device = json.loads(seen[topics.device(other)])
        check_device(device, set(json.loads(seen[topics.node_state(other)])))
        assert [topics.availability(it) for it in (other, me)] == [it["topic"] for it in device["availability"]]
        assert topics.node_state(other) == device["state_topic"]
        check_device(json.loads(seen[topics.mesh_device]), set(json.loads(seen[topics.state])))
        await bob_stack.aclose()
        await until(lambda: out.retained()[topics.availability(other)] == b"offline", "bob is gone")
        assert "left" == json.loads(out.retained()[topics.node_state(other)])["state"]


async def test_blind_cameras_are_an_alarm_with_the_broker(tmp_path: Path, broker: Mosquitto) -> None:
    """Home Assistant has a sensor for it, which is off while all is well."""
    frigate = Frigate(listen="tcp://127.0.0.1:0", model="eyes")
    async with (
        founder(tmp_path / "ann", mqtt=Mqtt(broker.url), frigate=frigate) as ann,
        outsider(broker, "out", "meshnode/#", "homeassistant/#") as out,
    ):
        topics, me = bridge_of(ann).topics, ann.node.keeper.id

        def alarm() -> str | None:
            retained = out.retained().get(topics.node_state(me))
            return None if retained is None else str(json.loads(retained)["alarm"])

        await until(lambda: alarm() == "", "all is well")
        await until(lambda: topics.device(me) in out.retained(), "Home Assistant is told")
        device = json.loads(out.retained()[topics.device(me)])
        assert ("binary_sensor", "problem") == tuple(
            device["components"]["problem"][k] for k in ("platform", "device_class")
        )
        with zmq.asyncio.Context() as context, context.socket(zmq.REQ) as recorder:
            recorder.setsockopt(zmq.LINGER, 0)
            recorder.connect(str(ann.ready()["frigate"]))
            await recorder.send_multipart([json.dumps({"model_request": True, "model_name": "eyes.onnx"}).encode()])
            await recorder.recv_multipart()
        await until(lambda: "no model 'eyes'" in (alarm() or ""), "the alarm")


async def test_what_is_switched_off_is_not_there(tmp_path: Path, broker: Mosquitto) -> None:
    """Tasks only: nothing is published, and no addresses lie at the broker."""
    async with outsider(broker, "out", "#") as out:
        async with founder(tmp_path / "ann", mqtt=Mqtt(broker.url, state=False, rendezvous=False)) as agent:
            await ask(agent.node.home, "model.add", {"path": ECHO, "name": "echo"})
            await serving(agent)
            await out.ask("meshnode/mesh/infer/nothing", b"{}", b"c")
            await out.answer(b"c")
        assert {"meshnode/mesh/infer/nothing", out.inbox} == set(out.retained())


async def test_two_nodes_publish_the_third_once(tmp_path: Path, broker: Mosquitto) -> None:
    """The first of those with the door does, and when it is gone the other one."""
    async with AsyncExitStack() as stack:
        ann = await stack.enter_async_context(founder(tmp_path / "ann"))
        doors = []
        for name in ("bob", "cat"):
            stack_of = AsyncExitStack()
            agent = await stack_of.enter_async_context(joiner(tmp_path / name, ann.node, name, mqtt=Mqtt(broker.url)))
            await serving(agent)
            doors.append((agent.node.keeper.id, agent, stack_of))
        doors.sort(key=lambda it: it[0])
        (first, _, first_stack), (second, agent, second_stack) = doors
        topics, third = bridge_of(agent).topics, ann.node.keeper.id
        out = await stack.enter_async_context(outsider(broker, "out", "meshnode/#", "homeassistant/#"))

        def publisher() -> str | None:
            payload = out.retained().get(topics.device(third), b"")
            return json.loads(payload)["availability"][-1]["topic"] if payload else None

        await until(lambda: publisher() == topics.availability(first), "the first publishes it")
        await first_stack.aclose()
        await until(lambda: publisher() == topics.availability(second), "then the second")
        await second_stack.aclose()
        assert b"offline" == out.retained()[topics.availability(second)]
