"""The stages of a pipeline, one after the other: whoever ran one goes on with the rest, from where its tensors are.

The node that ran a stage submits the next as any task: its own quote needs no transfer, so that staying is chosen when
that is cheaper, and else the tensors go to the next node directly. A stage that fails is tried again from here, where
its inputs still are. What nobody takes goes back to the node that sent the stage, which goes on from there: it may see
other nodes, or be allowed more. So does what an older version answers, which knows no stages. A pipeline is tasks
within tasks: deadlines, zones, cancelling and the one answer are those of tasks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from msgspec import structs

from meshnode.catalog.manifest import Manifest
from meshnode.config import Settings
from meshnode.errors import (
    BY_CODE,
    Attempt,
    MeshError,
    ModelNotFound,
    NoCapacity,
    NoNodeInZone,
    PermissionDenied,
    ProtocolError,
)
from meshnode.links.link import Reply
from meshnode.tasks.lifecycle import Lifecycle
from meshnode.tasks.permits import Permits
from meshnode.tasks.pursuit import Means, Outcome, Pursuit
from meshnode.tasks.wanted import Wanted
from meshnode.wire import tensors
from meshnode.wire.messages import Digest, Infer, Inferred, NodeId, Stage, StageDone, Submit, TensorSpec
from meshnode.wire.rng import Rng
from meshnode.wire.tensors import Buffer

log = logging.getLogger(__name__)

Answered = tuple[Outcome, tuple[Attempt, ...]]
UNBEGUN = frozenset(code for code, error in BY_CODE.items() if error.untouched or issubclass(error, NoCapacity))
SHARED_DIGITS = 22
"""So many of a task's id its stages share, so that the records of all nodes can be put together."""


@dataclass(frozen=True, slots=True)
class Brought:
    """How far it is: what the last stage brought, the stages that were run, from number `first` on, and the others."""

    specs: tuple[TensorSpec, ...]
    body: tuple[Buffer, ...]
    then: tuple[Stage, ...]
    done: tuple[StageDone, ...] = ()
    first: int = 0

    @property
    def next(self) -> int:
        """The number of the stage that comes next."""
        return self.first + len(self.done)

    def after(self, outcome: Outcome, attempts: tuple[Attempt, ...], seconds: float, input_bytes: int) -> Brought:
        """One stage further, or more."""
        message = outcome.message
        mine = done(message, attempts, seconds, input_bytes)
        then = self.then[1 + len(message.stages) :]
        return replace(
            self, specs=message.outputs, body=outcome.body, then=then, done=(*self.done, mine, *message.stages)
        )


@dataclass(slots=True)
class Stages:
    """See the module's docstring.

    Args:
        manifest: of a digest; raises ModelNotFound.
        bound: the zones that a model is bound to.
        permits: what the policy says.
    """

    means: Means
    settings: Settings
    rng: Rng
    manifest: Callable[[Digest], Manifest]
    bound: Callable[[Digest], tuple[str, ...]]
    permits: Permits = field(default_factory=Permits)
    _going: int = 0
    """Pipelines of others that go on from here."""

    def beyond(self, then: Iterable[Stage]) -> tuple[str, ...]:
        """The zones that the models of these stages are bound to."""
        return tuple(dict.fromkeys(zone for stage in then for zone in self.bound(Digest(stage.model))))

    async def pursue(
        self,
        wanted: Wanted,
        request: Submit,
        body: memoryview,
        deadline: float,
        avoid: frozenset[NodeId] = frozenset(),
    ) -> Answered:
        """One result of one stage; of a node that is none of `avoid`, without a wait for one, when there are any."""
        life = Lifecycle(
            deadline=deadline,
            attempts_max=self.settings.routing.attempts_max,
            backoff_s=self.settings.tasks.backoff_s,
            jitter=self.rng.random,
            budget=self.means.budget,
            once=request.once,
            avoid=avoid,
            pinned=wanted.node is not None,
            brief=bool(avoid),
            returns=wanted.on_behalf is not None,
            stage=wanted.stage,
        )
        return await Pursuit(self.means, life, wanted, request, body).run()

    async def whole(self, wanted: Wanted, request: Submit, body: memoryview, deadline: float) -> Brought:
        """All stages of a client's task. Raises what ended it, with its stage."""
        began = self.means.now()
        try:
            outcome, attempts = await self.pursue(wanted, request, body, deadline)
        except MeshError as error:
            at_stage(error, 0, len(request.then) + 1, wanted.manifest.name)
            raise
        seconds = max(0.0, self.means.now() - began - outcome.message.rest_s)
        mine = done(outcome.message, attempts, seconds, wanted.input_bytes)
        then = request.then[len(outcome.message.stages) :]
        at = Brought(outcome.message.outputs, outcome.body, then, (mine, *outcome.message.stages))
        return await self._rest(request, at, deadline, None)

    async def onward(self, message: Infer, reply: Reply, submitter: NodeId, deadline: float, *, stay: bool) -> Reply:
        """The rest of a pipeline of which this node ran one stage: the answer of all that could be run.

        `stay`: this node may run it and send it to nobody.
        """
        mine, began = reply.message, self.means.now()
        assert isinstance(mine, Inferred)
        at = Brought(mine.outputs, tuple(reply.body), message.then, first=message.stage + 1)
        request = Submit(
            task=message.task,
            model=message.model,
            inputs=(),
            deadline_s=message.deadline_s,
            priority=message.priority,
            zone=self.permits.mesh_zone() or None if message.zone is None else message.zone,
            objective=message.objective,
            exact=bool(message.provider),
            once=message.once,
            trace=message.trace,
        )
        own = submitter == self.means.self_id
        if own or self._going < self.settings.tasks.open_max:
            self._going += 1
            try:
                at = await self._rest(request, at, deadline, None if own else submitter, stay=stay)
            finally:
                self._going -= 1
        rest_s = self.means.now() - began
        return Reply(structs.replace(mine, outputs=at.specs, stages=at.done, rest_s=rest_s), at.body)

    async def _rest(
        self, given: Submit, at: Brought, deadline: float, on_behalf: NodeId | None, *, stay: bool = False
    ) -> Brought:
        """Everything that is still to be run; on behalf of another node, as far as that is possible from here."""
        while at.then:
            stage, total = at.then[0], at.next + len(at.then)
            if stay and stage.node not in (None, self.means.self_id):
                return at
            name, began, before = stage.model, self.means.now(), at
            try:
                manifest = self.manifest(Digest(stage.model))
                name = manifest.name
                inputs, body = feed(stage, at.specs, at.body)
                request = structs.replace(
                    given,
                    task=stage_task(given.task, at.next, self.rng.random()),
                    model=stage.model,
                    inputs=inputs,
                    deadline_s=max(0.0, deadline - began),
                    node=self.means.self_id if stay else stage.node,
                    outputs=stage.outputs,
                    then=at.then[1:],
                )
                wanted = Wanted.of(request, manifest, beyond=self.beyond(request.then))
                wanted = structs.replace(wanted, stage=at.next, on_behalf=on_behalf)
                outcome, attempts = await self.pursue(wanted, request, body, deadline)
            except MeshError as error:
                if on_behalf is not None and not_begun(error, at.next):
                    log.info("stage %d of task %s goes back to its submitter: %s", at.next + 1, given.task, error)
                    return at
                at_stage(error, at.next, total, name)
                error.attempts = (*attempts_of(at.done, at.first), *error.attempts)
                raise
            seconds = max(0.0, self.means.now() - began - outcome.message.rest_s)
            at = at.after(outcome, attempts, seconds, wanted.input_bytes)
            here = outcome.message.node == self.means.self_id
            if on_behalf is not None and here and at.then and at.next > before.next:
                return at  # it was tried from here just now
        return at


