"""Tasks through a real broker: each is run once and answered once, whatever comes and goes."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from meshnode.agent import Agent
from meshnode.doors import Mqtt
from tests.edge.living import ask, founder, joiner
from tests.edge.mqtt.doors import bridge_of, serving
from tests.edge.mqtt.mosquitto import Mosquitto, Stubborn, outsider
from tests.waiting import until

MODELS = Path(__file__).resolve().parents[3] / "models"
DIGITS, ECHO, SLOW = "meshnode/mesh/infer/digits", "meshnode/mesh/infer/echo", "meshnode/mesh/infer/slow"
SEVEN = (MODELS / "digits" / "7.png").read_bytes()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def loaded(payload: bytes) -> Any:
    assert not payload.startswith(b"{"), payload
    return np.load(io.BytesIO(payload), allow_pickle=False)


def number(i: int) -> Any:
    return np.full((1, 4), i, np.float32)


def code(payload: bytes) -> str:
    return str(json.loads(payload)["error"]["code"])


async def add(agent: Agent, *names: str) -> None:
    for name in names:
        await ask(agent.node.home, "model.add", {"path": str(MODELS / name / "model.onnx"), "name": name})


def status(pid: int, key: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{key}:"))


def done(*agents: Agent) -> int:
    """How many tasks were run, by the workers' own count."""
    return sum(agent.node.execution.vitals()[2] for agent in agents)


@pytest.fixture
async def agent(tmp_path: Path, broker: Mosquitto) -> AsyncIterator[Agent]:
    """An agent of a mesh of one, with three models, that takes tasks from the broker."""
    async with founder(tmp_path / "ann", mqtt=Mqtt(broker.url)) as it:
        await add(it, "digits", "echo", "slow")
        await serving(it)
        yield it


async def test_a_picture_is_answered(agent: Agent, broker: Mosquitto) -> None:
    """By JSON of the Open Inference Protocol, with the correlation data that came; opened in a confined process."""
    async with outsider(broker) as out:
        await out.ask(DIGITS, SEVEN, b"seven")
        answer = await out.answer(b"seven")
        (output,) = [it for it in json.loads(answer.payload)["outputs"] if len(it["data"]) == 10]
        assert 7 == int(np.argmax(output["data"]))
        assert ("application/json", "ok") == (answer.content_type, answer.properties["code"])
        assert agent.node.keeper.id == answer.properties["node"]
        decoder = [it for it in psutil.Process().children() if "decoder" in " ".join(it.cmdline())]
        assert ["2", "1"] == [status(decoder[0].pid, key) for key in ("Seccomp", "NoNewPrivs")]


async def test_tensors_are_answered_in_kind(agent: Agent, broker: Mosquitto) -> None:
    """.npy by .npy, .npz by .npz, JSON by JSON, and otherwise where it is asked for; by the mesh's id as well."""
    request = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2.5, 3, 4]}]}
    by_id = f"meshnode/{agent.node.keeper.statements.mesh_id[:16]}/infer/echo:1"
    async with outsider(broker) as out:
        await out.ask(ECHO, npy(number(1)), b"npy")
        await out.ask(ECHO, npz(x=number(2)), b"npz")
        await out.ask(by_id, json.dumps(request).encode(), b"json")
        await out.ask(ECHO, npy(number(np.nan)), b"wanted", accept="application/json")
        assert np.array_equal(number(1), loaded((await out.answer(b"npy")).payload))
        assert np.array_equal(number(2), loaded((await out.answer(b"npz")).payload)["y"])
        answer = json.loads((await out.answer(b"json")).payload)
        assert ("echo:1", [1, 2.5, 3, 4]) == (answer["model_name"], answer["outputs"][0]["data"])
        assert ["NaN"] * 4 == json.loads((await out.answer(b"wanted")).payload)["outputs"][0]["data"]


