"""Models that kill or hang the worker that loads them, and whose fault a death is."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from meshnode.config import Execution as Settings
from meshnode.errors import DeadlineExceeded, ModelRefused, OutOfMemory, WorkerCrashed
from meshnode.execution.blame import Blame
from meshnode.execution.job import ModelFile
from meshnode.execution.quarantine import Quarantine
from meshnode.execution.supervisor import Execution
from meshnode.wire.messages import Digest
from tests.execution.making import bomb, endless, gathered, killer, new, ready, run
from tests.execution.test_supervisor import echo, until_running
from tests.waiting import hold, until

LOAD_S = 1.5
SETTINGS = Settings(concurrency=2, arena_bytes=8 * 1024 * 1024, cancel_grace_s=0.2, load_timeout_s=LOAD_S)
X = {"x": np.ones(1, np.float32)}
Told = list[tuple[Digest, str]]


@pytest.fixture
def told() -> Told:
    """What the execution says about models."""
    return []


@pytest.fixture
async def execution(tmp_path: Path, told: Told) -> AsyncIterator[Execution]:
    """With a worker that is ready, and little time to load."""
    async with ready(new(tmp_path, SETTINGS, cores=2, condemned=lambda digest, how: told.append((digest, how)))) as it:
        yield it


async def test_a_model_that_kills_its_loader_is_condemned_at_once(
    execution: Execution, tmp_path: Path, told: Told
) -> None:
    """One load is enough: it depends on nothing but the model. Others run on, and it may be pardoned."""
    model = killer(tmp_path)
    with pytest.raises(WorkerCrashed, match="SIGFPE"):
        await run(execution, model, X)
    ((digest, how),) = told
    assert model.digest == digest
    assert "SIGFPE" in how
    with pytest.raises(ModelRefused, match="ended the process that loaded it"):
        await run(execution, model, X)
    with pytest.raises(ModelRefused, match="ended the process"):
        await execution.load(model)
    assert 1 == (await run(execution, echo(tmp_path), {"x": np.ones((1, 1), np.float32)}))["y"].size
    execution.pardon(model.digest)
    with pytest.raises(WorkerCrashed):
        await execution.load(model)
    assert [model.digest] * 2 == [it for it, _ in told]


async def test_a_load_that_does_not_end_is_ended(execution: Execution, tmp_path: Path, told: Told) -> None:
    """Its limit is its own: the task's deadline does not end it, and a task without hurry does not wait for ever."""
    model = bomb(tmp_path)
    began = time.monotonic()
    hurried, patient = await gathered(run(execution, model, X, within_s=0.3), run(execution, model, X))
    assert isinstance(hurried, DeadlineExceeded)
    assert isinstance(patient, WorkerCrashed)
    assert LOAD_S <= time.monotonic() - began < 10 * LOAD_S
    ((digest, how),) = told
    assert model.digest == digest
    assert "did not load within 1.5 s" in how
    with pytest.raises(ModelRefused, match="did not load"):
        await run(execution, model, X)


async def test_a_hurried_task_does_not_end_a_load(execution: Execution, tmp_path: Path, told: Told) -> None:
    """A deadline shorter than the load leaves the model loaded for the next task, and the worker alive."""
    model = echo(tmp_path)
    life = execution._own[0].process.life
    assert life is not None
    await hold(life.process.pid)  # so that the load is certainly longer
    try:
        with pytest.raises(DeadlineExceeded):
            await run(execution, model, {"x": np.ones((1, 1), np.float32)}, within_s=0.05)
    finally:
        os.kill(life.process.pid, signal.SIGCONT)
    await run(execution, model, {"x": np.ones((1, 1), np.float32)})
    assert 0 == execution._own[0].process.deaths
    assert [] == told


async def test_a_long_run_of_a_loaded_model_is_no_load(execution: Execution, tmp_path: Path, told: Told) -> None:
    """The limit is one on loading: a run may take what its deadline allows, also when a second one begins beside it."""
    model, other = endless(tmp_path), {"x": np.float32(1).reshape(())}
    first = asyncio.ensure_future(run(execution, model, other, within_s=3 * LOAD_S))
    await until(lambda: bool(execution.loaded()), "it is loaded")
    second = asyncio.ensure_future(run(execution, model, other, within_s=3 * LOAD_S))
    assert [DeadlineExceeded] * 2 == [type(it) for it in await gathered(first, second)]
    assert [] == told


async def test_nobody_is_blamed_for_a_death_beside_another_model(
    execution: Execution, tmp_path: Path, told: Told
) -> None:
    """While two models are at work either may be the culprit: a report would be a guess."""
    running = asyncio.ensure_future(run(execution, endless(tmp_path), {"x": np.float32(1).reshape(())}))
    await until_running(execution)
    await until(lambda: bool(execution.loaded()), "it is loaded")
    assert [WorkerCrashed] * 2 == [type(it) for it in await gathered(run(execution, killer(tmp_path), X), running)]
    assert [] == told


async def test_a_probe_of_a_killer_and_of_a_bomb_is_refused(execution: Execution, tmp_path: Path) -> None:
    """Added models are tried with the same limits; what fails never gets into the mesh."""
    with pytest.raises(ModelRefused, match="SIGFPE"):
        await execution.probe(killer(tmp_path).path)
    with pytest.raises(ModelRefused, match="did not load and run within 11"):
        await execution.probe(bomb(tmp_path).path)


async def test_what_needs_more_memory_than_models_may_take_is_not_loaded(execution: Execution, tmp_path: Path) -> None:
    """The scanner's estimate counts before the file is opened; a smaller one changes nothing."""
    model, budget = echo(tmp_path), execution._own[0].memory.budget_bytes
    greedy = ModelFile(model.digest, model.path, budget + 1)
    for refused in (run(execution, greedy, {}), execution.load(greedy), execution.probe(model.path, budget + 1)):
        with pytest.raises(OutOfMemory, match=f"at least {budget + 1} bytes, and models may take {budget}"):
            await refused
    await execution.load(ModelFile(model.digest, model.path, budget))


@pytest.mark.parametrize(("used_s", "kills_at", "tells"), [(1.0, 1.0, True), (0.1, 4.0, False)])
async def test_a_starved_load_gets_more_time_and_no_blame(used_s: float, kills_at: float, tells: bool) -> None:
    """The limit is one on the processor's time: where it had little, four times the limit by the clock ends the load,
    and the mesh is not told."""
    told: Told = []
    killed: list[float] = []
    began = time.monotonic()
    blame = Blame(
        0.1,
        Quarantine(),
        lambda: used_s * (time.monotonic() - began),
        lambda _: killed.append(time.monotonic() - began),
        _into(told),
    )
    blame.begin(ModelFile(Digest("a" * 64), Path("nowhere/at/all")))
    await until(lambda: bool(killed), "the load is ended")
    assert 0.09 * kills_at < killed[0] < 0.1 * kills_at + 1
    blame.died(-9, "signal 9", [], proving=False)
    assert tells == bool(told)
    with pytest.raises(ModelRefused, match=r"did not load within 0\.1 s"):
        blame.quarantine.check(time.monotonic(), Digest("a" * 64))


def _into(told: Told) -> Callable[[Digest, str], None]:
    return lambda digest, how: told.append((digest, how))
