"""One run on all threads when nothing else wants them, several on one each when something does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from meshnode.config import Execution as Settings
from meshnode.execution.events import Finished, Offer, Ready, Start, Widened
from meshnode.execution.job import ModelFile
from meshnode.execution.pace import WIDE_FROM_S
from meshnode.execution.queue import TaskQueue
from meshnode.wire.messages import Digest, TaskId
from tests.execution.making import done, new, ready, run, save, value_info
from tests.waiting import until

MODEL = Digest("a" * 64)
ROWS, SIDE = 512, 1024


def offer(name: str) -> Offer:
    return Offer(TaskId(name), MODEL, 1e9)


def queue() -> TaskQueue:
    """Two slots; a run takes 20 ms on one thread and 10 on both."""
    it = TaskQueue(Settings(), 2)
    it.handle(0.0, Ready(True))
    it.handle(0.0, offer("first"))
    it.handle(0.0, Finished(TaskId("first"), 0.02))
    it.handle(0.0, Widened(MODEL, ok=True, run_s=0.01))
    return it


def test_who_is_alone_has_all_threads_and_nothing_starts_beside() -> None:
    """The second waits for the end of a wide run, and then has one thread, and the third the other."""
    it = queue()
    assert (0.0, 0.01) == it.quote(1.0, MODEL)
    assert [Start(TaskId("a"), wide=True)] == it.handle(1.0, offer("a"))
    assert [] == it.handle(1.001, offer("b"))
    assert [] == it.handle(1.001, offer("c"))
    assert 0.009 + 0.02 == pytest.approx(it.backlog_s(1.001))
    assert [Start(TaskId("b")), Start(TaskId("c"))] == it.handle(1.01, Finished(TaskId("a"), 0.01))
    assert [] == it.handle(1.03, Finished(TaskId("b"), 0.02))
    assert [Start(TaskId("d"))] == it.handle(1.03, offer("d")), "c still runs on the other thread"


def test_what_is_learnt_of_wide_runs_is_kept_apart() -> None:
    """The mean on one thread stays, for when there is more to do; None forgets."""
    it = queue()
    it.handle(1.0, offer("a"))
    it.handle(1.02, Finished(TaskId("a"), 0.02))
    pace = it.pace(MODEL)
    assert 0.02 == it.service_s(MODEL)
    assert 0.01 < pace.wide_s < 0.02
    it.handle(2.0, Widened(MODEL, ok=None))
    assert [Start(TaskId("b"))] == it.handle(2.0, offer("b"))
    assert (0.0, 0.02) == it.quote(2.0, MODEL)
    assert pace.worth_widening


def test_width_that_does_not_keep_its_promise_ends() -> None:
    """A measurement on a quiet machine, and then runs that are no quicker than on one thread: back to one thread."""
    it = queue()
    for number in range(12):
        name, now = f"t{number}", 1.0 + number
        (start,) = it.handle(now, offer(name))
        assert isinstance(start, Start)
        it.handle(now + 0.02, Finished(TaskId(name), 0.02))
    assert [Start(TaskId("last"))] == it.handle(50.0, offer("last"))
    assert not it.pace(MODEL).worth_widening


def test_small_models_and_single_slots_stay_narrow() -> None:
    """Nobody measures what cannot pay."""
    it = TaskQueue(Settings(), 1)
    it.handle(0.0, Ready(True))
    it.handle(0.0, Widened(MODEL, ok=True, run_s=0.01))
    assert [Start(TaskId("a"))] == it.handle(0.0, offer("a"))
    it.handle(0.0, Finished(TaskId("a"), WIDE_FROM_S / 2))
    it.handle(0.0, Widened(MODEL, ok=None))
    assert not it.pace(MODEL).worth_widening


def products(folder: Path) -> ModelFile:
    """A model of a few large products, which threads can share."""
    own = folder / "products"
    own.mkdir()
    weights = np.random.default_rng(1).standard_normal((SIDE, SIDE)).astype(np.float32) / 32
    return save(
        own,
        [helper.make_node("MatMul", [f"h{i}", "w"], [f"h{i + 1}"]) for i in range(3)],
        [value_info("h0", TensorProto.FLOAT, ["b", SIDE])],
        [value_info("h3", TensorProto.FLOAT, ["b", SIDE])],
        [numpy_helper.from_array(weights, "w")],
    )


async def test_a_worker_measures_what_threads_bring(tmp_path: Path) -> None:
    """After a first run that took long, by itself, once; either way the results are the same."""
    it = new(tmp_path, Settings(concurrency=2, arena_bytes=8 * 1024 * 1024), cores=2)
    async with ready(it):
        model = products(tmp_path)
        x = {"h0": np.random.default_rng(2).standard_normal((ROWS, SIDE)).astype(np.float32)}
        narrow = await run(it, model, x)
        pace = it._own[0].queue.pace(model.digest)
        await until(lambda: pace.wide is not None, "it was measured")
        before = it._own[0].memory.models[model.digest].bytes
        it._own[0].apply(Widened(model.digest, ok=True, run_s=0.01))
        wide = await run(it, model, x)
        np.testing.assert_allclose(narrow["h3"], wide["h3"], rtol=1e-3, atol=1e-3)
        ends = await asyncio.gather(*(done(it, model, x) for _ in range(4)))
        assert [1] * 4 == [end.batch for end in ends]
        it.unload(model.digest)
        assert before >= 4 * SIDE * SIDE
        np.testing.assert_array_equal(narrow["h3"], (await run(it, model, x))["h3"])
