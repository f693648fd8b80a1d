"""Models in a real worker process: results, refusals, and everything that kills, hangs or starves a worker."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper

from meshnode.config import Execution as Settings
from meshnode.errors import DeadlineExceeded, InvalidInput, ModelRefused, OutOfMemory, WorkerCrashed
from meshnode.execution.job import ModelFile
from meshnode.execution.rules import CPU
from meshnode.execution.supervisor import Execution
from tests.execution.making import endless, new, ready, run, save, value_info
from tests.waiting import until

SETTINGS = Settings(concurrency=2, arena_bytes=8 * 1024 * 1024, cancel_grace_s=0.5, probe_timeout_s=0.5)
ANSWER_BYTES_MAX = 32_000_000


@pytest.fixture
async def execution(tmp_path: Path) -> AsyncIterator[Execution]:
    """An execution with a worker that is ready; its processes are gone afterwards."""
    async with ready(new(tmp_path, SETTINGS, cores=2, answer_bytes_max=ANSWER_BYTES_MAX)) as it:
        yield it
    assert [] == [p for p in psutil.Process().children(recursive=True) if "meshnode.execution.confined" in p.cmdline()]


def echo(folder: Path) -> ModelFile:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return save(
        folder,
        nodes,
        [value_info("x", TensorProto.FLOAT, ["b", "n"])],
        [value_info("y", TensorProto.FLOAT, ["b", "n"])],
    )


async def until_running(it: Execution) -> None:
    async with asyncio.timeout(30):
        while not it.vitals()[0]:  # noqa: ASYNC110 - a count is watched, and nothing tells of it
            await asyncio.sleep(0.005)


async def test_outputs_that_no_answer_can_carry_are_refused(execution: Execution, tmp_path: Path) -> None:
    """By name and size, in the worker, before they are copied anywhere; it goes on working."""
    model = save(
        tmp_path,
        [helper.make_node("Expand", ["x", "shape"], ["wide"])],
        [value_info("x", TensorProto.FLOAT, [1]), value_info("shape", TensorProto.INT64, [1])],
        [value_info("wide", TensorProto.FLOAT, ["n"])],
    )
    one = np.ones(1, np.float32)
    with pytest.raises(InvalidInput, match="'wide' 40000000") as caught:
        await run(execution, model, {"x": one, "shape": np.array([10_000_000])})
    assert "fewer" in caught.value.hint
    assert (100,) == (await run(execution, model, {"x": one, "shape": np.array([100])}))["wide"].shape
    most = ANSWER_BYTES_MAX // 4
    wide = (await run(execution, model, {"x": one, "shape": np.array([most])}))["wide"]
    assert (most, 1.0) == (wide.size, wide.min()), "what is just allowed comes whole"


async def test_tensors_of_every_size_come_back(execution: Execution, tmp_path: Path) -> None:
    """In the message, through the arena, there in a thread, and in a memory file of their own."""
    model = echo(tmp_path)
    for count in (0, 1, 5_000, 500_000, 1_500_000, 1_500_000, 1_500_000, 5_000_000):
        x = np.random.default_rng(1).random((1, count), np.float32)
        assert np.array_equal(x, (await run(execution, model, {"x": x}))["y"])
    assert [model.digest] == [loaded.digest for loaded in execution.loaded()]
    assert (CPU,) == execution.providers
    (life,) = [device.process.life for device in execution._own]
    assert life is not None
    assert 0 == life.inbound.used_bytes


async def test_many_tasks_at_once_are_all_answered_right(execution: Execution, tmp_path: Path) -> None:
    """Results do not get mixed up between the worker's threads."""
    model = echo(tmp_path)
    await run(execution, model, {"x": np.zeros((1, 1), np.float32)})
    inputs = [np.full((1, 20_000), i, np.float32) for i in range(30)]
    answers = await asyncio.gather(*(run(execution, model, {"x": x}) for x in inputs))
    assert all(np.array_equal(x, answer["y"]) for x, answer in zip(inputs, answers, strict=True))


@pytest.mark.parametrize(
    ("inputs", "reason", "hint"),
    [
        ({}, "'x' is missing", "it is float [b, n]"),
        ({"z": np.zeros((1, 1), np.float32)}, "no input 'z'", "it has x (float [b, n])"),
        ({"x": np.zeros((1, 1), np.float64)}, "is double", "array.astype('float32')"),
        ({"x": np.zeros(3, np.float32)}, r"shape \[3\]", "2 dimensions"),
    ],
)
async def test_bad_input_is_named(
    execution: Execution, tmp_path: Path, inputs: dict[str, Any], reason: str, hint: str
) -> None:
    """What is wrong and what the model wants; and what to do, apart from it."""
    with pytest.raises(InvalidInput, match=reason) as caught:
        await run(execution, echo(tmp_path), inputs)
    assert hint in caught.value.hint
    assert caught.value.hint not in str(caught.value)


