"""Agents as processes and a real broker: what is left of one that is killed."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import numpy as np
import pytest

from meshnode.edge.mqtt.topics import segment
from tests.edge.mqtt.mosquitto import COMMAND, MISSING, Mosquitto, broker, outsider
from tests.mesh.rig import MODELS, Rig
from tests.waiting import until


def tensor(i: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.full((1, 4), i, np.float32))
    return file.getvalue()


@pytest.mark.skipif(COMMAND is None, reason=MISSING)
async def test_an_agent_that_is_killed_is_offline_and_its_tasks_go_on(mesh_rig: Rig, tmp_path: Path) -> None:
    """Its last will says so, at once and for who comes later; the tasks that the broker had for it are answered."""
    async with broker(tmp_path / "broker") as it:
        await asyncio.to_thread(_killed, mesh_rig, it)


def _killed(rig: Rig, it: Mosquitto) -> None:
    first = rig.start("n0", "--mqtt", it.url)
    assert it.url == first.ready["mqtt"]
    second = rig.start("n1", first.command("invite").stdout.strip(), "--mqtt", it.url)
    first.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
    mesh = str(first.ready["mesh"])[:16]

    async def watched() -> None:
        async with outsider(it, "out", "meshnode/#") as out:
            topics = {
                agent.id: f"meshnode/{segment(first.ready['mesh_name'])}/node/{agent.id[:16]}/availability"
                for agent in (first, second)
            }
            await until(lambda: all(out.retained().get(t) == b"online" for t in topics.values()), "both are online")
            for i in range(20):
                await out.ask(f"meshnode/{mesh}/infer/echo", tensor(i), b"a%d" % i)
            await asyncio.to_thread(second.kill)
            for i in range(40):
                await out.ask(f"meshnode/{mesh}/infer/echo", tensor(i), b"b%d" % i)
            await until(lambda: out.retained()[topics[second.id]] == b"offline", "the will is done", within_s=10)
            for name, count in (("a", 20), ("b", 40)):
                for i in range(count):
                    answer = await out.answer(f"{name}{i}".encode())
                    assert "ok" == answer.properties["code"], answer
            async with outsider(it, "later", topics[second.id]) as later:
                await until(lambda: later.seen, "it is retained")
                assert (b"offline", True) == (later.seen[0].payload, later.seen[0].retained)
            state = topics[second.id].replace("availability", "state")
            await until(lambda: json.loads(out.retained()[state])["state"] == "dead", "the other tells that it is dead")

    asyncio.run(watched())
