"""Tasks that this agent answers for: from a client's submission to its one answer.

A task's way to a result is `meshnode.tasks.pursuit`; here tasks are opened, shared by those who ask for the same one,
compared when their client wants that, and counted. Running other agents' tasks is `meshnode.tasks.serving`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import structs

from meshnode.catalog.manifest import Manifest
from meshnode.config import Settings
from meshnode.errors import Attempt, MeshError, Refused
from meshnode.links.link import Received, Reply
from meshnode.tasks.agreement import agree
from meshnode.tasks.binding import bind
from meshnode.tasks.checksum import checksum
from meshnode.tasks.choosing import Chooser
from meshnode.tasks.current import TASK
from meshnode.tasks.outcomes import Ended
from meshnode.tasks.permits import Permits
from meshnode.tasks.pursuit import Counters, Means, Outcome
from meshnode.tasks.recent import Recent
from meshnode.tasks.spans import Span
from meshnode.tasks.stages import Answered, Brought, Stages
from meshnode.tasks.wanted import Wanted
from meshnode.wire.messages import Inferred, NodeId, Plan, Submit, Submitted, TaskId
from meshnode.wire.rng import Rng

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Dispatcher:
    """Every open task of this agent's clients.

    Args:
        means: what all tasks share.
        stages: runs one task, or those of a pipeline.
        resolve: a model's name to its manifest; raises ModelNotFound.
        ended: hears how each task ended.
        permits: what the policy says.
        set_aside: told about a peer whose result two others did not agree with, and the evidence.
    """

    means: Means
    stages: Stages
    settings: Settings
    rng: Rng
    resolve: Callable[[str], Manifest]
    set_aside: Callable[[NodeId, str], None]
    ended: Callable[[Ended], None] = lambda _: None
    permits: Permits = field(default_factory=Permits)
    draining: bool = False
    recent: Recent = field(default_factory=Recent)
    _open: dict[TaskId, asyncio.Future[Reply]] = field(default_factory=dict)

    @property
    def counters(self) -> Counters:
        """What happened to tasks since the start."""
        return self.means.counters

    @property
    def chooser(self) -> Chooser:
        """Picks the node of an attempt."""
        return self.means.chooser

    @property
    def open(self) -> int:
        """Tasks that have no answer yet."""
        return len(self._open)

    def wanted(self, request: Submit | Plan, manifest: Manifest) -> Wanted:
        """A client's request, with the zone of the policy where it names none."""
        then = request.then if isinstance(request, Submit) else ()
        return Wanted.of(request, manifest, self.permits.default_zone(), self.stages.beyond(then))

    def came_late(self, received: Received) -> None:
        """An answer that nobody waits for any more; of a task, when another attempt was faster or its time was up."""
        self.counters.late += isinstance(received.message, Inferred)

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
        manifest = self._permitted(request.model)
        if request.then:
            request = bind(request, manifest, self._permitted, lambda node: self.chooser.find(node).id)
        wanted = self.wanted(request, manifest)
        if request.zone != wanted.zone:
            request = structs.replace(request, zone=wanted.zone)  # it is that of all stages
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._open[task] = answer
        self.counters.submitted += 1
        began, span, before = self.means.now(), None, TASK.set(task)
        if self.means.spans is not None:
            span = self.means.spans.submitted(request.trace, task, manifest.name)
            request = structs.replace(request, trace=span.context)
        try:
            reply = await self._live(wanted, request, body)
        except BaseException as error:
            self._ended(wanted, began, error, span)
            if isinstance(error, MeshError):
                self.counters.failed += 1
                log.info("%s failed: %s", manifest.name, error)
                self.recent.failed(self.means.now())
                answer.set_exception(error)
                answer.exception()  # whoever attached reads it; nobody has to
            else:
                answer.cancel()
            raise
        finally:
            del self._open[task]
            TASK.reset(before)
        self.counters.answered += 1
        assert isinstance(reply.message, Submitted)
        self.recent.answered(self.means.now(), NodeId(reply.message.node), reply.message.seconds)
        self._ended(wanted, began, reply.message, span)
        answer.set_result(reply)
        return reply

    def _permitted(self, name: str) -> Manifest:
        manifest = self.resolve(name)
        self.permits.own(manifest)
        return manifest

    def _ended(self, wanted: Wanted, began: float, how: Submitted | BaseException, span: Span | None) -> None:
        node, outcome, attempts, detail = None, "cancelled", 0, ""
        tried: tuple[Attempt, ...] = ()
        if isinstance(how, Submitted):
            node, outcome, attempts = NodeId(how.node), "ok", len(how.attempts)
            if attempts > 1:
                tried = tuple(Attempt(*row) for row in how.attempts)
        elif isinstance(how, MeshError):
            outcome, attempts, tried, detail = how.code, len(how.attempts), how.attempts, str(how)
        seconds = self.means.now() - began
        digest = wanted.manifest.digest
        task = TaskId(wanted.task)
        size = wanted.input_bytes
        self.ended(Ended(task, digest, wanted.zone, node, outcome, attempts, seconds, size, tried, detail))
        if span is not None:
            span.end(outcome, **{} if node is None else {"node": node}, attempts=attempts)

    async def _live(self, wanted: Wanted, request: Submit, body: memoryview) -> Reply:
        """The task's result, compared with that of other nodes when it is one of those to be compared."""
        started = self.means.now()
        deadline = started + request.deadline_s
        if request.then:
            brought = await self.stages.whole(wanted, request, body, deadline)
            return _all_submitted(brought, self.means.now() - started)
        answered = await self.stages.pursue(wanted, request, body, deadline)
        if request.verify and not request.once and self.rng.random() < request.verify:
            answered = await self._verified(wanted, request, body, deadline, answered)
        return _submitted(*answered, self.means.now() - started)

    async def _verified(
        self, wanted: Wanted, request: Submit, body: memoryview, deadline: float, first: Answered
    ) -> Answered:
        """The same task on a second node; where the two do not agree, a third decides.

        The client gets what two nodes agree on, and the first result when there is no other node to ask.
        """
        results = [first]
        while len(results) < 3:
            avoid = frozenset(NodeId(outcome.message.node) for outcome, _ in results)
            try:
                results.append(await self.stages.pursue(wanted, request, body, deadline, avoid))
            except MeshError as error:
                log.info("the result of task %s was compared with %d: %s", request.task, len(results) - 1, error)
                break
            newest = results[-1][0]
            agreed = None
            for it in results[:-1]:
                if await agree(it[0], newest):
                    agreed = it
                    break
            if len(results) == 2:
                self.counters.verified += 1
                self.counters.disputed += agreed is None
            if agreed is not None:
                await self._judge(
                    request, wanted, [it for it, _ in results if it is not agreed[0] and it is not newest]
                )
                return agreed[0], _all_attempts(results, agreed)
        if len(results) > 1:
            nodes = ", ".join(outcome.message.node[:8] for outcome, _ in results)
            log.warning("task %s: no two of the nodes %s agree on its result", request.task, nodes)
        return first[0], _all_attempts(results, first)

    async def _judge(self, request: Submit, wanted: Wanted, odd: list[Outcome]) -> None:
        for outcome in odd:
            message = outcome.message
            self.set_aside(
                NodeId(message.node),
                f"its result of task {request.task} ({wanted.manifest.name}, {message.provider}, CRC-32 "
                f"{await checksum(outcome.body):08x}) is not what two other nodes agree on",
            )


def _all_attempts(results: list[Answered], chosen: Answered) -> tuple[Attempt, ...]:
    """Of all comparisons; those of the result that is given come last."""
    others = [attempt for it in results if it is not chosen for attempt in it[1]]
    return (*others, *chosen[1])


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
            precision=message.precision,
            batch=message.batch,
            quoted_s=outcome.quoted_s,
        ),
        outcome.body,
    )


def _all_submitted(brought: Brought, seconds: float) -> Reply:
    """The answer of a pipeline: what is said of one node is of the last one's."""
    last = brought.done[-1]
    return Reply(
        Submitted(
            outputs=brought.specs,
            model=last.model,
            node=last.node,
            name=last.name,
            seconds=seconds,
            queue_s=last.queue_s,
            run_s=last.run_s,
            provider=last.provider,
            attempts=tuple(row for stage in brought.done for row in stage.attempts),
            precision=last.precision,
            batch=last.batch,
            stages=brought.done,
        ),
        brought.body,
    )
