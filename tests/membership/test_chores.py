"""Work beside other work: it ends with its owner, and leaves nothing half-made behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings

import pytest

from meshnode.errors import PeerLost
from meshnode.membership.chores import Chores


async def test_what_ends_before_its_first_step_was_never_made() -> None:
    """A part that is stopped in the turn in which it began something warns of no coroutine that nobody awaited."""
    ran: list[int] = []

    async def work(number: int) -> None:
        ran.append(number)

    chores = Chores()
    gc.collect()  # what other tests left is theirs
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        chores.start(work, 1)
        await chores.stop()
        chores.start(work, 2)
        await asyncio.sleep(0)
        gc.collect()
    assert ([], []) == (ran, [str(warning.message) for warning in warned])


async def test_what_is_under_way_is_cancelled_and_waited_for() -> None:
    """Stopping returns when the work has cleaned up after itself."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    chores = Chores()
    chores.start(work)
    await begun.wait()
    await chores.stop()
    assert ended.is_set()


async def test_a_failure_of_the_network_is_noted_with_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    """A peer that is gone is no error of this program."""

    async def work() -> None:
        raise PeerLost("it is gone")

    chores = Chores("trust was not exchanged: ", logging.INFO)
    with caplog.at_level(logging.INFO):
        chores.start(work)
        await asyncio.sleep(0)
        await chores.stop()
    assert [("INFO", "trust was not exchanged: it is gone")] == [(r.levelname, r.message) for r in caplog.records]
