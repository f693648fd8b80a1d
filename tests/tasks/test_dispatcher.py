"""Tasks that this agent answers for: one right answer each, whatever the peers do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from meshnode.config import LAN, Settings
from meshnode.errors import (
    Cancelled,
    DeadlineExceeded,
    ExecutionFailed,
    InvalidInput,
    MeshError,
    ModelNotFound,
    NoCapacity,
    NoNodeInZone,
    PoisonTask,
    ProtocolError,
    Refused,
    WorkerCrashed,
)
from meshnode.links.link import Reply
from meshnode.tasks.dispatcher import Dispatcher
from meshnode.tasks.pursuit import Means
from meshnode.tasks.stages import Stages
from meshnode.wire.messages import Infer, NodeId, Quote, Submit, Submitted, TensorSpec
from tests.tasks.around import ANN, BOB, CAT, ME, MODEL, Around, Far, hang, inferred
from tests.waiting import until

BODY = memoryview(b"abc")
SETTINGS: Settings = replace(LAN, routing=replace(LAN.routing, quote_timeout_s=5.0))


class Desk:
    """A dispatcher, with what it told and what ran on this node."""

    def __init__(self, around: Around, settings: Settings = SETTINGS) -> None:
        self.around = around
        self.failed: list[tuple[NodeId, str]] = []
        self.ran_here: list[Infer] = []
        self.aside: list[tuple[NodeId, str]] = []
        means = Means(
            ME,
            around.chooser(settings.routing),
            around.link,
            self._run_here,
            lambda node, error: self.failed.append((node, error.code)),
        )
        rng = random.Random(2)
        self.dispatcher = Dispatcher(
            means=means,
            stages=Stages(means, settings, rng, lambda _: MODEL, lambda _: ()),
            settings=settings,
            rng=rng,
            resolve=self._resolve,
            set_aside=lambda node, why: self.aside.append((node, why)),
        )

    async def submit(self, **fields: Any) -> Reply:
        given: dict[str, Any] = {"task": "1" * 32, "model": "m", "inputs": (), "deadline_s": 20.0}
        return await self.dispatcher.submit(Submit(**(given | fields)), BODY)

    def counts(self) -> tuple[int, int, int, int]:
        it = self.dispatcher.counters
        return it.submitted, it.answered, it.failed, it.rerouted

    def _resolve(self, name: str) -> Any:
        if name != "m":
            raise ModelNotFound(f"no model {name!r}", hint="there is m")
        return MODEL

    async def _run_here(self, message: Infer, body: memoryview, submitter: NodeId) -> Reply:
        assert ME == submitter
        self.ran_here.append(message)
        return inferred(ME, b"here:" + bytes(body), checksum=0)


@pytest.fixture
def desk(around: Around) -> Desk:
    """An agent that has no worker of its own: everything goes to peers."""
    around.no_workers.add(ME)
    return Desk(around)


def outcomes(rows: Iterable[Any]) -> list[tuple[str, str]]:
    return [(name, outcome) for _, name, outcome, _, _ in rows]


def told(reply: Reply) -> Submitted:
    assert isinstance(reply.message, Submitted)
    return reply.message


def fails(error: MeshError) -> Any:
    async def run(_message: Infer, _body: memoryview) -> Reply:
        raise error

    return run


async def preferred(around: Around, *nodes: NodeId) -> list[Far]:
    """Peers, the first of which has the shortest queue."""
    peers = [await around.peer(node) for node in nodes]
    for place, peer in enumerate(peers):
        peer.quote = Quote(backlog_s=1.0 * place, service_s=0.01, slots=1)
    return peers


# --- the ordinary life ---


async def test_a_task_runs_on_a_peer_and_its_answer_tells_how_it_went(around: Around, desk: Desk) -> None:
    """The tensors, the node, the model, each attempt and the times."""
    await around.peer(ANN)
    reply = await desk.submit()
    message = told(reply)
    assert b"cba" == b"".join(reply.body)
    assert (ANN, "ann", MODEL.digest, "CPUExecutionProvider") == (
        message.node,
        message.name,
        message.model,
        message.provider,
    )
    assert [("ann", "ok")] == outcomes(message.attempts)
    assert 0.01 == message.run_s
    assert (1, 1, 0, 0) == desk.counts()
    assert 0 == desk.dispatcher.open


async def test_a_task_runs_here_when_this_node_is_best(around: Around) -> None:
    """Without a peer, a link or a checksum."""
    desk = Desk(around)
    reply = await desk.submit()
    assert b"here:abc" == b"".join(reply.body)
    assert "me" == told(reply).name


async def test_the_peer_hears_what_the_client_said(around: Around, desk: Desk) -> None:
    """Zone, priority, outputs and the remaining time travel with the task."""
    ann = await around.peer(ANN, zone="eu")

    async def answers(_message: Infer, body: memoryview) -> Reply:
        return inferred(ANN, bytes(body), outputs=(TensorSpec("y", "uint8", (len(body),), len(body)),))

    ann.run = answers
    await desk.submit(zone="eu", priority="high", outputs=("y",), deadline_s=7.0)
    (message,) = ann.ran
    assert ("eu", "high", ("y",), 1, 0) == (
        message.zone,
        message.priority,
        message.outputs,
        message.attempt,
        message.deaths,
    )
    assert 0 < message.deadline_s <= 7.0


# --- peers that fail ---


async def test_a_peer_that_dies_with_the_task_inside_costs_an_attempt(around: Around, desk: Desk) -> None:
    """The link breaks: the next peer runs it, both attempts are told, and membership hears of the dead one."""
    ann, bob = await preferred(around, ANN, BOB)

    async def die(_message: Infer, _body: memoryview) -> Reply:
        around.cut(ANN)
        return await hang(_message, _body)

    ann.run = die
    message = told(await desk.submit())
    assert [("ann", "peer_lost"), ("bob", "ok")] == outcomes(message.attempts)
    assert [(ANN, "peer_lost")] == desk.failed
    assert 2 == bob.ran[0].attempt
    assert (1, 1, 0, 1) == desk.counts()


@pytest.mark.parametrize(
    "lie",
    [
        {"checksum": 1},
        {"model": "f" * 64},
        {"node": BOB},
        {"outputs": (TensorSpec("y", "uint8", (65,), 65),)},
        {"outputs": (TensorSpec("y", "uint8", (2,), 3),)},
        {"outputs": (TensorSpec("y", "nothing", (3,), 3),)},
    ],
    ids=["checksum", "model", "node", "more than came", "shape", "type"],
)
async def test_a_wrong_answer_is_never_handed_on(around: Around, desk: Desk, lie: dict[str, Any]) -> None:
    """Damaged bytes, another model's or another node's result: the task runs elsewhere."""
    ann, _ = await preferred(around, ANN, BOB)

    async def tell_lies(_message: Infer, _body: memoryview) -> Reply:
        return inferred(ANN, b"lie", **lie)

    ann.run = tell_lies
    reply = await desk.submit()
    assert b"cba" == b"".join(reply.body)
    assert [("ann", "protocol_error"), ("bob", "ok")] == outcomes(told(reply).attempts)


async def test_an_answer_of_another_kind_is_never_handed_on(around: Around, desk: Desk) -> None:
    """A peer that answers a task with a quote is left."""
    ann, _ = await preferred(around, ANN, BOB)

    async def quote(_message: Infer, _body: memoryview) -> Reply:
        return Reply(Quote(backlog_s=0.0, service_s=0.1, slots=1), ())

    ann.run = quote
    assert [("ann", "protocol_error"), ("bob", "ok")] == outcomes(told(await desk.submit()).attempts)


async def test_when_every_attempt_fails_the_last_error_says_all(around: Around, desk: Desk) -> None:
    """Three attempts on three peers, then a typed error with each of them in it."""
    for peer in await preferred(around, ANN, BOB, CAT):
        peer.run = fails(ProtocolError("garbage"))
    with pytest.raises(ProtocolError) as caught:
        await desk.submit()
    assert {"ann", "bob", "cat"} == {attempt.name for attempt in caught.value.attempts}
    assert ["protocol_error"] * 3 == [attempt.outcome for attempt in caught.value.attempts]
    assert (1, 0, 1, 1) == desk.counts()


async def test_a_refusal_goes_elsewhere_and_counts_for_nothing(around: Around, desk: Desk) -> None:
    """A full peer is no failed one: the next hears of attempt 1, and membership of nothing."""
    ann, bob = await preferred(around, ANN, BOB)
    ann.run = fails(Refused("full", retry_after_s=0.01))
    assert [("ann", "refused"), ("bob", "ok")] == outcomes(told(await desk.submit()).attempts)
    assert [1] == [message.attempt for message in bob.ran]
    assert [] == desk.failed


async def test_the_only_peer_is_asked_again_when_it_has_room(around: Around, desk: Desk) -> None:
    """It refuses once: the task waits a moment and then runs there."""
    ann = await around.peer(ANN)

    async def full_once(message: Infer, body: memoryview) -> Reply:
        if len(ann.ran) == 1:
            raise Refused("full", retry_after_s=0.01)
        return inferred(ANN, bytes(body))

    ann.run = full_once
    assert [("ann", "refused"), ("ann", "ok")] == outcomes(told(await desk.submit()).attempts)


@pytest.mark.parametrize("error", [InvalidInput("input 'x' is missing"), ExecutionFailed("the model failed")])
async def test_the_callers_own_fault_is_told_at_once(around: Around, desk: Desk, error: MeshError) -> None:
    """It would fail anywhere: no second peer is bothered."""
    ann, bob = await preferred(around, ANN, BOB)
    ann.run = fails(error)
    with pytest.raises(type(error), match=str(error)) as caught:
        await desk.submit()
    assert [error.code] == [attempt.outcome for attempt in caught.value.attempts]
    assert [] == bob.ran


async def test_a_task_that_kills_workers_is_stopped(around: Around, desk: Desk) -> None:
    """Two deaths in the whole mesh: the second node was warned of the first, and no third worker dies."""
    peers = await preferred(around, ANN, BOB, CAT)
    for peer in peers:
        peer.run = fails(WorkerCrashed("the worker died while it ran this: signal 11 (SIGSEGV)"))
    with pytest.raises(PoisonTask, match="SIGSEGV"):
        await desk.submit()
    assert [[0], [1], []] == [[message.deaths for message in peer.ran] for peer in peers]


# --- zones and models ---


async def test_no_node_in_the_zone_is_told_at_once(around: Around, desk: Desk) -> None:
    """Waiting would not help and nobody outside hears of it."""
    ann = await around.peer(ANN, zone="us")
    with pytest.raises(NoNodeInZone):
        await desk.submit(zone="eu")
    assert [] == ann.asked + ann.ran
    assert (1, 0, 1, 0) == desk.counts()


async def test_a_retry_stays_in_the_zone(around: Around, desk: Desk) -> None:
    """The one node of the zone dies with the task: it is not run outside, and the error tells the attempt."""
    ann = await around.peer(ANN, zone="eu")
    bob = await around.peer(BOB, zone="us")

    async def die(_message: Infer, _body: memoryview) -> Reply:
        around.members[ANN] = replace(around.members[ANN], state="dead", usable=False)
        raise ProtocolError("garbage")

    ann.run = die
    with pytest.raises(NoNodeInZone) as caught:
        await desk.submit(zone="eu")
    assert ["protocol_error"] == [attempt.outcome for attempt in caught.value.attempts]
    assert [] == bob.asked + bob.ran


async def test_an_unknown_model_opens_no_task(around: Around, desk: Desk) -> None:
    """The catalog's error with its hint, and nothing is counted."""
    with pytest.raises(ModelNotFound) as caught:
        await desk.submit(model="n")
    assert "there is m" == caught.value.hint
    assert (0, 0, 0, 0) == desk.counts()


