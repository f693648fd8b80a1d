"""Tasks of other agents: what a peer may ask of this node's execution, and the answers.

A peer's request is checked against its signed grant and against the zone before anything else happens; the submitter
has checked both already, and is not believed. A model that is missing is fetched first, within the task's deadline.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import structs

from meshnode.catalog.manifest import Manifest
from meshnode.errors import MeshError, NoNodeInZone, PermissionDenied, Refused
from meshnode.execution.job import Job, ModelFile
from meshnode.execution.supervisor import Execution
from meshnode.links.link import Reply
from meshnode.tasks.checksum import checksum
from meshnode.tasks.current import TASK
from meshnode.tasks.habits import Habits
from meshnode.tasks.outcomes import Served
from meshnode.tasks.permits import Permits
from meshnode.tasks.quotas import Quotas, Ticket
from meshnode.tasks.runs import Lost, Runs
from meshnode.tasks.spans import Spans
from meshnode.tasks.tallies import Tallies
from meshnode.tasks.warming import Warming
from meshnode.trust.zones import in_zone
from meshnode.wire.messages import Digest, Infer, Inferred, NodeId, QuoteAsk, ResultAsk, TaskId

log = logging.getLogger(__name__)

HOLD_MIN_S = 0.002

Onward = Callable[[Infer, Reply, NodeId, float, bool], Awaitable[Reply]]
"""The rest of a pipeline, of which this node ran one stage: the message, what it brought, whose it is, the deadline,
and whether it must stay here."""

RolesOf = Callable[[NodeId], frozenset[str]]
"""The roles of a member's grant; empty for a node that is not one, or no longer."""


