"""One task on its way to an answer: chooses, sends, asks again, and waits, as its `Lifecycle` says.

As long as one thing happens after the other, each step is awaited right here; a task of its own costs as much as a
small model. Only when two are under way, a second copy or a node that may come back, they run beside each other and
report to one inbox.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from meshnode.catalog.manifest import Manifest
from meshnode.errors import Attempt, MeshError, NoCapacity, PeerLost, ProtocolError, Refused, ResultLost
from meshnode.links.link import Link, Received, Reply
from meshnode.links.side import lost
from meshnode.tasks.budget import Budget
from meshnode.tasks.checksum import checksum
from meshnode.tasks.choosing import Chooser
from meshnode.tasks.lateness import Lateness
from meshnode.tasks.lifecycle import Lifecycle
from meshnode.tasks.moves import (
    Abandon,
    Answer,
    Begin,
    Chosen,
    Event,
    Fail,
    Failed,
    Recall,
    Replied,
    Route,
    Send,
    Unroutable,
)
from meshnode.tasks.spans import Span, Spans
from meshnode.tasks.wanted import Wanted
from meshnode.wire.messages import Infer, Inferred, NodeId, ResultAsk, Stage, Submit
from meshnode.wire.tensors import ALIGN, DTYPES, STRING, Buffer, layout

RunHere = Callable[[Infer, memoryview, NodeId], Awaitable[Reply]]
"""Run an attempt on this node, as for a peer: the message, its body and who submits it."""
LOOK_S = 0.05
"""Between two looks whether a node that fell silent is there again."""


class Outcome(Struct, frozen=True):
    """What an attempt brought: the executing node's message, the tensors' bytes, and how long it was to take."""

    message: Inferred
    body: tuple[Buffer, ...]
    quoted_s: float | None = None


@dataclass(slots=True)
class Counters:
    """What happened to tasks since the start."""

    submitted: int = 0
    answered: int = 0
    failed: int = 0
    rerouted: int = 0
    recalled: int = 0
    """Results that were fetched over a new link."""
    hedged: int = 0
    late: int = 0
    """Results that came when nobody waited for them any more."""
    verified: int = 0
    disputed: int = 0
    """Tasks on whose result two nodes did not agree."""


@dataclass(slots=True)
class Means:
    """What all tasks of an agent share.

    Args:
        self_id: this node.
        chooser: picks the node of an attempt.
        link: the connection to a peer, dialled when there is none; raises PeerLost.
        run_here: this node's own execution.
        failed: told about each peer that failed an attempt.
        now: the monotonic clock.
    """

    self_id: NodeId
    chooser: Chooser
    link: Callable[[NodeId], Awaitable[Link]]
    run_here: RunHere
    failed: Callable[[NodeId, MeshError], None]
    now: Callable[[], float] = time.monotonic
    counters: Counters = field(default_factory=Counters)
    budget: Budget = field(default_factory=Budget)
    lateness: Lateness = field(default_factory=Lateness)
    spans: Spans | None = None
    """Who traces tasks, or nobody."""


class Pursuit:
    """See the module's docstring."""

    def __init__(self, means: Means, life: Lifecycle, wanted: Wanted, request: Submit, body: memoryview) -> None:
        self._means = means
        self._life = life
        self._wanted = wanted
        self._request = request
        self._body = body
        self._quoted_s: float | None = None
        self._max_wait_s: float | None = None
        self._sent: dict[int, tuple[float, float | None, int]] = {}
        """Of each attempt: when it was sent, what was quoted, and the start counter of its node."""
        self._beside: set[asyncio.Task[Event]] = set()
        self._inbox: asyncio.Queue[Event | BaseException] = asyncio.Queue()

    async def run(self) -> tuple[Outcome, tuple[Attempt, ...]]:
        """Feed the core until it answers. Raises the error that it ends with."""
        life = self._life
        event: Event | None = Begin()
        try:
            while True:
                effects = life.handle(self._means.now(), event)
                step: Coroutine[Any, Any, Event] | None = None
                for effect in effects:
                    match effect:
                        case Route(exclude):
                            step = self._traced("route", self._choose(exclude))
                        case Send():
                            self._means.counters.rerouted += effect.attempt == 2
                            self._means.counters.hedged += life.copies == 2
                            step = self._traced_attempt(effect) if self._means.spans else self._attempt(effect)
                        case Answer(Outcome() as outcome, attempts):
                            return outcome, attempts
                        case Fail(error):
                            raise error
                        case Recall():
                            self._start(self._traced("recall", self._recall(effect), node=effect.node))
                        case Abandon():
                            self._stop()
                        case _:
                            raise AssertionError(effect)
                alone = not self._beside and self._inbox.empty() and life.next_deadline() == life.deadline
                if step is not None and alone:
                    event = await self._within(step)
                    continue
                if step is not None:
                    self._start(step)
                event = await self._next()
        finally:
            self._means.counters.late += life.late
            self._means.chooser.ended(self._wanted)
            self._stop()

    async def _within(self, step: Awaitable[Event]) -> Event | None:
        """Await a step until the task's deadline; None when the time was up."""
        bound = asyncio.timeout(max(0.0, self._life.deadline - self._means.now()))
        try:
            async with bound:
                return await step
        except TimeoutError:
            if not bound.expired():
                raise
            return None

    # --- beside each other ---

    def _start(self, step: Coroutine[Any, Any, Event]) -> None:
        task = asyncio.get_running_loop().create_task(step)
        self._beside.add(task)
        task.add_done_callback(self._report)

    def _report(self, task: asyncio.Task[Event]) -> None:
        self._beside.discard(task)
        if not task.cancelled():
            self._inbox.put_nowait(task.exception() or task.result())

    async def _next(self) -> Event | None:
        due = self._life.next_deadline()
        bound = asyncio.timeout(None if due is None else max(0.0, due - self._means.now()))
        try:
            async with bound:
                event = await self._inbox.get()
        except TimeoutError:
            return None
        if isinstance(event, BaseException):
            raise event  # a fault of ours: it ends the task where that is waited for
        return event

    def _stop(self) -> None:
        for task in self._beside:
            task.cancel()

    # --- told to who traces ---

    def _traced(self, name: str, step: Coroutine[Any, Any, Event], **facts: str | int) -> Coroutine[Any, Any, Event]:
        """The step as it is, or inside a span."""
        spans = self._means.spans
        span = None if spans is None else spans.begin(name, self._request.trace, **facts)
        return step if span is None else _inside(span, step)

    def _traced_attempt(self, send: Send) -> Coroutine[Any, Any, Event]:
        """What the other node does is inside of this."""
        assert self._means.spans is not None
        span = self._means.spans.begin("attempt", self._request.trace, node=send.node, number=send.number)
        return self._attempt(send) if span is None else _inside(span, self._attempt(send, span.context))

    # --- steps ---

    async def _choose(self, exclude: frozenset[NodeId]) -> Event:
        means, hedge = self._means, self._request.hedge and not self._request.then
        try:
            choice = await means.chooser.choose(self._wanted, exclude, self._life.deadline - self._means.now())
        except MeshError as error:
            return Unroutable(error, final=not isinstance(error, NoCapacity))
        self._quoted_s, self._max_wait_s = choice.quoted_s, choice.max_wait_s
        late_s = None
        if hedge and choice.quoted_s is not None:
            late_s = means.lateness.late_s(self._wanted.manifest.digest, choice.quoted_s)
        return Chosen(choice.node, choice.name, late_s)

    async def _attempt(self, send: Send, trace: str | None = None) -> Event:
        means, request = self._means, self._request
        message = Infer(
            task=request.task,
            attempt=send.number,
            model=self._wanted.manifest.digest,
            deadline_s=send.remaining_s,
            inputs=request.inputs,
            priority=request.priority,
            zone=self._wanted.zone,
            outputs=request.outputs,
            deaths=send.deaths,
            provider=self._wanted.provider,
            once=request.once,
            max_wait_s=self._max_wait_s,
            then=request.then,
            stage=self._wanted.stage,
            objective=request.objective if request.then else "tail",
            trace=request.trace if trace is None else trace,
        )
        began, quoted_s = self._means.now(), self._quoted_s
        self._sent[send.attempt] = (began, quoted_s, 0)
        try:
            if send.node == means.self_id:
                reply = await means.run_here(message, self._body, self._wanted.on_behalf or means.self_id)
                outcome = Outcome(_inferred(reply.message), tuple(reply.body), quoted_s)
            else:
                link = await means.link(send.node)
                means.chooser.knowing.check_way(link, self._wanted)
                self._sent[send.attempt] = (began, quoted_s, link.peer.boot)
                received = await link.call(message, (self._body,), timeout_s=send.remaining_s)
                outcome = Outcome(_inferred(received.message), (received.body,), quoted_s)
            await self._check(outcome, send.node)
        except MeshError as error:
            if send.node != means.self_id and not isinstance(error, Refused):
                means.failed(send.node, error)
            means.chooser.failed(self._wanted, send.node, error)
            return Failed(send.attempt, error)
        self._succeeded(send.attempt, send.node, outcome)
        return Replied(send.attempt, outcome)

    async def _recall(self, recall: Recall) -> Event:
        """The attempt goes on over another link, or the node says that it cannot."""
        try:
            received = await self._ask_again(recall)
            outcome = Outcome(_inferred(received.message), (received.body,), self._sent[recall.attempt][1])
            await self._check(outcome, recall.node)
        except MeshError as error:
            return Failed(recall.attempt, error)
        self._means.counters.recalled += 1
        self._succeeded(recall.attempt, recall.node, outcome)
        return Replied(recall.attempt, outcome)

    async def _ask_again(self, recall: Recall) -> Received:
        end = self._means.now() + recall.within_s
        ask = ResultAsk(task=self._request.task, attempt=recall.number)
        while True:
            link = await self._reach(recall, end)
            self._means.chooser.knowing.check_way(link, self._wanted)
            if self._life.once and link.peer.boot != self._sent[recall.attempt][2]:
                raise ResultLost(f"{link.peer.name} was restarted with the task inside; nobody knows whether it ran")
            try:
                return await link.call(ask, timeout_s=max(0.0, self._life.deadline - self._means.now()))
            except PeerLost as error:
                if error.sent:
                    raise
                await asyncio.sleep(0)  # it was closed just now, as one of two: there is another

    async def _reach(self, recall: Recall, end: float) -> Link:
        """A link to a node whose own broke or fell silent. Raises PeerLost, unsent."""
        bound = asyncio.timeout(max(0.0, end - self._means.now()))
        try:
            async with bound:
                while True:
                    try:
                        link = await self._means.link(recall.node)
                        if not link.silent:
                            return link
                    except PeerLost as error:
                        if error.refused or not recall.patient:
                            raise
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            if not bound.expired():
                raise
            error_text = f"node {recall.node[:8]} was not reached again within {recall.within_s:.3g} s"
            raise lost(error_text, sent=False) from None

    def _succeeded(self, attempt: int, node: NodeId, outcome: Outcome) -> None:
        began, quoted_s, _ = self._sent[attempt]
        actual_s = max(0.0, self._means.now() - began - outcome.message.rest_s)
        self._means.chooser.succeeded(self._wanted, node, actual_s, outcome.message)
        if quoted_s is not None:
            self._means.lateness.learn(self._wanted.manifest.digest, quoted_s, actual_s)

    async def _check(self, outcome: Outcome, node: NodeId) -> None:
        """It must be of the model that was asked for, run as asked by the node that was asked, and whole."""
        message, wanted = outcome.message, self._wanted
        if message.model != wanted.manifest.digest or message.node != node:
            raise ProtocolError(f"node {node[:8]} answered for another model or node")
        if wanted.provider and message.provider != wanted.provider:
            raise ProtocolError(f"node {node[:8]} ran it on {message.provider}, and {wanted.provider} was asked for")
        _check_stages(message, self._request.then, node)
        if node == self._means.self_id:
            return
        _check_tensors(outcome, wanted.manifest, self._request, node)
        if await checksum(outcome.body) != message.checksum:
            raise ProtocolError(f"the result of node {node[:8]} does not match its checksum")