# --- time ---


async def test_a_task_whose_time_is_over_is_not_begun(around: Around, desk: Desk) -> None:
    """A deadline of nothing is a typed error, and no peer hears of the task."""
    ann = await around.peer(ANN)
    with pytest.raises(DeadlineExceeded, match="time ran out") as caught:
        await desk.submit(deadline_s=0.0)
    assert "timeout=" in caught.value.hint
    assert [] == ann.asked + ann.ran


async def test_a_peer_that_takes_too_long_is_told_to_stop(around: Around, desk: Desk) -> None:
    """At the deadline the client has its error, which names the node, and the peer's run is cancelled."""
    ann = await around.peer(ANN)
    ann.run = hang
    with pytest.raises(DeadlineExceeded) as caught:
        await desk.submit(deadline_s=0.2)
    assert ["ann"] == [attempt.name for attempt in caught.value.attempts]
    await until(lambda: ann.cancelled == 1, "the peer was told")
    assert 0 == desk.dispatcher.open


async def test_an_answer_after_the_deadline_is_nobodys(around: Around, desk: Desk) -> None:
    """The peer answers all the same: nothing is delivered twice, and the next task gets its own answer."""
    ann = await around.peer(ANN)
    late = asyncio.Event()

    async def stubborn(message: Infer, body: memoryview) -> Reply:
        if message.task == "2" * 32:
            return inferred(ANN, b"second")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            late.set()
        return inferred(ANN, b"first, too late")

    ann.run = stubborn
    with pytest.raises(DeadlineExceeded):
        await desk.submit(deadline_s=0.2)
    await asyncio.wait_for(late.wait(), 20)
    assert b"second" == b"".join((await desk.submit(task="2" * 32)).body)
    assert (2, 1, 1, 0) == desk.counts()


