"""When an answer does not come: it is asked for again, the task runs elsewhere, or nobody knows and that is said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from meshnode.errors import DeadlineExceeded, OutcomeUnknown, ResultLost, WorkerCrashed
from meshnode.links.link import Reply
from meshnode.tasks import lifecycle
from meshnode.wire.messages import Infer
from tests.tasks.around import ANN, BOB, CAT, ME, Around, Far, hang, inferred
from tests.tasks.test_dispatcher import BODY, Desk, gated, outcomes, preferred, told
from tests.waiting import until


@pytest.fixture
def desk(around: Around) -> Desk:
    """An agent that has no worker of its own: everything goes to peers."""
    around.no_workers.add(ME)
    return Desk(around)


def breaking(far: Far, after: Callable[[], Awaitable[None]]) -> None:
    """The link breaks while the peer runs the task; the peer goes on."""

    async def run(_message: Infer, body: memoryview) -> Reply:
        assert far.link is not None
        far.link.abort("the cable was pulled")
        await after()
        return inferred(far.id, bytes(body))

    far.run = run


def freeze(far: Far, *, thaw: bool = False) -> None:
    """The peer reads and says nothing any more, as one that sleeps; or does again."""
    assert far.link is not None
    transport = far.link._transport
    assert transport is not None
    (transport.resume_reading if thaw else transport.pause_reading)()
    (far.link.resume_writing if thaw else far.link.pause_writing)()


async def test_a_result_that_was_under_way_when_the_link_broke_is_fetched(around: Around, desk: Desk) -> None:
    """Over a new link, from the same node; it ran once, and nobody else heard of the task."""
    ann, bob = await preferred(around, ANN, BOB)
    breaking(ann, lambda: asyncio.sleep(0))
    reply = await desk.submit()
    assert b"abc" == b"".join(reply.body)
    assert [("ann", "peer_lost"), ("ann", "ok")] == outcomes(told(reply).attempts)
    assert (1, 0) == (len(ann.ran), len(bob.ran))
    assert 1 == desk.dispatcher.counters.recalled
    assert [ANN] == around.dialled


async def test_a_run_that_goes_on_is_waited_for_over_a_new_link(around: Around, desk: Desk) -> None:
    """Not run anew because of a blip, however long it takes."""
    ann, bob = await preferred(around, ANN, BOB)
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    breaking(ann, wait)
    waiting = asyncio.ensure_future(desk.submit())
    await until(lambda: around.dialled, "it was dialled anew")
    await asyncio.sleep(lifecycle.RECALL_S)  # longer than it may take to find it
    gate.set()
    assert [("ann", "peer_lost"), ("ann", "ok")] == outcomes(told(await waiting).attempts)
    assert (1, 0) == (len(ann.ran), len(bob.ran))


async def test_a_node_that_is_gone_costs_no_time(around: Around, desk: Desk) -> None:
    """Its address refuses: the task is elsewhere within 100 ms of the reset."""
    ann, _ = await preferred(around, ANN, BOB)
    cut_at = 0.0

    async def die(message: Infer, body: memoryview) -> Reply:
        nonlocal cut_at
        cut_at = time.monotonic()
        around.cut(ANN)
        return await hang(message, body)

    ann.run = die
    assert [("ann", "peer_lost"), ("bob", "ok")] == outcomes(told(await desk.submit()).attempts)
    assert time.monotonic() - cut_at < 0.1


async def test_a_node_that_lost_the_task_is_believed_at_once(around: Around, desk: Desk) -> None:
    """It was restarted, or the task never arrived: it says so and another one runs it."""
    ann, _ = await preferred(around, ANN, BOB)

    async def restart() -> None:
        ann.restart()
        await asyncio.Event().wait()

    breaking(ann, restart)
    assert [("ann", "peer_lost"), ("ann", "unknown_task"), ("bob", "ok")] == outcomes(
        told(await desk.submit()).attempts
    )


async def test_a_silent_peer_is_left_within_a_second_and_may_come_back(around: Around, desk: Desk) -> None:
    """Another one runs the task; the first one's answer is taken when it is there first, and the other is told."""
    ann, bob = await preferred(around, ANN, BOB)
    gate = await gated(ann)
    bob.run = hang
    waiting = asyncio.ensure_future(desk.submit())
    await until(lambda: ann.ran, "it runs")
    freeze(ann)
    frozen_at = time.monotonic()
    await until(lambda: bob.ran, "another one has it")
    assert 0.4 < time.monotonic() - frozen_at < 1.5
    gate.set()
    freeze(ann, thaw=True)
    message = told(await asyncio.wait_for(waiting, 20))
    assert [("ann", "peer_silent"), ("bob", "cancelled"), ("ann", "ok")] == outcomes(message.attempts)
    assert (1, 1) == (len(ann.ran), len(bob.ran))
    await until(lambda: bob.cancelled == 1, "the other one was told")