def not_begun(error: MeshError, stage: int) -> bool:
    """Whether nothing of that stage was run, and another node might see to it."""
    if error.stage is not None and error.stage > stage:
        return False
    able = isinstance(error, NoCapacity | ModelNotFound | PermissionDenied | NoNodeInZone)
    return able and all(attempt.outcome in UNBEGUN for attempt in error.attempts)


def at_stage(error: MeshError, stage: int, total: int, name: str) -> None:
    """Have the error say which stage it is of, unless it does already."""
    if error.stage is None:
        error.stage = stage
        error.args = (f"stage {stage + 1} of {total}, {name!r}: {error}", *error.args[1:])


def stage_task(task: str, stage: int, chance: float) -> str:
    """The id of one stage: new each time that it is begun, for its inputs may be others after another run."""
    drawn = hashlib.sha256(f"{task}/{stage}/{chance!r}".encode()).hexdigest()
    return (f"{task[:SHARED_DIGITS]}{stage:x}{drawn}")[: len(task)]


def done(message: Inferred, attempts: tuple[Attempt, ...], seconds: float, input_bytes: int) -> StageDone:
    """What became of the stage that was asked for, as it travels."""
    return StageDone(
        message.model,
        message.node,
        attempts[-1].name,
        seconds,
        message.queue_s,
        message.run_s,
        message.provider,
        message.precision,
        message.batch,
        input_bytes,
        tuple((a.node, a.name, a.outcome, a.seconds, a.detail) for a in attempts),
    )


def attempts_of(stages: tuple[StageDone, ...], first: int) -> tuple[Attempt, ...]:
    """Every try of these stages, the first of which has that number."""
    return tuple(Attempt(*row, stage) for stage, it in enumerate(stages, first) for row in it.attempts)


def feed(
    stage: Stage, specs: tuple[TensorSpec, ...], body: tuple[Buffer, ...]
) -> tuple[tuple[TensorSpec, ...], memoryview]:
    """The outputs of a stage as the inputs of the next. They are copied only when they lie in another order.

    Raises ProtocolError when one is missing.
    """
    whole = memoryview(body[0] if len(body) == 1 else b"".join(body)).cast("B")
    at = {spec.name: i for i, spec in enumerate(specs)}
    if missing := [output for _, output in stage.inputs if output not in at]:
        raise ProtocolError(f"the stage before brought no {missing[0]!r}")
    chosen = [at[output] for _, output in stage.inputs]
    named = tuple(structs.replace(specs[i], name=name) for i, (name, _) in zip(chosen, stage.inputs, strict=True))
    if chosen == list(range(len(specs))):
        return named, whole
    places = tensors.layout(specs)
    moved = bytearray()
    for i in chosen:
        moved += bytes(-len(moved) % tensors.ALIGN)
        moved += whole[slice(*places[i])]
    return named, memoryview(moved)
