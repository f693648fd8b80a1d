"""A model that is in memory on too few nodes, with whole agents."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshnode.client import AsyncClient
from meshnode.edge.node import Node
from meshnode.execution.job import ModelFile
from meshnode.execution.supervisor import Execution
from tests.edge.living import ask, founder, joiner, sees, workers
from tests.mesh.rig import MODELS
from tests.waiting import until


def loaded(node: Node) -> bool:
    return bool(node.execution.loaded())


async def test_another_loads_a_model_that_is_asked_for_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tasks name the one node that has it: nothing but demand makes another one fetch and load it, and it does,
    once; no task fails meanwhile."""
    loads, load = Counter[Execution](), Execution.load

    async def counted(self: Execution, model: ModelFile) -> None:
        loads[self] += 1
        await load(self, model)

    monkeypatch.setattr(Execution, "load", counted)
    task: dict[str, Any] = {"x": np.ones((1, 64), np.float32), "rounds": np.array(20_000, np.int64)}
    async with AsyncExitStack() as stack:
        ann = (await stack.enter_async_context(founder(tmp_path / "ann"))).node
        bob = (await stack.enter_async_context(joiner(tmp_path / "bob", ann))).node
        cat = (await stack.enter_async_context(joiner(tmp_path / "cat", ann, "cat"))).node
        await until(lambda: sees(bob, cat) and sees(cat, bob), "all see each other")
        await ask(ann.home, "model.add", {"path": str(MODELS / "slow" / "model.onnx"), "name": "slow"})
        await until(lambda: bob.catalog.manifests() and cat.catalog.manifests(), "all know the model")
        async with AsyncClient(ann.home) as client:

            async def rush() -> None:
                while not (loaded(bob) or loaded(cat)):
                    await client.infer("slow", task, node=ann.keeper.id)

            await client.infer("slow", task, node=ann.keeper.id)
            assert [] == [node for node in (bob, cat) if loaded(node)]
            assert [[], []] == [node.store.digests() for node in (bob, cat)], "there is something to move"
            async with asyncio.timeout(60):
                await asyncio.gather(rush(), rush(), rush())
        assert any(node.store.digests() for node in (bob, cat))
        assert {1} == set(loads.values())
        assert len(loads) <= 2
    assert [] == workers()


async def test_a_model_that_is_little_asked_for_stays_where_it_is(tmp_path: Path) -> None:
    """Some tasks, one after the other and far apart, are no reason."""
    task: dict[str, Any] = {"x": np.ones((1, 64), np.float32), "rounds": np.array(1, np.int64)}
    async with founder(tmp_path / "ann") as first:
        ann = first.node
        async with joiner(tmp_path / "bob", ann) as second:
            await ask(ann.home, "model.add", {"path": str(MODELS / "slow" / "model.onnx"), "name": "slow"})
            await until(lambda: second.node.catalog.manifests(), "all know the model")
            async with AsyncClient(ann.home) as client:
                for _ in range(30):
                    await client.infer("slow", task, node=ann.keeper.id)
                    await asyncio.sleep(0.1)  # the rhythm of the demand
            assert not loaded(second.node)
    assert [] == workers()