# --- what must not run twice ---


async def test_what_may_run_once_waits_for_a_peer_that_sleeps(around: Around, desk: Desk) -> None:
    """No other node hears of it, and the answer is the first run's."""
    ann, bob = await preferred(around, ANN, BOB)
    gate = await gated(ann)
    waiting = asyncio.ensure_future(desk.submit(once=True))
    await until(lambda: ann.ran, "it runs")
    assert ann.ran[0].once
    freeze(ann)
    gate.set()
    await asyncio.sleep(1.0)  # it has fallen silent by now
    freeze(ann, thaw=True)
    assert [("ann", "peer_silent"), ("ann", "ok")] == outcomes(told(await asyncio.wait_for(waiting, 20)).attempts)
    assert (1, 0) == (len(ann.ran), len(bob.ran))


async def test_nobody_knows_what_came_of_a_task_whose_node_is_gone(around: Around, desk: Desk) -> None:
    """A typed error with the attempt, at once; it is not run elsewhere."""
    ann, bob = await preferred(around, ANN, BOB)

    async def die(message: Infer, body: memoryview) -> Reply:
        around.cut(ANN)
        return await hang(message, body)

    ann.run = die
    with pytest.raises(OutcomeUnknown, match="ann had the task") as caught:
        await desk.submit(once=True)
    assert ["peer_lost"] == [attempt.outcome for attempt in caught.value.attempts]
    assert [] == bob.ran


async def test_a_restarted_node_cannot_say_that_a_task_was_not_begun(around: Around, desk: Desk) -> None:
    """It has forgotten: its word is not taken for what must not run twice."""
    ann, bob = await preferred(around, ANN, BOB)

    async def restart() -> None:
        ann.restart()
        await asyncio.Event().wait()

    breaking(ann, restart)
    with pytest.raises(ResultLost, match="restarted"):
        await desk.submit(once=True)
    assert [] == bob.ran


async def test_a_crash_of_what_may_run_once_is_told(around: Around, desk: Desk) -> None:
    """It had begun."""
    ann, bob = await preferred(around, ANN, BOB)

    async def crash(_message: Infer, _body: memoryview) -> Reply:
        raise WorkerCrashed("signal 9")

    ann.run = crash
    with pytest.raises(WorkerCrashed) as caught:
        await desk.submit(once=True)
    assert 1 == len(caught.value.attempts)
    assert [] == bob.ran


# --- second copies ---


async def test_a_late_task_is_hedged(around: Around, desk: Desk) -> None:
    """Twice what was quoted later a second node has it too; the first result wins, and the other run is cancelled."""
    ann, bob = await preferred(around, ANN, BOB)
    ann.run = hang
    reply = await desk.submit(hedge=True)
    assert b"cba" == b"".join(reply.body)
    assert [("ann", "cancelled"), ("bob", "ok")] == outcomes(told(reply).attempts)
    assert (1, 1) == (len(ann.ran), len(bob.ran))
    await until(lambda: ann.cancelled == 1, "the other one was told")
    assert 1 == desk.dispatcher.counters.hedged


async def test_what_is_not_late_or_may_not_be_is_not_hedged(around: Around, desk: Desk) -> None:
    """Nor is a task that did not ask for it, one that may run once, or one when the budget is spent."""
    ann, bob = await preferred(around, ANN, BOB)
    await desk.submit(hedge=True)
    ann.run = hang
    with pytest.raises(DeadlineExceeded):
        await desk.submit(task="2" * 32, deadline_s=0.3)
    with pytest.raises(DeadlineExceeded):
        await desk.submit(task="3" * 32, deadline_s=0.3, hedge=True, once=True)
    desk.dispatcher.means.budget.tokens = 0.0
    with pytest.raises(DeadlineExceeded):
        await desk.submit(task="4" * 32, deadline_s=0.3, hedge=True)
    assert [] == bob.ran


