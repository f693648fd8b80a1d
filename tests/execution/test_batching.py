"""Tasks that run as one, in a real worker: results as if each had run alone, and who may not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from onnx import TensorProto, helper, numpy_helper

from meshnode.config import Execution as Settings
from meshnode.errors import ExecutionFailed, PoisonTask, ProtocolError, WorkerCrashed
from meshnode.execution.batching import cut, key_of, rows_of, stack
from meshnode.execution.job import Done, ModelFile
from meshnode.execution.supervisor import Execution
from meshnode.wire import tensors
from meshnode.wire.messages import TensorSpec
from tests.execution.making import (
    FAILS,
    KILLS,
    bundled,
    done,
    fragile,
    gathered,
    job,
    new,
    proven,
    ready,
    rows_times,
    run,
    save,
    value_info,
)
from tests.waiting import until

SETTINGS = Settings(
    concurrency=1, arena_bytes=8 * 1024 * 1024, cancel_grace_s=0.5, queue_tasks_max=2000, queue_backlog_max_s=1e6
)


@pytest.fixture
async def execution(tmp_path: Path) -> AsyncIterator[Execution]:
    """One slot, so that what comes while it is taken waits."""
    it = new(tmp_path, SETTINGS)
    async with ready(it):
        yield it


def value(number: int) -> np.ndarray[Any, Any]:
    return np.full((1, 4), number, np.int32)


async def together(it: Execution, model: ModelFile, inputs: list[dict[str, Any]], **more: Any) -> list[Any]:
    """Their ends, when all wait while the only slot is taken."""
    first = asyncio.ensure_future(
        run(it, bundled("slow"), {"x": np.ones((1, 64), np.float32), "rounds": np.int64(10**5)})
    )
    await until(lambda: it._own[0]._runs, "the slot is taken")
    ends = await gathered(*(done(it, model, each, **more) for each in inputs))
    await first
    return ends


def bundled_inputs(name: str, rng: np.random.Generator) -> dict[str, Any]:
    rows = int(rng.integers(1, 4))
    if name == "digits":
        return {"image": rng.integers(0, 17, (rows, 1, 8, 8)).astype(np.float32)}
    return {"x": rng.standard_normal((rows, 64)).astype(np.float32)}


@pytest.mark.parametrize("name", ["digits", "echo"])
async def test_a_task_gets_in_a_batch_what_it_gets_alone(execution: Execution, name: str) -> None:
    """The bundled models that can be batched: every task its own rows, with how many ran as one."""
    rng = np.random.default_rng(3)
    inputs = [bundled_inputs(name, rng) for _ in range(20)]
    model = bundled(name)
    alone = [await run(execution, model, each) for each in inputs]
    assert "" == await proven(execution, model, inputs[0])
    execution._own[0].queue.pace(model.digest).size = 8.0

    ends = await together(execution, model, inputs)

    assert {8, 9} & {end.batch for end in ends}
    for each, end in zip(alone, ends, strict=True):
        for output, array in tensors.decode(end.specs, end.body).items():
            assert each[output].shape == array.shape
            np.testing.assert_allclose(each[output], array, rtol=1e-4, atol=1e-6)


async def test_the_proof_comes_by_itself_when_two_wait(execution: Execution) -> None:
    """Nobody asks for it; alone tasks never need it; it is remembered by the digest."""
    model = bundled("digits")
    image = {"image": np.ones((1, 1, 8, 8), np.float32)}
    for _ in range(3):
        assert 1 == (await done(execution, model, image)).batch
    pace = execution._own[0].queue.pace(model.digest)
    assert None is pace.proven
    await together(execution, model, [image] * 8)
    assert True is await until(lambda: pace.proven, "it was proven")
    assert max(end.batch for end in await together(execution, model, [image] * 8)) > 1


async def test_batching_can_be_switched_off(tmp_path: Path) -> None:
    """batch_max = 1: one by one, and nothing is proven."""
    it = new(tmp_path, replace(SETTINGS, batch_max=1))
    await it.start()
    try:
        await it.ready()
        image = {"image": np.ones((1, 1, 8, 8), np.float32)}
        await run(it, bundled("digits"), image)
        ends = await together(it, bundled("digits"), [image] * 8)
        assert {1} == {end.batch for end in ends}
        assert None is it._own[0].queue.pace(bundled("digits").digest).proven
    finally:
        await it.stop()


def not_batchable(folder: Path) -> dict[str, ModelFile]:
    """Models that declare a batch and do not keep it, or do not declare it."""
    node = helper.make_node
    two = helper.make_tensor("two", TensorProto.INT64, [2], [1, -1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    floats = [value_info(name, TensorProto.FLOAT, ["b", 4]) for name in ("x", "y")]
    other = value_info("z", TensorProto.FLOAT, ["c", 4])
    return {
        "centres over the batch": rows_times(
            folder, [node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), node("Sub", ["x", "m"], ["y"])]
        ),
        "softmax over the batch": rows_times(folder, [node("Softmax", ["x"], ["y"], axis=0)]),
        "sums over the batch": rows_times(folder, [node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)], [axes]),
        "one row made of all": rows_times(folder, [node("Reshape", ["x", "two"], ["y"])], [two]),
        "a fixed batch": rows_times(folder, [node("Relu", ["x"], ["y"])], shape=(1, 4)),
        "a little of all rows, beside large numbers": rows_times(
            folder,
            [
                node("Mul", ["x", "widths"], ["w"]),
                node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
                node("Mul", ["m", "little"], ["l"]),
                node("Add", ["w", "l"], ["y"]),
            ],
            [
                helper.make_tensor("widths", TensorProto.FLOAT, [4], [1e3, 1, 1, 1]),
                helper.make_tensor("little", TensorProto.FLOAT, [1], [0.05]),
            ],
        ),
        "two batches": save(
            folder,
            [node("Relu", ["x"], ["y"]), node("Relu", ["z"], ["w"])],
            [floats[0], other],
            [floats[1], value_info("w", TensorProto.FLOAT, ["c", 4])],
        ),
    }


@pytest.mark.parametrize(
    "name",
    [
        "centres over the batch",
        "softmax over the batch",
        "sums over the batch",
        "one row made of all",
        "a fixed batch",
        "a little of all rows, beside large numbers",
        "two batches",
    ],
)
async def test_a_model_that_mixes_its_rows_is_found_out(execution: Execution, tmp_path: Path, name: str) -> None:
    """By its declaration or by its deeds; its tasks run one by one, and come out as they do alone."""
    model = not_batchable(tmp_path)[name]
    rng = np.random.default_rng(5)
    names = ("x", "z") if name == "two batches" else ("x",)
    inputs = [{each: rng.standard_normal((1, 4)).astype(np.float32) for each in names} for _ in range(6)]
    alone = [await run(execution, model, each) for each in inputs]
    assert await proven(execution, model, inputs[0])
    ends = await together(execution, model, inputs)
    assert {1} == {end.batch for end in ends}
    for each, end in zip(alone, ends, strict=True):
        for output, array in tensors.decode(end.specs, end.body).items():
            np.testing.assert_array_equal(each[output], array)


@pytest.mark.parametrize("word", [TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE])
async def test_what_rounding_may_change_depends_on_the_type(execution: Execution, tmp_path: Path, word: int) -> None:
    """A long sum of products, in half, single and double precision: rows stay apart, and the proof sees that."""
    weights = np.random.default_rng(2).standard_normal((256, 8)).astype(helper.tensor_dtype_to_np_dtype(word))
    model = save(
        tmp_path,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value_info("x", word, ["b", 256])],
        [value_info("y", word, ["b", 8])],
        [numpy_helper.from_array(weights, "w")],
    )
    x = np.ones((1, 256), weights.dtype)
    assert "" == await proven(execution, model, {"x": x})


async def test_the_model_slow_has_a_scalar_and_runs_task_by_task(execution: Execution) -> None:
    """A task with an input without rows has no key."""
    inputs = {"x": np.ones((1, 64), np.float32), "rounds": np.int64(3)}
    assert None is key_of(job(bundled("slow"), inputs))
    assert {1} == {end.batch for end in await together(execution, bundled("slow"), [inputs] * 4)}


async def test_an_error_in_a_batch_is_only_the_culprits(execution: Execution, tmp_path: Path) -> None:
    """One row that the model fails on: its task is told so, and the neighbours get their results."""
    model = fragile(tmp_path)
    assert "" == await proven(execution, model, {"x": value(3)})
    execution._own[0].queue.pace(model.digest).size = 8.0
    inputs = [{"x": value(7)}, {"x": FAILS}, *({"x": value(n)} for n in range(2, 8))]

    ends = await together(execution, model, inputs)

    assert isinstance(ends[1], ExecutionFailed)
    assert "modulo by zero" in str(ends[1])
    for each, end in zip(inputs, ends, strict=True):
        if each["x"] is not FAILS:
            assert isinstance(end, Done)
            assert np.array_equal(np.mod(np.int32(-(2**31)), each["x"]), tensors.decode(end.specs, end.body)["y"])
    assert 0 == execution._own[0].process.deaths


async def test_a_batch_that_kills_the_worker_costs_only_the_culprit(execution: Execution, tmp_path: Path) -> None:
    """A real SIGFPE in the model: its 31 neighbours are answered here, and the culprit is found by the second death."""
    model = fragile(tmp_path)
    assert "" == await proven(execution, model, {"x": value(3)})
    execution._own[0].queue.pace(model.digest).size = 32.0
    inputs = [*({"x": value(n)} for n in range(2, 33)), {"x": KILLS}]

    ends = await together(execution, model, inputs)

    assert isinstance(ends[-1], PoisonTask)
    assert "SIGFPE" in str(ends[-1])
    assert [1] * 31 == [end.batch for end in ends[:-1]]
    for n, end in zip(range(2, 33), ends[:-1], strict=True):
        assert (-(2**31)) % n == tensors.decode(end.specs, end.body)["y"][0, 0]
    assert 2 == execution._own[0].process.deaths, "once as a batch, once alone"
    assert 0.0 == execution._quarantine.rests_s(time.monotonic(), model.digest), "one bad input condemns no model"


async def test_what_must_not_run_twice_runs_alone(execution: Execution, tmp_path: Path) -> None:
    """`once`: never part of a batch, so never tried again; its worker's death is its answer."""
    model = fragile(tmp_path)
    assert "" == await proven(execution, model, {"x": value(3)})
    execution._own[0].queue.pace(model.digest).size = 8.0
    ends = await together(execution, model, [{"x": value(5)}] * 4, once=True)
    assert [1] * 4 == [end.batch for end in ends]
    with pytest.raises(WorkerCrashed):
        await done(execution, model, {"x": KILLS}, once=True)
    assert 1 == execution._own[0].process.deaths