async def test_what_is_wrong_is_answered_with_its_code(agent: Agent, broker: Mosquitto) -> None:
    """Never with an empty tensor, and never with silence."""
    wrong = {
        b"model": ("meshnode/mesh/infer/nothing", npy(number(1)), "model_not_found"),
        b"bytes": (ECHO, b"\x00\x01\x02", "invalid_input"),
        b"empty": (ECHO, b"", "invalid_input"),
        b"shape": (ECHO, npy(np.zeros((2, 2, 2), np.float32)), "invalid_input"),
        b"pickle": (ECHO, npy(np.array([{"a": 1}], object)), "invalid_input"),
        b"nan": (ECHO, b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[NaN]}]}', "invalid_input"),
        b"deep": (ECHO, b'{"inputs":' + b"[" * 100_000, "invalid_input"),
        b"half a picture": (DIGITS, SEVEN[:60], "invalid_input"),
        b"no archive": (ECHO, b"PK\x03\x04" + b"x" * 100, "invalid_input"),
        b"inputs": (SLOW, npy(number(1)), "invalid_input"),
    }
    async with outsider(broker) as out:
        for correlation, (topic, payload, _) in wrong.items():
            await out.ask(topic, payload, correlation)
        for correlation, (_, _, expected) in wrong.items():
            answer = await out.answer(correlation)
            assert (expected, expected) == (code(answer.payload), answer.properties["code"]), correlation
        await out.ask(ECHO, npy(number(1)), b"option", priority="urgent")
        assert "invalid_input" == code((await out.answer(b"option")).payload)
        await out.ask(ECHO, npy(number(1)), b"zone", zone="moon")
        assert "no_node_in_zone" == code((await out.answer(b"zone")).payload)
        assert {1} == {len(answers) for answers in out.answers.values()}


async def test_a_bomb_costs_its_own_task_only(agent: Agent, broker: Mosquitto) -> None:
    """A small picture that is huge when it is opened, and an archive likewise; the next one is answered."""
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "png")
    async with outsider(broker) as out:
        await out.ask(DIGITS, file.getvalue(), b"png")
        await out.ask(ECHO, npz(x=np.zeros(80_000_000, np.float32)), b"npz")
        await out.ask(DIGITS, SEVEN, b"next")
        assert "invalid_input" == code((await out.answer(b"png")).payload)
        assert "invalid_input" == code((await out.answer(b"npz")).payload)
        assert "ok" == (await out.answer(b"next")).properties["code"]


async def test_what_cannot_be_answered_is_not_run(agent: Agent, broker: Mosquitto) -> None:
    """No response topic, one that this node must not write to, a retained message: acknowledged and counted."""
    bridge = bridge_of(agent)
    async with outsider(broker, "out", "homeassistant/#", "meshnode/mesh/node/#") as out:
        forbidden = ("homeassistant/device/x/config", ECHO, "meshnode/mesh/node/x/state", "meshnode/other/answer/x")
        for response in ("", *forbidden):
            await out.ask(ECHO, npy(number(1)), b"c", response=response)
        await until(lambda: bridge.answering.counts["unanswerable"] >= 5, "all five are counted")
        await out.ask(ECHO, npy(number(1)), b"ok", response="meshnode/mesh/answer/out")
        await until(lambda: bridge.answering.counts["ok"] == 1, "the answer's own place is allowed")
        assert 1 == done(agent)
        assert {"online"} == {it.payload.decode() for it in out.seen if it.topic.endswith("availability")}
        assert not [it for it in out.seen if it.topic in forbidden]


async def test_the_expiry_of_a_message_is_its_deadline(agent: Agent, broker: Mosquitto) -> None:
    """A task that would take ten seconds, of a message that is good for one."""
    slow = npz(x=np.zeros((1, 64), np.float32), rounds=np.int64(14_000_000))
    async with outsider(broker) as out:
        await out.ask(SLOW, slow, b"late", expiry_s=1)
        assert "deadline_exceeded" == code((await out.answer(b"late")).payload)