# --- comparisons ---


async def answers(far: Far, body: bytes, provider: str = "CPUExecutionProvider") -> None:
    async def run(_message: Infer, _body: memoryview) -> Reply:
        return inferred(far.id, body, provider=provider)

    far.run = run


async def test_a_task_is_compared_with_a_second_node(around: Around, desk: Desk) -> None:
    """Both agree: the answer is the first one's, and both runs are told."""
    await preferred(around, ANN, BOB, CAT)
    message = told(await desk.submit(verify=1.0))
    assert [("bob", "ok"), ("ann", "ok")] == outcomes(message.attempts)
    assert ANN == message.node
    assert (1, 0) == (desk.dispatcher.counters.verified, desk.dispatcher.counters.disputed)
    assert [] == desk.aside


async def test_two_outvote_one_that_lies(around: Around, desk: Desk) -> None:
    """The client gets what two agree on; the odd one out is set aside with the evidence."""
    ann, _, _ = await preferred(around, ANN, BOB, CAT)
    await answers(ann, b"lie")
    reply = await desk.submit(verify=1.0)
    assert b"cba" == b"".join(reply.body)
    assert told(reply).node != ANN
    assert {"ann", "bob", "cat"} == {name for name, _ in outcomes(told(reply).attempts)}
    ((node, why),) = desk.aside
    assert ANN == node
    assert "1" * 32 in why
    assert 1 == desk.dispatcher.counters.disputed


async def test_without_a_third_node_nobody_is_accused(around: Around, desk: Desk) -> None:
    """Two disagree and none decides; with one node there is nothing to compare. The first result is the answer."""
    (ann,) = await preferred(around, ANN)
    assert b"cba" == b"".join((await desk.submit(verify=1.0)).body)
    bob = await around.peer(BOB)
    ann.quote = bob.quote
    await answers(bob, b"other")
    reply = await asyncio.wait_for(desk.submit(verify=1.0, task="2" * 32), 20)
    assert b"".join(reply.body) in (b"cba", b"other")
    assert [] == desk.aside


async def test_a_share_of_nothing_is_never_compared(around: Around, desk: Desk) -> None:
    """Nor is what may run once."""
    _, bob = await preferred(around, ANN, BOB)
    await desk.submit()
    await desk.submit(task="2" * 32, verify=1.0, once=True)
    assert [] == bob.ran


async def test_of_many_tasks_the_wanted_share_is_compared(around: Around, desk: Desk) -> None:
    """A quarter of two hundred, within what chance allows."""
    _, bob = await preferred(around, ANN, BOB)
    for number in range(200):
        await desk.submit(task=f"{number:032x}", verify=0.25)
    assert 25 < len(bob.ran) < 80
    assert len(bob.ran) == desk.dispatcher.counters.verified


# --- exact ---


async def test_an_exact_task_runs_on_the_processor_only(around: Around, desk: Desk) -> None:
    """A node without that provider is not asked, those that are hear of it, and what another one ran is not taken."""
    ann, bob = await preferred(around, ANN, BOB)
    cat = await around.peer(CAT, providers=("CUDAExecutionProvider",))
    await answers(ann, b"fast", provider="CUDAExecutionProvider")
    reply = await desk.submit(exact=True)
    assert [("ann", "protocol_error"), ("bob", "ok")] == outcomes(told(reply).attempts)
    assert "CPUExecutionProvider" == told(reply).provider
    assert [] == cat.asked
    asked = {ask.provider for far in (ann, bob) for ask in far.asked} | {bob.ran[0].provider}
    assert {"CPUExecutionProvider"} == asked


def test_the_body_is_what_the_peers_turn_round() -> None:
    """The other tests read answers by it."""
    assert b"cba" == bytes(BODY)[::-1]
    assert replace(Far(ANN), id=BOB).id == BOB
