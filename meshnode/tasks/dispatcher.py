"""Tasks that this agent answers for: from a client's submission to its one answer.

The shell around `meshnode.tasks.lifecycle`. It routes by `meshnode.tasks.choosing`, sends attempts over links or to
this node's own execution, and waits; what happens next is the core's decision. Running other agents' tasks is
`meshnode.tasks.serving`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from meshnode.catalog.manifest import Manifest
from meshnode.config import Settings
from meshnode.errors import Attempt, MeshError, NoCapacity, ProtocolError, Refused
from meshnode.links.link import Link, Reply
from meshnode.tasks.checksum import checksum
from meshnode.tasks.choosing import Chooser
from meshnode.tasks.lifecycle import (
    Abandon,
    Answer,
    Begin,
    Chosen,
    Event,
    Fail,
    Failed,
    Lifecycle,
    Replied,
    Route,
    Send,
    Unroutable,
)
from meshnode.tasks.wanted import Wanted
from meshnode.wire.messages import Infer, Inferred, NodeId, Submit, Submitted, TaskId
from meshnode.wire.rng import Rng

Buffer = bytes | bytearray | memoryview
RunHere = Callable[[Infer, memoryview, NodeId], Awaitable[Reply]]
"""Run an attempt on this node, as for a peer: the message, its body and who submits it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt brought: the executing node's message and the tensors' bytes."""

    message: Inferred
    body: tuple[Buffer, ...]


@dataclass(slots=True)
class Counters:
    """What happened to tasks since the start."""

    submitted: int = 0
    answered: int = 0
    failed: int = 0
    rerouted: int = 0
    late: int = 0


@dataclass(slots=True)
class Dispatcher:
    """Every open task of this agent's clients.

    Args:
        self_id: this node.
        resolve: a model's name to its manifest; raises ModelNotFound.
        chooser: picks the node of an attempt.
        link: the connection to a peer, dialled when there is none; raises PeerLost.
        run_here: this node's own execution.
        failed: told about each peer that failed an attempt.
        now: the monotonic clock.
    """

    self_id: NodeId
    settings: Settings
    rng: Rng
    resolve: Callable[[str], Manifest]
    chooser: Chooser
    link: Callable[[NodeId], Awaitable[Link]]
    run_here: RunHere
    failed: Callable[[NodeId, MeshError], None]
    now: Callable[[], float] = time.monotonic
    counters: Counters = field(default_factory=Counters)
    draining: bool = False
    _open: dict[TaskId, asyncio.Future[Reply]] = field(default_factory=dict)

    @property
    def open(self) -> int:
        """Tasks that have no answer yet."""
        return len(self._open)

    async def submit(self, request: Submit, body: memoryview) -> Reply:
        """The one answer of a task: a `Submitted` with its tensors, or a MeshError with every attempt in it.

        A task id that is already open gets the same answer; when whoever asked first leaves, the next takes it over.
        """
        task = TaskId(request.task)
        while (running := self._open.get(task)) is not None:
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if not running.cancelled() or (current is not None and current.cancelling()):
                    raise  # it is this caller that leaves
        if self.draining:
            raise Refused("this agent is stopping", retry_after_s=1.0)
        if len(self._open) >= self.settings.tasks.open_max:
            raise Refused(f"{len(self._open)} tasks are open at this agent, the limit", retry_after_s=0.1)
        wanted = Wanted.of(request, self.resolve(request.model))
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._open[task] = answer
        self.counters.submitted += 1
        try:
            reply = await self._live(wanted, request, body)
        except BaseException as error:
            self.counters.failed += isinstance(error, MeshError)
            if isinstance(error, MeshError):
                answer.set_exception(error)
                answer.exception()  # whoever attached reads it; nobody has to
            else:
                answer.cancel()
            raise
        finally:
            del self._open[task]
        self.counters.answered += 1
        answer.set_result(reply)
        return reply

    async def _live(self, wanted: Wanted, request: Submit, body: memoryview) -> Reply:
        """Feed the core until it answers."""
        started = self.now()
        life = Lifecycle(
            deadline=started + request.deadline_s,
            attempts_max=self.settings.routing.attempts_max,
            backoff_s=self.settings.tasks.backoff_s,
            jitter=self.rng.random,
        )
        event: Event | None = Begin()
        while True:
            effects = life.handle(self.now(), event)
            event = None
            if not effects:
                await asyncio.sleep(max(0.0, (life.next_deadline() or 0.0) - self.now()))
            for effect in effects:
                match effect:
                    case Route(exclude):
                        event = await self._within(life, self._choose(wanted, exclude, life.deadline))
                    case Send():
                        self.counters.rerouted += effect.attempt == 2
                        event = await self._within(life, self._attempt(wanted, effect, request, body))
                    case Answer(Outcome() as outcome, attempts):
                        return _submitted(outcome, attempts, self.now() - started)
                    case Fail(error):
                        self.counters.late += life.late
                        raise error
                    case Abandon():
                        pass  # `_within` has already cancelled what was awaited
                    case _:
                        raise AssertionError(effect)

    async def _within(self, life: Lifecycle, step: Awaitable[Event]) -> Event | None:
        """Await a step until the task's deadline; None when the time was up."""
        bound = asyncio.timeout(max(0.0, life.deadline - self.now()))
        try:
            async with bound:
                return await step
        except TimeoutError:
            if not bound.expired():
                raise
            return None

    async def _choose(self, wanted: Wanted, exclude: frozenset[NodeId], deadline: float) -> Event:
        try:
            choice = await self.chooser.choose(wanted, exclude, deadline - self.now())
        except MeshError as error:
            return Unroutable(error, final=not isinstance(error, NoCapacity))
        return Chosen(choice.node, choice.name)

    async def _attempt(self, wanted: Wanted, send: Send, request: Submit, body: memoryview) -> Event:
        message = Infer(
            task=request.task,
            attempt=send.number,
            model=wanted.manifest.digest,
            deadline_s=send.remaining_s,
            inputs=request.inputs,
            priority=request.priority,
            zone=request.zone,
            outputs=request.outputs,
            deaths=send.deaths,
        )
        began = self.now()
        try:
            if send.node == self.self_id:
                reply = await self.run_here(message, body, self.self_id)
                outcome = Outcome(_inferred(reply.message), tuple(reply.body))
            else:
                link = await self.link(send.node)
                received = await link.call(message, (body,), timeout_s=send.remaining_s)
                outcome = Outcome(_inferred(received.message), (received.body,))
            await self._check(outcome, wanted, send.node)
        except MeshError as error:
            if send.node != self.self_id and not isinstance(error, Refused):
                self.failed(send.node, error)
            self.chooser.failed(wanted, send.node, error)
            return Failed(send.attempt, error)
        self.chooser.succeeded(wanted, send.node, self.now() - began, outcome.message)
        return Replied(send.attempt, outcome)

    async def _check(self, outcome: Outcome, wanted: Wanted, node: NodeId) -> None:
        """A peer's answer must be of the model that was asked for, from the node that was asked, and whole."""
        message = outcome.message
        if message.model != wanted.manifest.digest or message.node != node:
            raise ProtocolError(f"node {node[:8]} answered for another model or node")
        if node != self.self_id and await checksum(outcome.body) != message.checksum:
            raise ProtocolError(f"the result of node {node[:8]} does not match its checksum")


def _inferred(message: object) -> Inferred:
    if not isinstance(message, Inferred):
        raise ProtocolError(f"a task was answered with {type(message).__name__}")
    return message


def _submitted(outcome: Outcome, attempts: tuple[Attempt, ...], seconds: float) -> Reply:
    message = outcome.message
    rows = tuple((a.node, a.name, a.outcome, a.seconds, a.detail) for a in attempts)
    return Reply(
        Submitted(
            outputs=message.outputs,
            model=message.model,
            node=message.node,
            name=rows[-1][1],
            seconds=seconds,
            queue_s=message.queue_s,
            run_s=message.run_s,
            provider=message.provider,
            attempts=rows,
        ),
        outcome.body,
    )