async def test_a_model_whose_first_run_does_not_end_is_refused_soon(execution: Execution, tmp_path: Path) -> None:
    """Within its own limit, which the error names, and by the worker that goes on."""
    began = time.monotonic()
    with pytest.raises(ModelRefused, match=r"first run, on zeros, did not end within 0\.5 s") as caught:
        await execution.probe(endless(tmp_path).path)
    assert "probe_timeout_s" in caught.value.hint
    assert time.monotonic() - began < SETTINGS.load_timeout_s / 2
    assert 1 == (await run(execution, echo(tmp_path), {"x": np.ones((1, 1), np.float32)}))["y"].size


async def test_what_is_no_model_is_refused(execution: Execution, tmp_path: Path) -> None:
    """Empty, random, truncated, and with an operator that nobody knows: ModelRefused, and the worker lives."""
    whole = echo(tmp_path).path.read_bytes()
    custom = save(
        tmp_path,
        [helper.make_node("Nonsense", ["x"], ["y"], domain="nowhere")],
        [value_info("x", TensorProto.FLOAT, [1])],
        [value_info("y", TensorProto.FLOAT, [1])],
    )
    for name, data in (("empty", b""), ("random", os.urandom(1000)), ("cut", whole[:30])):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ModelRefused):
            await execution.probe(path)
    with pytest.raises(ModelRefused):
        await execution.probe(custom.path)
    report = await execution.probe(echo(tmp_path).path)
    assert [("x", "float", ("b", "n"))] == [(t.name, t.dtype, t.shape) for t in report.inputs]
    assert report.run_s is not None


async def test_an_impossible_allocation_is_an_error(execution: Execution, tmp_path: Path) -> None:
    """274 GB are asked for: OutOfMemory, and the next task runs."""
    huge = save(
        tmp_path,
        [helper.make_node("ConstantOfShape", ["x"], ["y"])],
        [value_info("x", TensorProto.INT64, [1])],
        [value_info("y", TensorProto.FLOAT, ["n"])],
    )
    with pytest.raises(OutOfMemory):
        await run(execution, huge, {"x": np.array([2**36])})
    assert 1 == (await run(execution, echo(tmp_path), {"x": np.ones((1, 1), np.float32)}))["y"].size


async def test_an_endless_run_ends_at_its_deadline(execution: Execution, tmp_path: Path) -> None:
    """The run is stopped, the error says so, and the worker goes on."""
    with pytest.raises(DeadlineExceeded):
        await run(execution, endless(tmp_path), {"x": np.float32(1)}, within_s=0.5)
    assert 1 == (await run(execution, echo(tmp_path), {"x": np.ones((1, 1), np.float32)}))["y"].size


async def test_a_killed_worker_is_replaced(execution: Execution, tmp_path: Path) -> None:
    """SIGKILL in the middle: the running tasks fail and name the signal; those in line run on a new process.

    The error is promised within 0.1 s and the new process within 2; ten times that here, beside other work.
    """
    model = echo(tmp_path)
    await run(execution, model, {"x": np.ones((1, 1), np.float32)})
    running = [asyncio.ensure_future(run(execution, endless(tmp_path), {"x": np.float32(1)})) for _ in range(2)]
    await until(lambda: 2 == len(execution._own[0]._runs), "both slots are taken")
    waiting = [asyncio.ensure_future(run(execution, model, {"x": np.full((1, 9), n, np.float32)})) for n in range(5)]
    await until(lambda: 7 == execution.vitals()[0], "they wait")
    (worker,) = [p for p in psutil.Process().children() if "meshnode.execution.confined" in p.cmdline()]
    began = time.monotonic()
    os.kill(worker.pid, signal.SIGKILL)

    for task in running:
        with pytest.raises(WorkerCrashed, match="SIGKILL"):
            await task
    told_s = time.monotonic() - began
    assert [0, 1, 2, 3, 4] == [(await task)["y"][0, 0] for task in waiting]
    back_s = time.monotonic() - began
    print(f"told after {told_s * 1000:.0f} ms, those in line were done after {back_s * 1000:.0f} ms")
    assert told_s < 1.0
    assert back_s < 20.0
    assert 1 == execution._own[0].process.deaths


async def test_cancelling_stops_the_run(execution: Execution, tmp_path: Path) -> None:
    """A cancelled job gives its slot back."""
    running = asyncio.ensure_future(run(execution, endless(tmp_path), {"x": np.float32(1)}))
    await until_running(execution)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert 0 == execution.vitals()[0]
    assert 1 == (await run(execution, echo(tmp_path), {"x": np.ones((1, 1), np.float32)}))["y"].size