async def test_a_message_that_comes_again_is_not_run_again(agent: Agent, broker: Mosquitto) -> None:
    """The same correlation data and bytes at once, five times: one run, one answer. Other bytes are another task."""
    async with outsider(broker) as out:
        for _ in range(5):
            await out.ask(ECHO, npy(number(1)), b"same")
        await out.answer(b"same")
        await out.ask(ECHO, npy(number(1)), b"same")
        await until(lambda: bridge_of(agent).answering.counts["repeated"] == 5, "all are known again")
        await out.ask(ECHO, npy(number(2)), b"same")
        await until(lambda: len(out.answers[b"same"]) == 2, "the other task is answered")
        assert 2 == done(agent)
        for _ in range(2):
            await out.ask(ECHO, npy(number(3)))
        await until(lambda: len(out.answers[b""]) == 2, "without correlation data each is a task")


async def test_who_listens_late_gets_the_answer_still(agent: Agent, broker: Mosquitto) -> None:
    """The broker says that nobody listens: the answer is offered again for a while."""
    async with outsider(broker) as out:
        await out.ask(ECHO, npy(number(1)), b"late", response="clients/late/answers")
        await until(lambda: bridge_of(agent).answering.counts["ok"] == 1, "it was run")
    async with outsider(broker, "late") as late:
        assert np.array_equal(number(1), loaded((await late.answer(b"late")).payload))
        assert 1 == done(agent)


async def test_what_is_too_large_is_not_sent_to_the_agent(tmp_path: Path, broker: Mosquitto) -> None:
    """The broker drops what is larger than this node takes; what its envelope lets through is answered."""
    async with founder(tmp_path / "ann", mqtt=Mqtt(broker.url, message_bytes_max=4096)) as agent:
        await add(agent, "echo")
        await serving(agent)
        async with outsider(broker) as out:
            await out.ask(ECHO, npy(np.zeros((1, 1_000_000), np.float32)), b"huge")
            await out.ask(ECHO, npy(np.zeros((1, 10_000), np.float32)), b"large")
            assert "invalid_input" == code((await out.answer(b"large")).payload)
            assert b"huge" not in out.answers
            assert 0 == done(agent)


async def test_the_broker_keeps_what_is_too_much_at_once(tmp_path: Path, broker: Mosquitto) -> None:
    """Two at once, forty asked for: never more than two in hand, and all are answered."""
    async with founder(tmp_path / "ann", mqtt=Mqtt(broker.url, tasks_max=2)) as agent:
        await add(agent, "echo")
        await serving(agent)
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, agent.node.dispatcher.open)
                await asyncio.sleep(0)

        watching = asyncio.ensure_future(watch())
        async with outsider(broker) as out:
            for i in range(40):
                await out.ask(ECHO, npy(number(i)), b"%d" % i)
            for i in range(40):
                assert np.array_equal(number(i), loaded((await out.answer(b"%d" % i)).payload))
        watching.cancel()
        assert (40, True) == (done(agent), 1 <= most <= 2)


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_a_broker_that_restarts_loses_nothing(agent: Agent, broker: Mosquitto, end: str) -> None:
    """Tasks before, during and after: each is answered, and where the broker could write down what it had, once."""
    client = Stubborn(broker, "stubborn")
    try:
        for i in range(150):
            if i == 50:
                await until(lambda: len(client.answers) >= 20, "some are answered")
                broker.stop() if end == "stopped" else broker.kill()
            if i == 100:
                await broker.start()
            client.ask(ECHO, npy(number(i)), b"%d" % i)
        if end == "killed":
            # What it had taken and not written down is asked again, as a client does that hears nothing.
            await until(lambda: len(client.answers) >= 100, "what came after the restart is answered")
            await until(lambda: bridge_of(agent).serving, "the agent is back")
            for i in range(150):
                if b"%d" % i not in client.answers:
                    client.ask(ECHO, npy(number(i)), b"%d" % i)
        await until(lambda: len(client.answers) == 150, "every task is answered")
        for i in range(150):
            assert np.array_equal(number(i), loaded(client.answers[b"%d" % i][0].payload))
        if end == "stopped":
            # What the broker delivers again because it did not hear that it came, it marks: that is QoS 1. It may
            # stop before its first delivery left the machine, and then the marked one is the only one.
            fresh = max(sum(not it.again for it in answers) for answers in client.answers.values())
            assert (150, 1) == (done(agent), fresh)
    finally:
        client.close()