async def test_while_nobody_can_a_task_waits_for_its_time(around: Around, desk: Desk) -> None:
    """No node at all: the error at the deadline is about capacity, since nothing was ever tried."""
    with pytest.raises(NoCapacity, match="before its deadline") as caught:
        await desk.submit(deadline_s=0.2)
    assert "meshnode status" in caught.value.hint


async def test_a_node_that_comes_in_time_saves_the_task(around: Around, desk: Desk) -> None:
    """A task that nobody can take waits a little for an able node."""
    waiting = asyncio.ensure_future(desk.submit())
    await until(lambda: desk.dispatcher.open == 1, "the task is open")
    await around.peer(ANN)
    assert [("ann", "ok")] == outcomes(told(await waiting).attempts)


# --- clients that leave, and clients that ask twice ---


async def test_a_client_that_leaves_takes_its_task_with_it(around: Around, desk: Desk) -> None:
    """Cancelling reaches the peer that runs it."""
    ann = await around.peer(ANN)
    ann.run = hang
    waiting = asyncio.ensure_future(desk.submit())
    await until(lambda: ann.ran, "it runs")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: ann.cancelled == 1, "the peer was told")
    assert 0 == desk.dispatcher.open


async def gated(far: Far) -> asyncio.Event:
    """Let the peer answer only when the event is set."""
    gate = asyncio.Event()

    async def run(message: Infer, body: memoryview) -> Reply:
        await gate.wait()
        return inferred(far.id, bytes(body))

    far.run = run
    return gate