async def _inside(span: Span, step: Coroutine[Any, Any, Event]) -> Event:
    outcome = "cancelled"
    try:
        event = await step
        match event:
            case Chosen(node):
                outcome = "ok"
                span.tell(node=node)
            case Failed(_, error) | Unroutable(error):
                outcome = error.code
            case _:
                outcome = "ok"
        return event
    finally:
        span.end(outcome)


def _check_stages(message: Inferred, then: tuple[Stage, ...], node: NodeId) -> None:
    """Those that were run must be the first of those that were asked for."""
    if [done.model for done in message.stages] != [stage.model for stage in then[: len(message.stages)]]:
        raise ProtocolError(f"node {node[:8]} ran other stages than those that were asked for")


def _check_tensors(outcome: Outcome, manifest: Manifest, request: Submit, node: NodeId) -> None:
    """They must be whole, and those that were wanted: who waits for them has nobody else to ask any more."""
    message = outcome.message
    places, nbytes = layout(message.outputs), sum(map(len, outcome.body))
    end = places[-1][1] if places else 0
    if not end <= nbytes <= end + ALIGN:
        raise ProtocolError(f"node {node[:8]} says that its tensors take {end} bytes, and {nbytes} came")
    ran = request.then[: len(message.stages)]
    plain = {it.name: it.dtype for it in manifest.outputs if it.dtype in DTYPES or it.dtype == STRING}
    names = ran[-1].outputs if ran else request.outputs or tuple(plain)
    if names and (len(message.outputs) != len(set(names)) or {it.name for it in message.outputs} != set(names)):
        raise ProtocolError(f"node {node[:8]} answered with other outputs than those that were asked for")
    if not ran and any(plain.get(it.name, it.dtype) != it.dtype for it in message.outputs):
        raise ProtocolError(f"node {node[:8]} answered with another type of tensor than the model has")


def _inferred(message: object) -> Inferred:
    if not isinstance(message, Inferred):
        raise ProtocolError(f"a task was answered with {type(message).__name__}")
    return message
