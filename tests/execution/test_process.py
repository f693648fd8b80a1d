"""The life of one worker process: ready, asked, killed, replaced, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from meshnode.errors import ModelRefused, WorkerCrashed
from meshnode.execution import control
from meshnode.execution.process import WorkerProcess
from meshnode.execution.rules import CPU, Rules
from tests.catalog.making import plain
from tests.waiting import hold, until

ARENA = 1 << 20


@asynccontextmanager
async def started(folder: Path, changed: Callable[[bool], None] = lambda up: None, **given: Any) -> AsyncIterator[Any]:
    """A worker process that was told to start; it is gone afterwards."""
    arguments: dict[str, Any] = {
        "provider": CPU,
        "threads": 1,
        "slots": 1,
        "arena_bytes": ARENA,
        "answer_bytes_max": ARENA,
    }
    arguments |= {"address_space_bytes": None, "folder": folder, "rules": Rules((folder.parent,)), "changed": changed}
    it = WorkerProcess(**(arguments | given))
    it.start()
    try:
        yield it
    finally:
        await it.stop()
    assert None is it.life
    assert [] == _workers()


def _workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "meshnode.execution.confined" in " ".join(p.cmdline())]


async def ready(it: WorkerProcess) -> None:
    async with asyncio.timeout(60):
        await it.ready()


async def probed(it: WorkerProcess, path: Path) -> control.Described:
    id = it.next_id()
    answer, fd = await it.ask(id, control.Probe(id, str(path), 20.0))
    assert isinstance(answer, control.Described)
    assert fd is None
    return answer


async def test_a_worker_becomes_ready_and_answers(tmp_path: Path) -> None:
    """It says so once, with the runtime's version; then it describes a model."""
    told: list[bool] = []
    async with started(tmp_path / "w", told.append) as it:
        assert None is it.life, "not before it has proved that it runs something"
        await ready(it)
        assert it.runtime
        described = await probed(it, plain(tmp_path / "m.onnx", 8))
        assert [("x", "float", (8,))] == [(t.name, t.dtype, t.shape) for t in described.inputs]
        await until(lambda: told, "its owner was told")
        assert [True] == told
    assert 0 == it.deaths


async def test_a_refusal_of_the_worker_is_a_typed_error(tmp_path: Path) -> None:
    """A file that is no model: its error arrives as its class, and the process lives."""
    (tmp_path / "bad.onnx").write_text("no model")
    async with started(tmp_path / "w") as it:
        await ready(it)
        with pytest.raises(ModelRefused):
            await probed(it, tmp_path / "bad.onnx")
        await probed(it, plain(tmp_path / "m.onnx", 8))
    assert 0 == it.deaths


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_a_worker_that_dies_is_replaced(tmp_path: Path, number: signal.Signals) -> None:
    """What was asked of it fails with the signal's name; its owner hears of both changes; the next one answers."""
    told: list[bool] = []
    async with started(tmp_path / "w", told.append) as it:
        await ready(it)
        await until(lambda: told == [True], "its owner was told")
        pid = it.life.process.pid
        await hold(it.life.process.pid)  # so that the question is certainly open when it dies
        id = it.next_id()
        open_question = it.ask(id, control.Probe(id, str(plain(tmp_path / "m.onnx", 8)), 20.0))
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
        with pytest.raises(WorkerCrashed, match=number.name):
            await open_question
        await ready(it)
        await until(lambda: told == [True, False, True], "its owner was told")
        assert pid != it.life.process.pid
        await probed(it, tmp_path / "m.onnx")
    assert 1 == it.deaths


async def test_killing_it_fails_all_that_is_open(tmp_path: Path) -> None:
    """Every future ends, none waits for ever."""
    async with started(tmp_path / "w") as it:
        await ready(it)
        await hold(it.life.process.pid)
        path = plain(tmp_path / "m.onnx", 8)
        answers = [it.ask(id, control.Probe(id, str(path), 20.0)) for id in (it.next_id() for _ in range(20))]
        it.kill("the test wants it")
        async with asyncio.timeout(60):
            ends = await asyncio.gather(*answers, return_exceptions=True)
        assert {WorkerCrashed} == {type(end) for end in ends}


async def test_more_than_the_socket_holds_is_sent_when_there_is_room(tmp_path: Path) -> None:
    """A worker that does not read for a while loses no message, and answers each."""
    async with started(tmp_path / "w") as it:
        await ready(it)
        await hold(it.life.process.pid)
        ids = [it.next_id() for _ in range(40)]
        filler = "x" * 100_000
        answers = [it.ask(id, control.Unload(id, filler)) for id in ids]
        assert it.life.unsent, "the socket is full"
        os.kill(it.life.process.pid, signal.SIGCONT)
        async with asyncio.timeout(60):
            ended = await asyncio.gather(*answers)
        assert ids == [answer.id for answer, _ in ended]


async def test_a_worker_that_cannot_start_is_an_error_for_whoever_waits(tmp_path: Path) -> None:
    """Also for those who waited before it was known; the error says what the worker said last."""
    async with started(tmp_path / "w", provider="NoSuchExecutionProvider") as it:
        with pytest.raises(WorkerCrashed, match="does not start: exit 1"):
            await ready(it)
        with pytest.raises(WorkerCrashed, match="NoSuchExecutionProvider"):
            await ready(it)
        id = it.next_id()
        await until(lambda: it._life is None, "it is gone")
        with pytest.raises(WorkerCrashed, match="not there"):
            await it.ask(id, control.Unload(id, ""))
        it.tell(control.Terminate(id))
        it.kill("there is nothing to kill")
    assert it.deaths >= 1


async def test_stopping_fails_what_is_open(tmp_path: Path) -> None:
    """A worker that is stopped in the middle: its owner's futures end with the reason."""
    async with started(tmp_path / "w") as it:
        await ready(it)
        await hold(it.life.process.pid)
        id = it.next_id()
        answer = it.ask(id, control.Unload(id, ""))
        await it.stop()
        with pytest.raises(WorkerCrashed, match="told to stop"):
            await answer


async def test_stopping_before_it_is_ready_leaves_nothing(tmp_path: Path) -> None:
    """At any moment of its start."""
    for turns in (0, 1, 5):
        async with started(tmp_path / "w"):
            for _ in range(turns):
                await asyncio.sleep(0)
