"""The Python client: tasks in, results out, through the agent of this machine.

`AsyncClient` is the client; `Client` is the same for code without an event loop, with one thread of its own behind
it. Both may be used by many callers at once. Inputs are anything that numpy takes. A restart of the agent is waited
out within a task's time.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from meshnode import config
from meshnode.errors import AgentUnavailable, Attempt, InvalidInput, PeerLost, ProtocolError
from meshnode.links.link import Link
from meshnode.links.local import connect
from meshnode.wire import tensors
from meshnode.wire.messages import Ask, Document, Plan, Priority, Submit, Submitted, TensorSpec
from meshnode.wire.tensors import Array, Buffer

T = TypeVar("T")
Inputs = Mapping[str, Any]
DEFAULT_TIMEOUT_S = 30.0
GRACE_S = 1.0
"""The agent ends a task at its deadline; the client only when the agent does not."""
RETRY_S = 0.1


class Result(Mapping[str, Array]):
    """The outputs of a task by name, and how it went.

    Attributes:
        node: the id of the node that ran it; `node_name` its name.
        attempts: every try, the last one "ok".
        seconds: from submission to result, as the agent saw it.
        run_seconds, queue_seconds: at the node that ran it.
        provider: the ONNX Runtime provider that ran it.
        model: the digest of the model.
    """

    __slots__ = (
        "_outputs",
        "attempts",
        "index",
        "model",
        "node",
        "node_name",
        "provider",
        "queue_seconds",
        "run_seconds",
        "seconds",
    )

    def __init__(self, message: Submitted, body: memoryview) -> None:
        self._outputs = tensors.decode(message.outputs, body)
        self.node = message.node
        self.node_name = message.name
        self.model = message.model
        self.seconds = message.seconds
        self.run_seconds = message.run_s
        self.queue_seconds = message.queue_s
        self.provider = message.provider
        self.attempts = tuple(Attempt(*row) for row in message.attempts)
        self.index = 0

    def __getitem__(self, name: str) -> Array:
        return self._outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name}: {a.dtype}{list(a.shape)}" for name, a in self._outputs.items())
        return f"<Result {outputs} from {self.node_name} in {self.seconds * 1000:.1f} ms>"


class AsyncClient:
    """The mesh, from a program with an event loop.

    Args:
        home: the agent's home; `MESHNODE_HOME` or the platform's folder when it is left out.

    Every method raises the errors of `meshnode.errors`; `AgentUnavailable` when no agent answers.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self.home = Path(home).expanduser().absolute() if home is not None else config.default_home()
        self._link: Link | None = None
        self._connecting: asyncio.Task[Link] | None = None

    async def __aenter__(self) -> AsyncClient:
        await self._connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the agent; what is still open is cancelled there."""
        if self._link is not None:
            self._link.abort("the client is done")
            await self._link.closed.wait()
            self._link = None

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
    ) -> Result:
        """Run a model on the node that will finish first and return its outputs.

        Args:
            model: `name`, `name:version` or a digest.
            inputs: an array for each input of the model, by name.
            timeout: seconds until the task fails with DeadlineExceeded.
            node: run it on this node only (a name or an id).
            zone: run it in this zone only.
            outputs: the outputs that are wanted; all when empty.
        """
        specs, body = _encode(inputs)
        task = secrets.token_hex(16)
        deadline = time.monotonic() + timeout
        while True:
            remaining_s = deadline - time.monotonic()
            request = Submit(
                task=task,
                model=model,
                inputs=specs,
                deadline_s=max(0.0, remaining_s),
                priority=priority,
                node=node,
                zone=zone,
                outputs=tuple(outputs),
            )
            try:
                link = self._link if self._link is not None and self._link.usable else await self._connected()
                received = await link.call(request, body, timeout_s=max(0.0, remaining_s) + GRACE_S)
            except (AgentUnavailable, PeerLost) as error:
                # The agent went away: wait for its restart, and ask again with the same task id.
                if isinstance(error, AgentUnavailable) and self._link is None:
                    raise
                if time.monotonic() + RETRY_S >= deadline:
                    raise AgentUnavailable(f"the agent went away and did not come back: {error}") from error
                await asyncio.sleep(RETRY_S)
                continue
            if not isinstance(received.message, Submitted):
                raise ProtocolError(f"a task was answered with {type(received.message).__name__}")
            return Result(received.message, received.body)

    async def map(
        self, model: str, batches: Iterable[Inputs], *, concurrency: int = 64, ordered: bool = True, **options: Any
    ) -> AsyncIterator[Result]:
        """Run many tasks, at most `concurrency` at once; results in the order of the inputs, or as they come.

        `Result.index` counts the inputs. The first error ends it and cancels what is open.
        """
        if concurrency < 1:
            raise InvalidInput(f"concurrency is at least 1, not {concurrency}")
        source = enumerate(batches)
        open_tasks: deque[asyncio.Task[Result]] = deque()
        try:
            while True:
                while len(open_tasks) < concurrency and (item := next(source, None)) is not None:
                    open_tasks.append(asyncio.ensure_future(self._indexed(item[0], model, item[1], options)))
                if not open_tasks:
                    return
                if ordered:
                    yield await open_tasks[0]
                    open_tasks.popleft()
                else:
                    done, _ = await asyncio.wait(open_tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        open_tasks.remove(task)
                        yield task.result()
        finally:
            await cancel_all(open_tasks)

    async def stream(
        self,
        model: str,
        frames: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        max_age: float = 0.1,
        keep: Literal["latest", "all"] = "latest",
        concurrency: int = 4,
        **options: Any,
    ) -> AsyncIterator[Result]:
        """Run a live stream: results in order, `Result.index` counts the frames.

        With keep="latest" a frame that is older than `max_age` seconds when its turn comes is dropped here, at the
        source, and the newest waiting one is sent instead; nothing piles up. With "all" the source is read only as
        fast as the mesh answers.
        """
        queue: deque[tuple[int, float, Inputs]] = deque(maxlen=1 if keep == "latest" else None)
        arrived = asyncio.Event()
        room = asyncio.Event()
        room.set()
        ended = False

        async def read() -> None:
            nonlocal ended
            index = 0
            try:
                async for frame in _aiter(frames):
                    if keep == "all":
                        await room.wait()
                    queue.append((index, time.monotonic(), frame))
                    if keep == "all" and len(queue) >= concurrency:
                        room.clear()
                    index += 1
                    arrived.set()
            finally:
                ended = True
                arrived.set()

        reading = asyncio.ensure_future(read())
        open_tasks: deque[asyncio.Task[Result]] = deque()
        try:
            while True:
                while queue and len(open_tasks) < concurrency:
                    index, since, frame = queue.popleft()
                    room.set()
                    if keep == "all" or time.monotonic() - since <= max_age:
                        open_tasks.append(asyncio.ensure_future(self._indexed(index, model, frame, options)))
                if open_tasks and (open_tasks[0].done() or len(open_tasks) >= concurrency or (ended and not queue)):
                    yield await open_tasks.popleft()
                    continue
                if ended and not queue:
                    await reading
                    return
                arrived.clear()
                waits = [asyncio.ensure_future(arrived.wait()), *list(open_tasks)[:1]]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                waits[0].cancel()
        finally:
            await cancel_all([reading, *open_tasks])

    async def plan(
        self,
        model: str,
        inputs: Inputs,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - the task's own deadline
        node: str | None = None,
        zone: str | None = None,
        priority: Priority = "normal",
    ) -> dict[str, Any]:
        """Where a task would run, with every candidate's estimate and every exclusion's reason; nothing is run."""
        specs, _ = _encode(inputs)
        request = Plan(model=model, inputs=specs, deadline_s=timeout, node=node, zone=zone, priority=priority)
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
        self, path: str | os.PathLike[str], *, name: str | None = None, version: int | None = None
    ) -> dict[str, Any]:
        """Make an ONNX file known to the mesh; returns the model's document. Raises ModelRefused."""
        document: dict[str, Any] = await self.ask("model.add", path=_absolute(path), name=name, version=version)
        return document

    async def remove_model(self, model: str) -> dict[str, Any]:
        """Take a model out of the mesh."""
        document: dict[str, Any] = await self.ask("model.remove", model=model)
        return document

    def model(self, name: str) -> AsyncModel:
        """A bound handle: `await digits(x)`."""
        return AsyncModel(self, name)

    async def ask(self, verb: str, **args: Any) -> Any:
        """Any other verb of the local door; its JSON answer."""
        return await self._document(Ask(verb=verb, args={k: v for k, v in args.items() if v is not None}))

    # --- inside ---

    async def _document(self, request: Ask | Plan) -> Any:
        received = await (await self._connected()).call(request)
        if not isinstance(received.message, Document):
            raise ProtocolError(f"{type(request).__name__} was answered with {type(received.message).__name__}")
        return msgspec.json.decode(received.body)

    async def _connected(self) -> Link:
        if self._link is not None and self._link.usable:
            return self._link
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(connect(self.home, config.Links()))
        try:
            self._link = await asyncio.shield(self._connecting)
        finally:
            if self._connecting is not None and self._connecting.done():
                self._connecting = None
        return self._link

    async def _indexed(self, index: int, model: str, inputs: Inputs, options: Mapping[str, Any]) -> Result:
        result = await self.infer(model, inputs, **options)
        result.index = index
        return result


