"""What a worker refuses at once instead of letting it wait, and what it says about itself when it does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from meshnode.config import Execution as Settings
from meshnode.errors import DeadlineExceeded, Refused
from meshnode.execution.rules import CPU
from meshnode.execution.supervisor import Execution
from meshnode.wire.messages import QuoteAsk
from tests.execution.making import bundled, done, new, ready, run
from tests.waiting import until

SETTINGS = Settings(concurrency=1, arena_bytes=8 * 1024 * 1024, cancel_grace_s=0.5, queue_backlog_max_s=1e6)
IMAGE = {"image": np.ones((1, 1, 8, 8), np.float32)}
LONG = {"x": np.ones((1, 64), np.float32), "rounds": np.int64(4 * 10**5)}


@pytest.fixture
async def execution(tmp_path: Path) -> AsyncIterator[Execution]:
    """One slot, ready."""
    async with ready(new(tmp_path, SETTINGS)) as it:
        yield it


async def busy(it: Execution) -> asyncio.Task[object]:
    """The slot is taken, by a run that is known to be long."""
    await run(it, bundled("slow"), LONG)
    await run(it, bundled("digits"), IMAGE)
    first: asyncio.Task[object] = asyncio.create_task(done(it, bundled("slow"), LONG))
    await until(lambda: it._own[0]._runs, "the slot is taken")
    return first


async def test_who_may_not_wait_is_told_at_once_how_long_it_would_be(execution: Execution) -> None:
    """max_wait_s below the backlog: refused before the run that is in the way has ended, with the hint."""
    first = await busy(execution)
    with pytest.raises(Refused, match="work wait here") as caught:
        await done(execution, bundled("digits"), IMAGE, max_wait_s=0.001)
    assert not first.done()
    assert caught.value.retry_after_s is not None
    assert 0.001 < caught.value.retry_after_s <= execution._own[0].queue.service_s(bundled("slow").digest)  # type: ignore[operator]
    assert 1 == (await done(execution, bundled("digits"), IMAGE, max_wait_s=30.0)).batch
    await first


async def test_another_provider_is_refused(execution: Execution) -> None:
    """By name, in the quote as in the task; the one that is here does it and says so."""
    for provider in ("CUDAExecutionProvider", "NoSuchExecutionProvider"):
        with pytest.raises(Refused, match=f"nothing on {provider}; it has {CPU}"):
            await done(execution, bundled("digits"), IMAGE, provider=provider)
        ask = QuoteAsk(task="1" * 32, model=bundled("digits").digest, deadline_s=9.0, provider=provider)
        with pytest.raises(Refused, match=provider):
            execution.quote(ask, fetch_bytes=0, size_bytes=1, hold_s=0.1)
    assert CPU == (await done(execution, bundled("digits"), IMAGE, provider=CPU)).provider


async def test_an_answer_says_how_it_was_made(execution: Execution) -> None:
    """The precision by the weights, how many ran as one, and the work that is still here, in seconds."""
    first = await busy(execution)
    queued = [asyncio.create_task(done(execution, bundled("slow"), LONG)) for _ in range(2)]
    await until(lambda: 3 == execution.vitals()[0], "they wait")
    answer = await done(execution, bundled("digits"), IMAGE, priority="high")
    assert ("float", 1, CPU) == (answer.precision, answer.batch, answer.provider)
    assert 0.0 < answer.queue_s
    long_s = execution._own[0].queue.service_s(bundled("slow").digest)
    assert long_s is not None
    assert long_s < answer.backlog_s < 3 * long_s
    await asyncio.gather(first, *queued)
    assert 0.0 == (await done(execution, bundled("digits"), IMAGE)).backlog_s


async def test_what_is_late_is_never_run(execution: Execution) -> None:
    """Its time runs out while it waits: told at once, and the worker never hears of it."""
    first = await busy(execution)
    runs = execution._own[0].queue.done
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="not run"):
        await done(execution, bundled("digits"), IMAGE, within_s=0.02)
    assert not first.done()
    assert time.monotonic() - began < 5
    await first
    assert runs + 1 == execution._own[0].queue.done
