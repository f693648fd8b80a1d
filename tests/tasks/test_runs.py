"""Others' tasks at this node: one run each, whatever happens to the links they came over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshnode.errors import InvalidInput, Refused, ResultLost, UnknownTask, WorkerCrashed
from meshnode.links.link import Reply
from meshnode.tasks import runs as module
from meshnode.tasks.runs import Runs
from meshnode.wire.messages import Infer, NodeId, ResultAsk
from tests.tasks.around import ANN, BOB, ME, inferred
from tests.tasks.test_kept import BODY, infer
from tests.waiting import until


def here() -> bool:
    return False


def broken() -> bool:
    return True


class Bench:
    """Runs that end when they are let, with a count of them."""

    def __init__(self) -> None:
        self.runs = Runs(self._run)
        self.gate = asyncio.Event()
        self.begun: list[str] = []
        self.ended = 0
        self.cancelled = 0
        self.error: Exception | None = None

    def ask(self, by: NodeId = ANN, lost: module.Lost = here, **fields: Any) -> asyncio.Task[Reply]:
        return asyncio.ensure_future(self.runs.infer(infer(**fields), BODY, by, lost))

    async def result(self, by: NodeId = ANN, attempt: int = 1) -> Reply:
        return await self.runs.result(ResultAsk(task=infer().task, attempt=attempt), by, here)

    async def _run(self, message: Infer, body: memoryview, submitter: NodeId) -> Reply:
        self.begun.append(message.task)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1
        if self.error is not None:
            raise self.error
        return inferred(ME, bytes(body) + bytes([self.ended]))


async def test_the_same_task_twice_is_one_run() -> None:
    """While it runs the second attaches; when it has ended it gets the stored result, also over another agent."""
    bench = Bench()
    both = [bench.ask(), bench.ask(attempt=2)]
    await until(lambda: bench.begun, "it runs")
    bench.gate.set()
    first, second = await asyncio.gather(*both)
    assert first is second is await bench.ask(BOB) is await bench.result() is await bench.result(BOB)
    assert 1 == len(bench.begun)


async def test_a_result_is_only_for_who_gave_the_task() -> None:
    """Another node that knows the id is told what one that guessed would be told."""
    bench = Bench()
    bench.gate.set()
    await bench.ask()
    with pytest.raises(UnknownTask):
        await bench.result(BOB)
    with pytest.raises(InvalidInput):
        await bench.runs.infer(infer(), memoryview(b"guess"), BOB, here)


async def test_who_asks_for_a_task_that_never_came_may_run_it_elsewhere() -> None:
    """A clear answer, and the attempt does not begin when its bytes arrive after all."""
    bench = Bench()
    with pytest.raises(UnknownTask, match="not begun"):
        await bench.result()
    with pytest.raises(Refused, match="given up"):
        await bench.ask()
    assert [] == bench.begun
    bench.gate.set()
    await bench.ask(attempt=2)
    assert 1 == len(bench.begun)


async def test_a_broken_link_leaves_a_run_for_a_while() -> None:
    """Who comes back within two seconds finds it running; otherwise it is ended."""
    bench = Bench()
    gone = bench.ask(lost=broken)
    await until(lambda: bench.begun, "it runs")
    gone.cancel()
    back = asyncio.ensure_future(bench.result())
    await asyncio.sleep(0)
    bench.gate.set()
    assert b"abc\x01" == b"".join((await back).body)
    assert (1, 0) == (len(bench.begun), bench.cancelled)


async def test_a_run_that_nobody_claims_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its submitter is gone; who asks later hears that the run is lost, and runs it again."""
    monkeypatch.setattr(module, "ORPHAN_S", 0.05)
    bench = Bench()
    gone = bench.ask(lost=broken)
    await until(lambda: bench.begun, "it runs")
    gone.cancel()
    await until(lambda: bench.cancelled == 1, "it was ended")
    with pytest.raises(ResultLost, match="nobody waited"):
        await bench.result()
    bench.gate.set()
    await bench.ask(attempt=2)
    assert 2 == len(bench.begun)


async def test_what_may_run_once_is_not_ended_for_a_broken_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a run is the worst of all ends: it goes on, and its result can be had."""
    monkeypatch.setattr(module, "ORPHAN_S", 0.0)
    bench = Bench()
    gone = bench.ask(lost=broken, once=True)
    await until(lambda: bench.begun, "it runs")
    gone.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    bench.gate.set()
    await until(lambda: bench.ended == 1, "it ended by itself")
    assert b"abc\x01" == b"".join((await bench.result()).body)


async def test_a_task_that_is_not_wanted_ends_at_once() -> None:
    """The last one that waits says so; one of two may leave."""
    bench = Bench()
    first, second = bench.ask(), bench.ask()
    await until(lambda: bench.begun, "it runs")
    first.cancel()
    await asyncio.sleep(0)
    assert 0 == bench.cancelled
    second.cancel()
    await until(lambda: bench.cancelled == 1, "it was ended")
    assert () == bench.runs.tasks


async def test_an_error_reaches_all_and_is_not_the_end() -> None:
    """Both that wait hear it, as does who asks for the result; the same task may be tried here again."""
    bench = Bench()
    bench.error = WorkerCrashed("signal 9")
    both = [bench.ask(), bench.ask()]
    bench.gate.set()
    assert ["worker_crashed"] * 2 == [
        getattr(error, "code", error) for error in await asyncio.gather(*both, return_exceptions=True)
    ]
    with pytest.raises(WorkerCrashed):
        await bench.result()
    bench.error = None
    await bench.ask(attempt=2)
    assert 2 == len(bench.begun)


async def test_what_may_run_once_is_not_tried_again_here() -> None:
    """Not after an error of the run; after a refusal it is."""
    bench = Bench()
    bench.gate.set()
    bench.error = Refused("full")
    with pytest.raises(Refused):
        await bench.ask(once=True)
    bench.error = WorkerCrashed("signal 9")
    for _ in range(2):
        with pytest.raises(WorkerCrashed):
            await bench.ask(once=True)
    assert 2 == len(bench.begun)


async def test_results_are_let_go_when_nothing_else_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle node holds no results of an hour ago."""
    monkeypatch.setattr("meshnode.tasks.kept.RESULT_S", 0.05)
    bench = Bench()
    bench.gate.set()
    await bench.ask()
    assert bench.runs.kept.bytes > 0
    await until(lambda: bench.runs.kept.bytes == 0, "it is let go")


async def test_nothing_runs_on_after_the_stop() -> None:
    """What is under way is ended."""
    bench = Bench()
    asked = bench.ask()
    await until(lambda: bench.begun, "it runs")
    await bench.runs.stop()
    assert 1 == bench.cancelled
    with pytest.raises(asyncio.CancelledError):
        await asked