class AsyncModel:
    """One model of the mesh: call it with its inputs."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client = client
        self.name = name
        self._document: dict[str, Any] | None = None

    async def describe(self) -> dict[str, Any]:
        """The model's document, asked once."""
        if self._document is None:
            self._document = await self._client.ask("model.show", model=self.name)
        return self._document

    async def __call__(self, value: Any = None, /, **inputs: Any) -> Result:
        """A single unnamed input, or inputs by name."""
        if value is not None:
            inputs = {only_input(await self.describe()): value}
        return await self._client.infer(self.name, inputs)


def only_input(document: Mapping[str, Any]) -> str:
    """The name of a model's one input. Raises InvalidInput when it has several."""
    names = [tensor["name"] for tensor in document["inputs"]]
    if len(names) != 1:
        raise InvalidInput(f"{document['name']} has {len(names)} inputs", hint=f"name them: {', '.join(names)}")
    return str(names[0])


def _encode(inputs: Inputs) -> tuple[tuple[TensorSpec, ...], list[Buffer]]:
    if not isinstance(inputs, Mapping):
        raise InvalidInput(f"inputs are a mapping of names to arrays, not {type(inputs).__name__}")
    return tensors.encode({str(name): tensors.as_array(value, f"input {name!r}") for name, value in inputs.items()})


def _absolute(path: str | os.PathLike[str]) -> str:
    return str(Path(path).expanduser().absolute())


async def _aiter(frames: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """Any source as an async one; a blocking one is read in a thread, so that it does not hold up the results."""
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
        return
    source = iter(frames)
    end = object()
    while (item := await asyncio.to_thread(next, source, end)) is not end:
        yield item  # type: ignore[misc]


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they are gone."""
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
