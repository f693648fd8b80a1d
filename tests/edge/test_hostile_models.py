"""Models that kill, hang and starve whoever runs them, in a mesh of whole agents: the task fails, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper

from meshnode.client import AsyncClient
from meshnode.edge.node import Node
from meshnode.errors import DeadlineExceeded, OutOfMemory, PoisonTask
from tests.edge import living
from tests.edge.living import ask
from tests.execution.making import INT_MIN, save, value_info
from tests.mesh.rig import MODELS
from tests.waiting import until

KILLS = -2


def deadly(folder: Path) -> Path:
    """The smallest int32 modulo (x + 1): with -2 the processor ends the process (SIGFPE, on x86)."""
    one = helper.make_tensor("one", TensorProto.INT32, [1], [1])
    least = helper.make_tensor("least", TensorProto.INT32, [1], [INT_MIN])
    return save(
        folder,
        [helper.make_node("Add", ["x", "one"], ["d"]), helper.make_node("Mod", ["least", "d"], ["y"])],
        [value_info("x", TensorProto.INT32, ["b", 4])],
        [value_info("y", TensorProto.INT32, ["b", 4])],
        [one, least],
    ).path


def greedy(folder: Path) -> Path:
    """As many float32 as it is told."""
    return save(
        folder,
        [helper.make_node("ConstantOfShape", ["x"], ["y"])],
        [value_info("x", TensorProto.INT64, [1])],
        [value_info("y", TensorProto.FLOAT, ["n"])],
    ).path


def deaths(nodes: tuple[Node, ...]) -> int:
    """Of all workers of all these."""
    return sum(device.process.deaths for node in nodes for device in node.execution._own)


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[tuple[Node, Node, Node]]:
    """A mesh of three that know the three models; all of them work afterwards, and leave nothing behind."""
    async with living.trio(tmp_path) as nodes:
        slow = MODELS / "slow" / "model.onnx"
        for name, path in (("deadly", deadly(tmp_path)), ("greedy", greedy(tmp_path)), ("slow", slow)):
            await ask(nodes[0].home, "model.add", {"path": str(path), "name": name})
        await until(lambda: all(len(node.catalog.manifests()) == 3 for node in nodes), "all know the models")
        yield nodes
        async with AsyncClient(nodes[0].home) as client:
            for node in nodes:
                result = await client.infer("deadly", rows(6), node=node.keeper.id, timeout=20.0)
                assert INT_MIN % 7 == result["y"][0, 0]


def rows(value: int) -> dict[str, Any]:
    return {"x": np.full((1, 4), value, np.int32)}


def slow(rounds: int) -> dict[str, Any]:
    return {"x": np.ones((1, 64), np.float32), "rounds": np.array(rounds, np.int64)}


async def test_one_task_kills_two_workers_of_the_mesh_at_most(trio: tuple[Node, Node, Node]) -> None:
    """Among 31 others of its model, some of which run as one with it: they are answered, and the culprit is named."""
    ann, *_ = trio
    async with AsyncClient(ann.home) as client:
        for node in trio:
            await client.infer("deadly", rows(2), node=node.keeper.id)
        waiting = [client.submit("deadly", rows(n), timeout=30.0) for n in range(1, 32)]
        waiting.insert(16, client.submit("deadly", rows(KILLS), timeout=30.0))
        ends = await asyncio.gather(*waiting, return_exceptions=True)
    culprit: Any = ends.pop(16)
    assert isinstance(culprit, PoisonTask)
    assert 1 <= deaths(trio) <= 2
    assert [INT_MIN % (n + 1) for n in range(1, 32)] == [end["y"][0, 0] for end in ends]  # type: ignore[index]


async def test_a_run_that_never_ends_ends_at_its_deadline(trio: tuple[Node, Node, Node]) -> None:
    """On each node at once; the workers live, and have nothing to do afterwards."""
    ann, *_ = trio
    async with AsyncClient(ann.home) as client:
        await asyncio.gather(*(client.infer("slow", slow(1), node=node.keeper.id) for node in trio))  # it is there
        began = time.monotonic()
        endless = [client.submit("slow", slow(2**62), node=node.keeper.id, timeout=1.0) for node in trio]
        ends = await asyncio.gather(*endless, return_exceptions=True)
    assert [DeadlineExceeded] * 3 == [type(end) for end in ends]
    assert time.monotonic() - began < 10.0
    await until(lambda: not any(node.execution.vitals()[0] for node in trio), "nobody runs it any more")
    assert 0 == deaths(trio)


async def test_a_run_that_wants_64_gb_is_an_error(trio: tuple[Node, Node, Node]) -> None:
    """Or, where there is more memory than that, twice of what there is: a typed error, and no process is lost."""
    ann, *_ = trio
    floats = max(2**34, psutil.virtual_memory().total // 2)
    async with AsyncClient(ann.home) as client:
        with pytest.raises(OutOfMemory):
            await client.infer("greedy", {"x": np.array([floats])}, timeout=20.0)
    assert 0 == deaths(trio)
