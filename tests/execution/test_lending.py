"""Where an owner sits at the machine: the work of others in a process of its own, which is gone when he comes back."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from meshnode.config import Execution as Settings
from meshnode.errors import Refused, ResultLost
from meshnode.execution import supervisor
from meshnode.execution.rules import CPU
from meshnode.execution.supervisor import Execution
from meshnode.wire.messages import QuoteAsk
from tests.execution.making import bundled, done, endless, new, ready
from tests.waiting import until

SETTINGS = Settings(concurrency=1, arena_bytes=8 * 1024 * 1024, cancel_grace_s=30.0, lent_idle_s=0.2)
IMAGE = {"image": np.ones((1, 1, 8, 8), np.float32)}
OWNER = "owner is here"


@pytest.fixture(autouse=True)
def fed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy for long the lowest class gets no time at all: only one test is about the class."""
    if "lowest_class" not in request.node.name:
        monkeypatch.setattr(os, "SCHED_IDLE", os.SCHED_OTHER)


@pytest.fixture
async def execution(tmp_path: Path) -> AsyncIterator[Execution]:
    """A machine with an owner; one slot for him and one for the others."""
    it = new(tmp_path, replace(SETTINGS, lent_idle_s=60.0), apart=lambda: True)
    async with ready(it):
        yield it
    assert [] == workers()


def workers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it is just going
            if "meshnode.execution.confined" in process.cmdline():
                found.append(process)
    return found


async def foreign_run(it: Execution, folder: Path, **more: object) -> asyncio.Task[object]:
    """A task of others that does not end, once it runs."""
    work: asyncio.Task[object] = asyncio.create_task(
        done(it, endless(folder), {"x": np.float32(1)}, within_s=60, foreign=True, **more)
    )
    await until(lambda: any(d._runs for d in it._lent.values()), "it runs")
    return work


async def test_foreign_work_has_a_process_in_the_lowest_class(execution: Execution, tmp_path: Path) -> None:
    """It starts with the first foreign task; own work goes on beside it, in its own process and class."""
    (own,) = workers()
    assert os.SCHED_OTHER == os.sched_getscheduler(own.pid)
    running = asyncio.create_task(foreign_run(execution, tmp_path))
    lent = await until(lambda: next((p for p in workers() if p.pid != own.pid), None), "it has a process")
    assert {os.SCHED_IDLE} == {os.sched_getscheduler(thread.id) for thread in lent.threads()}
    with suppress(PermissionError):  # for the rest of the test, where one may; what starts threads hands its class on
        for thread in lent.threads():
            os.sched_setscheduler(thread.id, os.SCHED_OTHER, os.sched_param(0))
    work = await running
    answer = await done(execution, bundled("digits"), IMAGE)
    assert (CPU, False) == (answer.provider, work.done()), "the only lent slot is taken, and the owner's is not"
    work.cancel()


async def test_the_owner_has_his_machine_at_once(execution: Execution, tmp_path: Path) -> None:
    """What runs and what waits of others' is refused, to run elsewhere; its process, with its memory, is gone."""
    (own,) = workers()
    running = await foreign_run(execution, tmp_path)
    waiting = asyncio.create_task(done(execution, bundled("digits"), IMAGE, foreign=True))
    await until(lambda: 2 == execution.vitals()[0], "one runs and one waits")
    mine = asyncio.create_task(done(execution, endless(tmp_path), {"x": np.float32(1)}, within_s=1.0))
    await until(lambda: execution._own[0]._runs, "the owner's own task runs")

    began = time.monotonic()
    execution.welcome(OWNER)
    for work in (running, waiting):
        with pytest.raises(Refused, match=OWNER) as caught:
            await work
        assert caught.value.retry_after_s is not None
        assert caught.value.untouched or caught.value.retry_elsewhere
    await until(lambda: [own.pid] == [p.pid for p in workers()], "the process is gone")
    assert time.monotonic() - began < 1.0
    assert not mine.done()
    with pytest.raises(Refused, match=OWNER):
        await done(execution, bundled("digits"), IMAGE, foreign=True)
    assert 1 == (await done(execution, bundled("digits"), IMAGE)).batch
    mine.cancel()


async def test_when_the_owner_has_gone_others_are_welcome_again(execution: Execution, tmp_path: Path) -> None:
    """A new process, at once, and the quote says what starting it costs."""
    await foreign_run(execution, tmp_path)
    execution.welcome(OWNER)
    execution.welcome("")
    ask = QuoteAsk(task="1" * 32, model=bundled("digits").digest, deadline_s=9.0)
    assert execution.quote(ask, fetch_bytes=0, size_bytes=1, hold_s=0.0, foreign=True).load_s >= supervisor.START_S
    assert 1 == (await done(execution, bundled("digits"), IMAGE, foreign=True)).batch
    assert 2 == len(workers())


async def test_a_process_without_work_ends(tmp_path: Path) -> None:
    """After lent_idle_s its memory is the owner's again; the next task has a new one."""
    it = new(tmp_path, SETTINGS, apart=lambda: True)
    await it.start()
    try:
        await it.ready()
        for _ in range(2):
            await done(it, bundled("digits"), IMAGE, foreign=True)
            await until(lambda: 1 == len(workers()), "only the owner's is left")
    finally:
        await it.stop()


async def test_what_must_not_run_twice_may_end(
    execution: Execution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on in its low class for a while; then it is stopped, and never said to be untouched."""
    monkeypatch.setattr(supervisor, "ONCE_S", 0.5)
    work = await foreign_run(execution, tmp_path, once=True)
    execution.welcome(OWNER)
    with pytest.raises(ResultLost, match=OWNER) as caught:
        await work
    assert not caught.value.untouched
    await until(lambda: 1 == len(workers()), "its process is gone")


async def test_a_drain_lets_runs_end_and_hands_back_what_waits(execution: Execution, tmp_path: Path) -> None:
    """The owner waits for them by his own will."""
    running = await foreign_run(execution, tmp_path)
    waiting = asyncio.create_task(done(execution, bundled("digits"), IMAGE, foreign=True))
    await until(lambda: 2 == execution.vitals()[0], "one runs and one waits")
    execution.patient = True
    execution.welcome("paused by the owner")
    with pytest.raises(Refused):
        await waiting
    assert not running.done()
    running.cancel()


async def test_without_an_owner_there_is_one_process(tmp_path: Path) -> None:
    """A server's own and foreign work share a worker; a pause stops the foreign run, and the worker stays."""
    it = new(tmp_path, SETTINGS, apart=lambda: False)
    await it.start()
    try:
        await it.ready()
        (worker,) = workers()
        work = asyncio.create_task(done(it, endless(tmp_path), {"x": np.float32(1)}, within_s=60, foreign=True))
        await until(lambda: it._own[0]._runs, "it runs")
        it.welcome("paused by the owner")
        with pytest.raises(Refused):
            await work
        assert 1 == (await done(it, bundled("digits"), IMAGE)).batch
        assert [worker.pid] == [p.pid for p in workers()]
    finally:
        await it.stop()