def test_stacking_and_cutting_are_each_others_inverse() -> None:
    """Several inputs of several types, rows of different number, empty dimensions: each gets back its own bytes."""
    rng = np.random.default_rng(1)
    model = ModelFile("d" * 64, Path("m.onnx"))  # type: ignore[arg-type]
    jobs = [
        job(model, {"a": rng.random((n, 3, 5), np.float32), "b": rng.integers(0, 9, (n,)), "c": np.ones((n, 0))})
        for n in (1, 4, 2)
    ]
    assert 1 == len({key_of(each) for each in jobs})
    specs, parts = stack(jobs, rows_of(jobs))
    assert [(7, 3, 5), (7,), (7, 0)] == [spec.shape for spec in specs]
    for each, (own, body) in zip(jobs, cut(specs, b"".join(parts), rows_of(jobs)), strict=True):
        was, now = tensors.decode(each.inputs, each.body), tensors.decode(own, body)
        assert list(was) == list(now)
        for name, array in was.items():
            np.testing.assert_array_equal(array, now[name])


def test_what_has_no_key() -> None:
    """Scalars, strings, rows that disagree, no rows at all, a body that is too short, and what runs once only."""
    model = ModelFile("d" * 64, Path("m.onnx"))  # type: ignore[arg-type]
    one = np.ones((2, 3), np.float32)
    for inputs in ({}, {"a": np.float32(1)}, {"a": np.array(["x"])}, {"a": one, "b": one[:1]}, {"a": one[:0]}):
        assert None is key_of(job(model, inputs))
    whole = job(model, {"a": one})
    assert None is not key_of(whole)
    assert None is key_of(structs.replace(whole, body=whole.body[:-1]))
    assert None is key_of(structs.replace(whole, inputs=(TensorSpec("a", "float", (2, 4), 24),)))
    assert None is key_of(structs.replace(whole, once=True))
    assert key_of(whole) != key_of(structs.replace(whole, outputs=("y",)))


def test_an_answer_with_other_rows_is_not_cut() -> None:
    """A worker that answers with more, fewer or no rows is not believed."""
    for shape in ((2, 4), (4, 4), ()):
        spec = TensorSpec("y", "float", shape, 4 * int(np.prod(shape)))
        with pytest.raises(ProtocolError):
            cut((spec,), bytes(spec.nbytes), (1, 2))
