"""Peers whose word is not kept: what one of them can take from an agent that believes it, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from meshnode.errors import DeadlineExceeded
from meshnode.membership.advert import Held
from meshnode.wire.messages import Quote
from tests.tasks.around import ANN, BOB, CAT, ME, MODEL, Around, hang
from tests.tasks.test_dispatcher import Desk, told


@pytest.fixture
def desk(around: Around) -> Desk:
    """An agent that has no worker of its own: everything goes to peers."""
    around.no_workers.add(ME)
    return Desk(around)


@pytest.mark.parametrize("claimed_s", [0.0, 0.01], ids=["by gossip", "by quotes"])
async def test_who_takes_tasks_and_answers_none_gets_few(around: Around, desk: Desk, claimed_s: float) -> None:
    """It is always the soonest, and no result of it ever tells otherwise: after a handful of lost tasks others get
    them, though it goes on saying so."""
    hole = await around.peer(ANN, models=(Held(MODEL.digest, True, claimed_s),))
    hole.quote = Quote(backlog_s=0.0, service_s=0.0, slots=4096)
    hole.run = hang
    for node in (BOB, CAT):
        (await around.peer(node)).quote = Quote(backlog_s=0.02, service_s=0.02, slots=1)
    by: list[str] = []
    for number in range(25):
        try:
            by.append(told(await desk.submit(task=f"{number:032x}", deadline_s=0.15)).name)
        except DeadlineExceeded:
            by.append("nobody")
    assert by.count("nobody") <= 5
    assert "nobody" not in by[5:]
    assert len(hole.asked) > 10, "it was asked, and not believed"


async def test_nothing_is_kept_of_tasks_that_were_given_up(around: Around, desk: Desk) -> None:
    """At their deadline, or by their client, while a peer has them."""
    peer = await around.peer(ANN)
    peer.run = hang
    with pytest.raises(DeadlineExceeded):
        await desk.submit(deadline_s=0.05)
    waiting = [asyncio.ensure_future(desk.submit(task=f"{number:032x}")) for number in range(20)]
    while len(peer.ran) < 10:
        await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert {} == desk.dispatcher.chooser._expected
    assert 0 == desk.dispatcher.open