@dataclass(slots=True)
class Serving:
    """This node as others see it.

    Args:
        zone: this node's own zone, as granted now.
        hold_s: the longest that a quoted place is kept.
        manifest: of a digest; raises ModelNotFound when no such model is in the mesh.
        on_disk: whether the digest is in the store.
        needs: bytes of memory that a model in the store takes at least.
        ensure: the path of a model in the store, fetched when it is missing.
        willing: why this node takes no foreign work now, or "".
        onward: goes on with a pipeline.
        warming: hears what is asked of models that are in memory here.
        served: hears how each task ended here.
        permits: what the policy says.
        now: the monotonic clock.
    """

    self_id: NodeId
    zone: Callable[[], str]
    hold_s: float
    execution: Execution
    roles_of: RolesOf
    manifest: Callable[[Digest], Manifest]
    on_disk: Callable[[Digest], bool]
    needs: Callable[[Digest], int]
    ensure: Callable[[Manifest], Awaitable[Path]]
    willing: Callable[[], str]
    warming: Warming
    onward: Onward
    served: Callable[[Served], None] = lambda _: None
    permits: Permits = field(default_factory=Permits)
    now: Callable[[], float] = time.monotonic
    spans: Spans | None = None
    """Who traces tasks, or nobody."""
    quotas: Quotas = field(default_factory=Quotas)
    asked: int = 0
    """Quotes that other nodes asked for…"""
    quoted: int = 0
    """…and those that they got."""
    _habits: Habits = field(default_factory=Habits)
    tallies: Tallies = field(default_factory=Tallies)
    runs: Runs = field(init=False)
    """Of other nodes' tasks."""

    def __post_init__(self) -> None:
        self.runs = Runs(self._staged, self.now)

    def quote(self, ask: QuoteAsk, submitter: NodeId, rtt_s: float | None = None, *, own_choice: bool = False) -> Reply:
        """How soon this node could finish the task; a place is kept for two round trips to the submitter.

        `own_choice`: it is this node that asks, to go on with a pipeline of the submitter.

        Raises Refused, PermissionDenied, NoNodeInZone, ModelNotFound.
        """
        foreign = submitter != self.self_id
        self.asked += foreign
        manifest = self._admit(submitter, ask.zone, Digest(ask.model))
        self.warming.asked(manifest.digest, ask.warm)
        if foreign:
            permits, slots = self.permits, self.execution.slots
            self.quotas.check(self.now(), submitter, manifest.digest, permits.quota(), slots)
        hold_s = self.hold_s if rtt_s is None else min(self.hold_s, max(2 * rtt_s, HOLD_MIN_S))
        if foreign and not own_choice and not self._habits.asked(submitter):
            hold_s = 0.0
        missing = not self.on_disk(manifest.digest)
        quote = self.execution.quote(
            ask,
            fetch_bytes=manifest.size if missing else 0,
            size_bytes=max(manifest.size, self.needs(manifest.digest)),
            hold_s=hold_s,
            foreign=foreign,
        )
        self.quoted += foreign
        return Reply(quote, ())

    async def infer_for(self, message: Infer, body: memoryview, submitter: NodeId, lost: Lost) -> Reply:
        """What `infer` does, for another node: once, however often it asks. Raises what `infer` raises."""
        self._check_may_submit(submitter)
        return await self.runs.infer(message, body, submitter, lost)

    async def infer_here(self, message: Infer, body: memoryview, submitter: NodeId) -> Reply:
        """What `infer` does, for this node's own tasks; one that another node gave before is not run again."""
        if self.runs.knows(TaskId(message.task)):
            return await self.runs.infer(message, body, submitter, lambda: False)
        return await self._staged(message, body, submitter)

    async def result(self, ask: ResultAsk, submitter: NodeId, lost: Lost) -> Reply:
        """The answer of another node's task again. Raises what ended it, UnknownTask, ResultLost."""
        self._check_may_submit(submitter)
        return await self.runs.result(ask, submitter, lost)

    def hand_back(self, why: str) -> int:
        """Refuse others' tasks that wait here and have not begun, so that they go elsewhere; how many."""
        refusal = Refused(f"this node takes no foreign work: {why}", retry_after_s=1.0)
        return self.execution.hand_back(refusal)

    async def _staged(self, message: Infer, body: memoryview, submitter: NodeId) -> Reply:
        """What `infer` does, and the rest of a pipeline after it, as far as it can be run from here."""
        deadline = self.now() + message.deadline_s
        reply = await self.infer(message, body, submitter)
        if not message.then:
            return reply
        own = submitter == self.self_id
        if own or not self.willing():
            stay = not own and not self._may_pass_on()
            if not stay or self.on_disk(Digest(message.then[0].model)):
                reply = await self.onward(message, reply, submitter, deadline, stay)
        assert isinstance(reply.message, Inferred)
        check = 0 if own else await checksum(tuple(reply.body))
        return Reply(structs.replace(reply.message, checksum=check), reply.body)

    async def infer(self, message: Infer, body: memoryview, submitter: NodeId) -> Reply:
        """Run the task here and answer with its tensors; its end is noted, whichever it is. Raises as `_infer`."""
        began, outcome, run_s, output_bytes, detail = self.now(), "cancelled", 0.0, 0, ""
        done: Inferred | None = None
        before = TASK.set(message.task)
        ticket: Ticket | None = None
        compute_s: float | None = None
        try:
            manifest = self._admit(submitter, message.zone, Digest(message.model))
            if submitter != self.self_id:
                quota, slots = self.permits.quota(), self.execution.slots
                ticket = self.quotas.enter(began, submitter, manifest.digest, quota, slots, len(body))
            reply = await self._infer(message, body, submitter, manifest)
            assert isinstance(reply.message, Inferred)
            done, outcome, run_s = reply.message, "ok", reply.message.run_s
            compute_s = run_s / max(1, reply.message.batch)
            output_bytes = sum(len(part) for part in reply.body)
            return reply
        except MeshError as error:
            outcome, detail = error.code, str(error)
            log.debug("not run for %s: %s", submitter[:8], error)
            raise
        finally:
            if ticket is not None:
                self.quotas.left(ticket, compute_s)
            task, model = TaskId(message.task), Digest(message.model)
            took_s = self.now() - began
            size = len(body)
            it = Served(task, model, submitter, message.zone, outcome, took_s, run_s, size, output_bytes, detail)
            self.tallies.note(it)
            self.served(it)
            if self.spans is not None and message.trace:
                self.spans.served(message.trace, it, done)
            TASK.reset(before)

    async def _infer(self, message: Infer, body: memoryview, submitter: NodeId, manifest: Manifest) -> Reply:
        """Raises what `quote` raises, and InvalidInput, ExecutionFailed, WorkerCrashed, DeadlineExceeded, ModelRefused,
        OutOfMemory, TransferFailed.
        """
        deadline = self.now() + message.deadline_s
        if submitter == self.self_id or message.max_wait_s is not None:
            self.warming.came(manifest.digest)
        else:
            self._habits.took(submitter)
        path = await self.ensure(manifest)
        if submitter != self.self_id:
            self._check_willing()  # the fetch may have taken a while
        ran = await self.execution.run(
            Job(
                task=TaskId(message.task),
                model=self._file(manifest.digest, path),
                inputs=message.inputs,
                body=body,
                outputs=message.outputs,
                deadline=deadline,
                priority=message.priority,
                foreign=submitter != self.self_id,
                deaths=message.deaths,
                max_wait_s=message.max_wait_s,
                provider=message.provider,
                once=message.once,
            )
        )
        return Reply(
            Inferred(
                outputs=ran.specs,
                model=manifest.digest,
                node=self.self_id,
                queue_s=ran.queue_s,
                run_s=ran.run_s,
                checksum=0 if submitter == self.self_id or message.then else await checksum((ran.body,)),
                provider=ran.provider,
                precision=ran.precision,
                batch=ran.batch,
                backlog_s=ran.backlog_s,
            ),
            (ran.body,),
        )

    async def warm(self, digest: Digest, asker: NodeId) -> None:
        """Have a model in memory, because those that have it cannot do what is asked of them.

        Raises PermissionDenied, Refused, ModelNotFound, TransferFailed, ModelRefused, OutOfMemory, WorkerCrashed.
        """
        if not self.roles_of(asker) & {"worker", "submitter"}:
            raise PermissionDenied(f"node {asker[:8]} neither works nor submits tasks in this mesh")
        self._check_willing()
        manifest = self.manifest(digest)
        self._check_zone("the model", manifest.bound)
        self.permits.model(manifest)
        if all(it.digest != digest for it in self.execution.loaded()):
            await self.execution.load(self._file(digest, await self.ensure(manifest)))

    def _file(self, digest: Digest, path: Path) -> ModelFile:
        return ModelFile(digest, path, self.needs(digest))

    def _admit(self, submitter: NodeId, zone: str | None, digest: Digest) -> Manifest:
        if submitter != self.self_id:
            self._check_may_submit(submitter)
            self._check_willing()
        zone = self.permits.mesh_zone() or None if zone is None else zone
        self._check_zone("the task", () if zone is None else (zone,))
        manifest = self.manifest(digest)
        self.permits.model(manifest)
        self._check_zone("the model", manifest.bound)
        return manifest

    def _check_zone(self, what: str, bounds: tuple[str, ...]) -> None:
        here = self.zone() if bounds else ""
        for zone in bounds:
            if not in_zone(here, zone):
                lies = f"in zone {here!r}" if here else "in no zone"
                raise NoNodeInZone(
                    f"{what} is for zone {zone!r}, and the node that was asked is {lies}",
                    hint="`meshnode members` shows the zones; an admin gives one by `invite --zone` or `meshnode zone`",
                )

    def _check_may_submit(self, node: NodeId) -> None:
        if "submitter" not in self.roles_of(node):
            raise PermissionDenied(
                f"node {node[:8]} may not submit tasks in this mesh",
                hint="an admin invites it again with `--role submitter`",
            )
        self.permits.submitter(node)

    def _may_pass_on(self) -> bool:
        """Whether others would take the rest of a pipeline from this node."""
        try:
            self._check_may_submit(self.self_id)
        except PermissionDenied:
            return False
        return True

    def _check_willing(self) -> None:
        if reason := self.willing():
            raise Refused(f"this node takes no foreign work: {reason}", retry_after_s=1.0)