async def test_a_task_that_is_asked_for_twice_runs_once(around: Around, desk: Desk) -> None:
    """The same id from a client that came back: one run, and both get the answer."""
    ann = await around.peer(ANN)
    gate = await gated(ann)
    both = [asyncio.ensure_future(desk.submit()) for _ in range(2)]
    await until(lambda: ann.ran, "it runs")
    gate.set()
    first, second = await asyncio.gather(*both)
    assert first is second
    assert 1 == len(ann.ran)
    assert (1, 1, 0, 0) == desk.counts()


async def test_a_task_that_is_asked_for_twice_fails_once(around: Around, desk: Desk) -> None:
    """The error reaches both."""
    ann = await around.peer(ANN)
    ann.run = fails(InvalidInput("input 'x' is missing"))
    both = await asyncio.gather(desk.submit(), desk.submit(), return_exceptions=True)
    assert ["invalid_input"] * 2 == [getattr(error, "code", error) for error in both]
    assert 1 == len(ann.ran)


async def test_who_asked_second_is_answered_when_the_first_leaves(around: Around, desk: Desk) -> None:
    """A client comes back on a new connection before the old one is seen to be broken: it still gets its answer."""
    ann = await around.peer(ANN)
    gate = await gated(ann)
    first = asyncio.ensure_future(desk.submit())
    await until(lambda: ann.ran, "it runs")
    others = [asyncio.ensure_future(desk.submit()) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    replies = await asyncio.wait_for(asyncio.gather(*others), 20)
    assert [b"abc", b"abc"] == [b"".join(reply.body) for reply in replies]
    with pytest.raises(asyncio.CancelledError):
        await first
    assert 0 == desk.dispatcher.open


async def test_who_asked_second_may_leave_too(around: Around, desk: Desk) -> None:
    """Its leaving is its own: the first is still answered."""
    ann = await around.peer(ANN)
    gate = await gated(ann)
    first, second = asyncio.ensure_future(desk.submit()), asyncio.ensure_future(desk.submit())
    await until(lambda: ann.ran, "it runs")
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.set()
    assert b"abc" == b"".join((await first).body)


# --- limits ---


async def test_an_agent_that_stops_takes_no_new_task(around: Around, desk: Desk) -> None:
    """It says when to come again, and finishes what is open."""
    ann = await around.peer(ANN)
    gate = await gated(ann)
    waiting = asyncio.ensure_future(desk.submit())
    await until(lambda: ann.ran, "it runs")
    desk.dispatcher.draining = True
    with pytest.raises(Refused, match="stopping") as caught:
        await desk.submit(task="2" * 32)
    assert caught.value.retry_after_s is not None
    gate.set()
    assert b"abc" == b"".join((await waiting).body)


async def test_more_open_tasks_than_allowed_are_refused(around: Around) -> None:
    """The error names the limit; a place that is free again can be had."""
    around.no_workers.add(ME)
    desk = Desk(around, replace(SETTINGS, tasks=replace(SETTINGS.tasks, open_max=1)))
    ann = await around.peer(ANN)
    gate = await gated(ann)
    waiting = asyncio.ensure_future(desk.submit())
    await until(lambda: ann.ran, "it runs")
    with pytest.raises(Refused, match="1 tasks are open"):
        await desk.submit(task="2" * 32)
    gate.set()
    await waiting
    await desk.submit(task="2" * 32)


async def test_many_tasks_at_once_get_each_their_own_answer(around: Around, desk: Desk) -> None:
    """Two hundred over two peers, one of which dies in the middle: none is lost, none is mixed up."""
    ann, bob = await around.peer(ANN), await around.peer(BOB)

    async def run(message: Infer, body: memoryview) -> Reply:
        if len(ann.ran) > 40 and ann.link is not None:
            ann.link.abort("power cut")
            around.members[ANN] = replace(around.members[ANN], state="dead", usable=False)
        await asyncio.sleep(0)
        return inferred(ANN, bytes.fromhex(message.task))

    async def steady(message: Infer, body: memoryview) -> Reply:
        await asyncio.sleep(0)
        return inferred(BOB, bytes.fromhex(message.task))

    ann.run, bob.run = run, steady
    tasks = [f"{number:032x}" for number in range(200)]
    replies = await asyncio.gather(*(desk.submit(task=task) for task in tasks))
    assert tasks == [b"".join(reply.body).hex() for reply in replies]
    assert (200, 200, 0) == desk.counts()[:3]
    assert Cancelled.code not in {outcome for reply in replies for _, outcome in outcomes(told(reply).attempts)}
