"""The client for programs with an event loop."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import msgspec

from meshnode import config
from meshnode.client import options
from meshnode.client.doors import Doors
from meshnode.client.model import AsyncModel
from meshnode.client.options import DEFAULT_TIMEOUT_S, Inputs, TaskOptions
from meshnode.client.pacing import cancelled, pace
from meshnode.client.pipeline import AsyncPipeline, Given, Stage, after_the_first
from meshnode.client.result import Result
from meshnode.errors import AgentUnavailable, InvalidInput, OutcomeUnknown, PeerLost, ProtocolError, Refused
from meshnode.wire.messages import Ask, Document, Objective, Plan, Priority, Submit, Submitted
from meshnode.wire.tensors import Buffer

Home = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
GRACE_S = 1.0
"""The agent ends a task at its deadline; the client only when the agent does not."""
RETRY_S = 0.1
"""Between two looks for an agent that went away."""


class AsyncClient:
    """The mesh, from a program with an event loop.

    Args:
        home: the agent's home, or those of several agents on this machine; `MESHNODE_HOME` or the platform's folder
            when it is left out. When the agent of one goes away, its tasks go to the next with the same task ids.

    Every method raises the errors of `meshnode.errors`; `AgentUnavailable` when no agent answers.
    """

    def __init__(self, home: Home | None = None) -> None:
        self._doors = Doors(_homes(home))

    @property
    def home(self) -> Path:
        """The home of the agent that is spoken to."""
        return self._doors.home

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Reach the agent now rather than with the first request. Raises AgentUnavailable."""
        await self._doors.link()

    async def close(self) -> None:
        """Let go of the agent; what is still open is cancelled there."""
        await self._doors.close()

    async def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - the task's own deadline travels with it
        node: str | None = None,
        zone: str | None = None,
        priority: Priority = "normal",
        outputs: Sequence[str] = (),
        idempotent: bool = True,
        exact: bool = False,
        hedge: bool = False,
        verify: float = 0.0,
        objective: Objective = "tail",
    ) -> Result:
        """Run a model on the node that will finish first and return its outputs.

        Args:
            model: `name`, `name:version` or a digest.
            inputs: an array for each input of the model, by name; they must not change until this returns.
            timeout: seconds until the task fails with DeadlineExceeded.
            node: run it on this node only (a name or an id).
            zone: run it in this zone only.
            outputs: the outputs that are wanted; all when empty.
            idempotent: False for a model that must not run twice, whatever happens: when nobody can tell whether it
                ran, the task ends as OutcomeUnknown.
            exact: run it with ONNX Runtime's CPU provider only, on any node.
            hedge: when the first copy is late, a second one may run on another node; the first result counts.
            verify: the share of such tasks, 0 to 1, that a second node repeats. Where the two results differ a third
                node decides, and the one that stands alone is set aside.
            objective: "tail" keeps the slowest tasks short where nodes are busy, "latency" the usual one.
        """
        options.check_flags(idempotent=idempotent, exact=exact, hedge=hedge, verify=verify, node=node)
        deadline = time.monotonic() + options.checked_seconds(timeout)
        wanted = _check(model, node, zone, priority, outputs, objective)
        specs, body = options.encode(inputs)
        request = Submit(
            task=secrets.token_hex(16),
            model=model,
            inputs=specs,
            deadline_s=0.0,
            priority=priority,
            node=node,
            zone=zone,
            outputs=wanted,
            exact=bool(exact),
            once=not idempotent,
            hedge=bool(hedge),
            verify=verify,
            objective=objective,
        )
        return await self._answered(request, body, deadline)

    async def _infer_stages(
        self,
        stages: Sequence[Stage],
        inputs: Inputs,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - the task's own deadline travels with it
        node: str | None = None,
        zone: str | None = None,
        priority: Priority = "normal",
        outputs: Sequence[str] = (),
        idempotent: bool = True,
        exact: bool = False,
        objective: Objective = "tail",
    ) -> Result:
        options.check_flags(idempotent=idempotent, exact=exact, hedge=False, verify=0.0, node=node)
        deadline = time.monotonic() + options.checked_seconds(timeout)
        wanted = _check(stages[0].model, node, zone, priority, outputs, objective)
        specs, body = options.encode(inputs)
        request = Submit(
            task=secrets.token_hex(16),
            model=stages[0].model,
            inputs=specs,
            deadline_s=0.0,
            priority=priority,
            node=stages[0].node or node,
            zone=zone,
            outputs=wanted,
            exact=bool(exact),
            once=not idempotent,
            objective=objective,
            then=after_the_first(stages, node),
        )
        result = await self._answered(request, body, deadline)
        if request.then and len(result.stages) != len(stages):
            raise ProtocolError(
                f"the agent of {self.home} ran {max(1, len(result.stages))} of {len(stages)} stages",
                hint="it is older than pipelines: update it, or run the models one by one",
            )
        return result

    async def _answered(self, request: Submit, body: Sequence[Buffer], deadline: float) -> Result:
        """The one answer of a task, of whichever agent, before the deadline."""
        while True:
            remaining_s = max(0.0, deadline - time.monotonic())
            request = msgspec.structs.replace(request, deadline_s=remaining_s)
            link = None
            try:
                link = await self._doors.link()
                received = await link.call(request, body, timeout_s=remaining_s + GRACE_S)
            except (AgentUnavailable, PeerLost) as error:
                # The agent went away: go to another, or wait for its restart, and ask again with the same task id. One
                # that was never there is not waited for, and an error with attempts is its answer about its peers.
                if error.attempts or not self._doors.reached:
                    raise
                if request.once and isinstance(error, PeerLost) and error.sent:
                    raise OutcomeUnknown(
                        f"the agent of {self.home} went away with the task: it may have run, or not ({error})",
                        hint="it is not sent again because idempotent=False forbids that",
                    ) from error
                if time.monotonic() + RETRY_S >= deadline:
                    raise AgentUnavailable(
                        f"the agent of {self.home} went away and did not come back in time: {error}",
                        hint="start it with `meshnode up`",
                    ) from error
                if isinstance(error, AgentUnavailable) or len(self._doors.homes) == 1:
                    await asyncio.sleep(RETRY_S)
            except Refused as error:
                # The agent itself is full or stopping, and says when to come again.
                if error.attempts or error.retry_after_s is None or time.monotonic() + error.retry_after_s >= deadline:
                    raise
                if link is not None:
                    self._doors.leave(link)
                await asyncio.sleep(error.retry_after_s / len(self._doors.homes))
            else:
                if not isinstance(received.message, Submitted):
                    raise ProtocolError(f"a task was answered with {type(received.message).__name__}")
                return Result(received.message, received.body)

    def submit(self, model: str, inputs: Inputs, **task: Unpack[TaskOptions]) -> asyncio.Task[Result]:
        """Like `infer`, begun at once and awaited when it suits; inputs are copied. Cancelling it cancels the task."""
        return asyncio.ensure_future(self.infer(model, options.snapshot(inputs), **task))

    async def map(
        self,
        model: str,
        batches: Iterable[Inputs],
        *,
        concurrency: int = 64,
        ordered: bool = True,
        **task: Unpack[TaskOptions],
    ) -> AsyncIterator[Result]:
        """Run many tasks, at most `concurrency` at once; results in the order of the inputs, or as they come.

        `Result.index` counts the inputs. Inputs are copied when they are taken. An error ends it when its turn comes,
        and cancels what is open.
        """
        options.checked_count(concurrency, "concurrency")
        source = enumerate(batches)
        running: deque[asyncio.Task[Result]] = deque()
        try:
            while True:
                while len(running) < concurrency and (item := next(source, None)) is not None:
                    work = self._indexed(item[0], model, options.snapshot(item[1]), task)
                    running.append(asyncio.ensure_future(work))
                if not running:
                    return
                if ordered:
                    yield await running[0]
                    running.popleft()
                    continue
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for finished in done:
                    running.remove(finished)
                    yield finished.result()
        finally:
            await cancelled(running)

    async def stream(
        self,
        model: str,
        frames: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        max_age: float = 0.1,
        keep: Literal["latest", "all"] = "latest",
        concurrency: int = 4,
        **task: Unpack[TaskOptions],
    ) -> AsyncIterator[Result]:
        """Run a live stream: results in order, `Result.index` counts the frames.

        With keep="latest" only the newest frame waits, and one that is older than `max_age` seconds when its turn
        comes is dropped here, at the source: nothing piles up. With "all" the source is read only as fast as the mesh
        answers. A source that blocks is read in a thread. The first error ends it and cancels what is open.
        """
        options.checked_count(concurrency, "concurrency")
        options.checked_seconds(max_age, "max_age")
        options.checked_choice(keep, "keep", ("latest", "all"))

        def run(index: int, frame: Inputs) -> asyncio.Task[Result]:
            return asyncio.ensure_future(self._indexed(index, model, frame, task))

        async for result in pace(frames, run, max_age_s=max_age, latest=keep == "latest", concurrency=concurrency):
            yield result

    async def plan(
        self,
        model: str,
        inputs: Inputs,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - the task's own deadline
        node: str | None = None,
        zone: str | None = None,
        priority: Priority = "normal",
        outputs: Sequence[str] = (),
        exact: bool = False,
        objective: Objective = "tail",
    ) -> dict[str, Any]:
        """Where a task would run, with every candidate's estimate and every exclusion's reason; nothing is run."""
        _check(model, node, zone, priority, outputs, objective)
        specs, _ = options.encode(inputs)
        deadline_s = options.checked_seconds(timeout)
        request = Plan(
            model=model,
            inputs=specs,
            deadline_s=deadline_s,
            node=node,
            zone=zone,
            priority=priority,
            exact=exact,
            objective=objective,
        )
        document: dict[str, Any] = await self._document(request)
        return document

    async def status(self) -> dict[str, Any]:
        """The mesh as the agent sees it: the document of `meshnode status --json`."""
        document: dict[str, Any] = await self.ask("status")
        return document

    async def models(self) -> list[dict[str, Any]]:
        """The models of the mesh."""
        document: list[dict[str, Any]] = await self.ask("models")
        return document

    async def add_model(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        version: int | None = None,
        zone: str | None = None,
        signature: str | None = None,
    ) -> dict[str, Any]:
        """Make an ONNX file known to the mesh; returns the model's document. `zone` keeps it in one.

        `signature` is the text of a file by `meshnode model sign`, which says name, version and zone.

        Raises ModelRefused, NoNodeInZone when this agent lies outside.
        """
        if name is not None:
            options.checked_text(name, "name")
        if version is not None:
            options.checked_count(version, "version")
        if zone is not None:
            options.checked_text(zone, "zone")
        given = {"path": str(_absolute(path)), "name": name, "version": version, "zone": zone, "signature": signature}
        document: dict[str, Any] = await self.ask("model.add", **given)
        return document

    async def remove_model(self, model: str) -> dict[str, Any]:
        """Take a model out of the mesh."""
        document: dict[str, Any] = await self.ask("model.remove", model=model)
        return document

    def model(self, name: str) -> AsyncModel:
        """A bound handle: `await digits(x)`."""
        return AsyncModel(self, name)

    def pipeline(self, *models: Given, stages: Sequence[Given] = ()) -> AsyncPipeline:
        """Several models as one task: `await client.pipeline("detect", "classify")(x)`.

        The outputs of each feed the inputs of the next: those of equal names, or a single one a single one. Where names
        differ a stage is `("classify", {"image": "crop"})`: its input `image` gets the output `crop`.
        """
        return AsyncPipeline(self, [*models, *stages])

    async def ask(self, verb: str, **args: Any) -> Any:
        """Any other verb of the local door; its JSON answer."""
        return await self._document(Ask(verb=verb, args={k: v for k, v in args.items() if v is not None}))

    # --- inside ---

    async def _document(self, request: Ask | Plan) -> Any:
        link = await self._doors.link()
        try:
            received = await link.call(request)
        except PeerLost as error:
            if link.usable and not link.silent:
                raise  # the agent's own answer, about a peer
            raise AgentUnavailable(f"the agent of {self.home} went away: {error}") from error
        if not isinstance(received.message, Document):
            raise ProtocolError(f"{type(request).__name__} was answered with {type(received.message).__name__}")
        return msgspec.json.decode(received.body)

    async def _indexed(self, index: int, model: str, inputs: Inputs, task: TaskOptions) -> Result:
        result = await self.infer(model, inputs, **task)
        result.index = index
        return result


def _check(
    model: str, node: str | None, zone: str | None, priority: str, outputs: Sequence[str] | None, objective: str
) -> tuple[str, ...]:
    """What can be known to be wrong before anything is sent. Returns the wanted outputs. Raises InvalidInput."""
    options.checked_text(model, "model")
    for value, name in ((node, "node"), (zone, "zone")):
        if value is not None:
            options.checked_text(value, name)
    options.checked_choice(priority, "priority", options.PRIORITIES)
    options.checked_choice(objective, "objective", options.OBJECTIVES)
    return options.checked_outputs(outputs)


def _homes(home: Home | None) -> tuple[Path, ...]:
    """Raises InvalidInput."""
    if home is None:
        return config.default_homes()
    homes = (home,) if isinstance(home, str | os.PathLike) else tuple(home)
    if not homes:
        raise InvalidInput("home names no home", hint="leave it out for that of MESHNODE_HOME")
    return tuple(_absolute(path) for path in homes)


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(path).expanduser().absolute()