async def test_two_nodes_share_the_tasks(tmp_path: Path, broker: Mosquitto) -> None:
    """200 tasks, each run once, both nodes taking some; a message that comes to the other one is not run again."""
    async with AsyncExitStack() as stack:
        ann = await stack.enter_async_context(founder(tmp_path / "ann", mqtt=Mqtt(broker.url)))
        await add(ann, "echo")
        bob = await stack.enter_async_context(joiner(tmp_path / "bob", ann.node, mqtt=Mqtt(broker.url)))
        await until(lambda: bob.node.catalog.manifests(), "bob knows the model")
        both = [await serving(ann), await serving(bob)]
        await until(lambda: all(it.reporting.bridges for it in both), "both know of each other")
        out = await stack.enter_async_context(outsider(broker))
        for i in range(200):
            await out.ask(ECHO, npy(number(i)), b"%d" % i)
        for i in range(200):
            assert np.array_equal(number(i), loaded((await out.answer(b"%d" % i)).payload))
        shares = [it.answering.counts["tasks"] for it in both]
        assert (200, 200, True) == (sum(shares), done(ann, bob), min(shares) >= 50)
        for i in range(1, 21):  # the broker gives every other one to each: these go the other way round
            await out.ask(ECHO, npy(number(i)), b"%d" % i)
        again = ("repeated", "elsewhere")
        await until(lambda: sum(it.answering.counts[k] for it in both for k in again) >= 20, "all are known again")
        assert sum(it.answering.counts["elsewhere"] for it in both) > 0
        assert 200 == done(ann, bob), "none is run again"
        twice = {int(it) for it, answers in out.answers.items() if len(answers) > 1}
        assert set(range(1, 21)) >= twice, "only what was asked twice may be answered twice"


async def test_what_the_broker_keeps_for_a_dead_node_is_taken_over(tmp_path: Path, broker: Mosquitto) -> None:
    """A session of a node that is dead in the mesh, with tasks in it: another node answers them."""
    async with AsyncExitStack() as stack:
        ann = await stack.enter_async_context(founder(tmp_path / "ann", mqtt=Mqtt(broker.url)))
        await add(ann, "echo")
        first = await serving(ann)
        dead = AsyncExitStack()
        bob = await dead.enter_async_context(joiner(tmp_path / "bob", ann.node, mqtt=Mqtt(broker.url)))
        second = await serving(bob)
        await until(lambda: first.reporting.bridges, "ann knows of bob")
        connection = second.uplink.connection
        assert connection is not None
        assert second._work is not None
        second._work.cancel()  # what a kill does to a connection: it breaks, and is not made again
        connection._client._sock_close()
        await until(lambda: not first.reporting.bridges, "the will says that bob is gone")
        out = await stack.enter_async_context(outsider(broker))
        for i in range(20):
            await out.ask(ECHO, npy(number(i)), b"%d" % i)
        await dead.aclose()
        for i in range(20):
            assert np.array_equal(number(i), loaded((await out.answer(b"%d" % i)).payload))
        assert {1} == {len(answers) for answers in out.answers.values()}


async def test_an_agent_that_stops_says_so(tmp_path: Path, broker: Mosquitto) -> None:
    """And its session is gone: nothing waits for it at the broker."""
    async with outsider(broker, "out", "meshnode/#") as out:
        async with founder(tmp_path / "ann", mqtt=Mqtt(broker.url)) as agent:
            await serving(agent)
            topic = bridge_of(agent).topics.availability(agent.node.keeper.id)
            place = bridge_of(agent).finding.sealing.place(agent.node.keeper.id)
            await until(lambda: out.retained().get(place), "it left its addresses")
            assert b"online" == out.retained()[topic]
        await until(lambda: out.retained()[topic] == b"offline", "it says that it goes")
        assert b"" == out.retained()[place]
        await out.ask(ECHO, npy(number(1)), b"late")
    async with founder(tmp_path / "ann2", mqtt=Mqtt(broker.url)) as other:
        await serving(other)
        assert 0 == bridge_of(other).answering.counts["tasks"]
