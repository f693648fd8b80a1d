"""Models come and go within a budget, the least recently used first, and their memory comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from meshnode.config import Execution as Settings
from meshnode.errors import OutOfMemory
from meshnode.execution.job import ModelFile
from meshnode.execution.supervisor import Execution
from meshnode.wire.messages import QuoteAsk
from tests.execution.making import bundled, done, endless, new, run, save, value_info
from tests.waiting import until

MB = 1_000_000
SIDE = 1600
WEIGHTS_BYTES = SIDE * SIDE * 4
SETTINGS = Settings(concurrency=1, arena_bytes=8 * 1024 * 1024, cancel_grace_s=0.5)
X = {"x": np.ones((1, SIDE), np.float32)}


def heavy(folder: Path, number: int = 0) -> ModelFile:
    """A model with 10 MB of weights, in a folder of its own."""
    own = folder / f"heavy-{number}"
    own.mkdir()
    weights = np.random.default_rng(number).standard_normal((SIDE, SIDE)).astype(np.float32)
    return save(
        own,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value_info("x", TensorProto.FLOAT, ["b", SIDE])],
        [value_info("y", TensorProto.FLOAT, ["b", SIDE])],
        [numpy_helper.from_array(weights, "w")],
    )


async def started(folder: Path, settings: Settings) -> Execution:
    it = new(folder, settings)
    await it.start()
    async with asyncio.timeout(60):
        await it.ready()
    return it


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Execution]:
    """Room for two models of 20 times the heavy one's weights, and not for three."""
    it = await started(tmp_path, replace(SETTINGS, memory_bytes=55 * WEIGHTS_BYTES))
    yield it
    await it.stop()


def held(it: Execution) -> list[str]:
    return [model.digest for model in it.loaded()]


def worker(it: Execution) -> psutil.Process:
    life = it._own[0].process.life
    assert life is not None
    return psutil.Process(life.process.pid)


async def test_the_least_recently_used_model_goes_first(small: Execution, tmp_path: Path) -> None:
    """A third model needs room: the one that was used longest ago is unloaded, and comes back when it is wanted."""
    one, two, three = (heavy(tmp_path, number) for number in range(3))
    expected = await run(small, one, X)
    await run(small, two, X)
    await run(small, one, X)
    memory = small._own[0].memory
    for model in (one, two, three):
        memory._sizes[model.digest] = 20 * WEIGHTS_BYTES  # what is measured differs a little
    for loaded in memory.models.values():
        loaded.bytes = 20 * WEIGHTS_BYTES
    assert [one.digest, two.digest] == held(small)
    await run(small, three, X)
    memory.models[three.digest].bytes = 20 * WEIGHTS_BYTES
    assert [one.digest, three.digest] == held(small)
    again = await run(small, two, X)
    assert [three.digest, two.digest] == held(small)
    assert (1, SIDE) == again["y"].shape
    np.testing.assert_array_equal(expected["y"], (await run(small, one, X))["y"])


async def test_sizes_are_measured(small: Execution, tmp_path: Path) -> None:
    """The growth of the worker at the first run replaces the guess by the file."""
    model = heavy(tmp_path)
    await run(small, model, X)
    (it,) = small.loaded()
    assert WEIGHTS_BYTES <= it.bytes <= 4 * WEIGHTS_BYTES


async def test_a_model_at_work_is_not_unloaded(small: Execution, tmp_path: Path) -> None:
    """It stays for as long as it runs, whoever wants its room."""
    own = tmp_path / "endless"
    own.mkdir()
    model = endless(own)
    small._own[0].queue.slots = 2
    work = asyncio.create_task(done(small, model, {"x": np.float32(1)}, within_s=60))
    await until(lambda: small._own[0]._runs, "it runs")
    small._own[0].memory.loaded(model.digest, 54 * WEIGHTS_BYTES)
    await asyncio.wait({asyncio.create_task(run(small, heavy(tmp_path), X))}, timeout=0.5)
    assert model.digest in held(small)
    assert not work.done()
    work.cancel()


async def test_a_model_larger_than_the_budget_is_refused(tmp_path: Path) -> None:
    """Before anything is loaded, in the quote as in the task, with the two numbers and the setting."""
    it = await started(tmp_path, replace(SETTINGS, memory_bytes=WEIGHTS_BYTES // 2))
    model = heavy(tmp_path)
    with pytest.raises(OutOfMemory, match=f"models may take {WEIGHTS_BYTES // 2} here") as caught:
        await run(it, model, X)
    assert "memory_bytes" in caught.value.hint
    ask = QuoteAsk(task="1" * 32, model=model.digest, deadline_s=9.0)
    with pytest.raises(OutOfMemory):
        it.quote(ask, fetch_bytes=0, size_bytes=WEIGHTS_BYTES, hold_s=0.1)
    assert 1 == (await done(it, bundled("digits"), {"image": np.ones((1, 1, 8, 8), np.float32)})).batch
    assert 0 == it._own[0].process.deaths
    await it.stop()


async def test_memory_comes_back_after_an_unload(tmp_path: Path) -> None:
    """Within 5 s the worker is at most 20 MB larger than it began, also when tensors passed through it."""
    it = await started(tmp_path, SETTINGS)
    idle = worker(it).memory_info().rss
    models = [heavy(tmp_path, number) for number in range(3)]
    wide = {"x": np.ones((600, SIDE), np.float32)}
    for model in models:
        await run(it, model, wide)
    assert worker(it).memory_info().rss > idle + 20 * MB
    for model in models:
        it.unload(model.digest)
    began = time.monotonic()
    await until(lambda: it.providers and worker(it).memory_info().rss <= idle + 20 * MB, "it came back", within_s=5)
    assert time.monotonic() - began < 5
    assert [] == held(it)
    assert (600, SIDE) == (await run(it, model, wide))["y"].shape
    assert 0 == it._own[0].process.deaths, "a process that is replaced has not died"
    await it.stop()


async def test_what_waits_while_the_worker_is_replaced_is_run(tmp_path: Path) -> None:
    """A replacement loses nothing: tasks that come meanwhile wait for the new process."""
    it = await started(tmp_path, SETTINGS)
    image: dict[str, Any] = {"image": np.ones((1, 1, 8, 8), np.float32)}
    for _ in range(3):
        pid = worker(it).pid
        it._own[0].process.renew("a test wants it")
        assert 1 == (await done(it, bundled("digits"), image)).batch
        assert pid != worker(it).pid
    assert 0 == it._own[0].process.deaths
    await it.stop()


async def test_many_loads_and_unloads_leave_nothing(tmp_path: Path) -> None:
    """Twenty rounds; `scripts/bench/memory` is the long form."""
    it = await started(tmp_path, SETTINGS)
    model = heavy(tmp_path)
    sizes = []
    for _ in range(20):
        await run(it, model, X)
        it.unload(model.digest)
        await until(lambda: (life := it._own[0].process.life) is not None and not life.open, "it is unloaded")
        sizes.append(worker(it).memory_info().rss)
    assert max(sizes[-5:]) < min(sizes[:5]) + 20 * MB
    await it.stop()
