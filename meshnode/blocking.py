"""The client for programs without an event loop: the asynchronous one, on a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack, cast

from meshnode.client import options
from meshnode.client.options import Inputs, TaskOptions
from meshnode.client.pacing import cancelled
from meshnode.client.pipeline import AsyncPipeline, Given, PipelineOptions
from meshnode.client.result import Result
from meshnode.client.task import AsyncClient, Home
from meshnode.errors import AgentUnavailable

T = TypeVar("T")
END_S = 10.0


class _Background:
    """An event loop on a daemon thread, begun with its first work."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.ended = False

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self.ended:
                work.close()
                raise AgentUnavailable("this client is closed", hint="make a new one")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="meshnode-client", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def end(self) -> None:
        """Cancel what is open, hang up, end the thread."""
        with self._lock:
            loop, thread, self.ended = self._loop, self._thread, True
            self._loop = None
        if loop is None or thread is None:
            return
        ending = asyncio.run_coroutine_threadsafe(self._end(), loop)
        if thread is threading.current_thread():  # collected as garbage there: it cannot wait for itself
            ending.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
            return
        ending.result(END_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def _end(self) -> None:
        await cancelled(task for task in asyncio.all_tasks() if task is not asyncio.current_task())
        await self._client.close()


class Client:
    """The mesh, from any program: the same names as `AsyncClient`, blocking. Safe to use from several threads."""

    def __init__(self, home: Home | None = None) -> None:
        self._client = AsyncClient(home)
        self._background = _Background(self._client)
        self._finalizer = weakref.finalize(self, self._background.end)

    @property
    def home(self) -> Path:
        """The home of the agent."""
        return self._client.home

    def __enter__(self) -> Client:
        try:
            self._wait(self._client.connect())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is open and end the thread."""
        self._finalizer()

    def infer(self, model: str, inputs: Inputs, **task: Unpack[TaskOptions]) -> Result:
        """See AsyncClient.infer."""
        return self._wait(self._client.infer(model, inputs, **task))

    def submit(self, model: str, inputs: Inputs, **task: Unpack[TaskOptions]) -> Future[Result]:
        """Like `infer`, without waiting; inputs are copied. Cancelling the future cancels the task where it runs."""
        return self._background.start(self._client.infer(model, options.snapshot(inputs), **task))

    def map(
        self,
        model: str,
        batches: Iterable[Inputs],
        *,
        concurrency: int = 64,
        ordered: bool = True,
        **task: Unpack[TaskOptions],
    ) -> Iterator[Result]:
        """See AsyncClient.map. `batches` is read in the caller's thread, and only as fast as results are taken."""
        options.checked_count(concurrency, "concurrency")
        return self._map(model, enumerate(batches), concurrency, ordered, task)

    def _map(
        self, model: str, source: Iterator[tuple[int, Inputs]], concurrency: int, ordered: bool, task: TaskOptions
    ) -> Iterator[Result]:
        running: deque[Future[Result]] = deque()
        try:
            while True:
                while len(running) < concurrency and (item := next(source, None)) is not None:
                    work = self._client._indexed(item[0], model, options.snapshot(item[1]), task)
                    running.append(self._background.start(work))
                if not running:
                    return
                if ordered:
                    yield running[0].result()
                    running.popleft()
                    continue
                for finished in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                    running.remove(finished)
                    yield finished.result()
        finally:
            for future in running:
                future.cancel()

    def stream(
        self,
        model: str,
        frames: Iterable[Inputs],
        *,
        max_age: float = 0.1,
        keep: Literal["latest", "all"] = "latest",
        concurrency: int = 4,
        **task: Unpack[TaskOptions],
    ) -> Iterator[Result]:
        """See AsyncClient.stream. `frames` is read in a thread of its own."""
        options.checked_count(concurrency, "concurrency")
        results = self._client.stream(model, frames, max_age=max_age, keep=keep, concurrency=concurrency, **task)
        return self._iterate(results)

    def plan(self, model: str, inputs: Inputs, **options: Any) -> dict[str, Any]:
        """See AsyncClient.plan."""
        return self._wait(self._client.plan(model, inputs, **options))

    def status(self) -> dict[str, Any]:
        """See AsyncClient.status."""
        return self._wait(self._client.status())

    def models(self) -> list[dict[str, Any]]:
        """See AsyncClient.models."""
        return self._wait(self._client.models())

    def add_model(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        version: int | None = None,
        zone: str | None = None,
        signature: str | None = None,
    ) -> dict[str, Any]:
        """See AsyncClient.add_model."""
        return self._wait(self._client.add_model(path, name=name, version=version, zone=zone, signature=signature))

    def remove_model(self, model: str) -> dict[str, Any]:
        """See AsyncClient.remove_model."""
        return self._wait(self._client.remove_model(model))

    def model(self, name: str) -> Model:
        """A bound handle: `digits(x)`, `digits.inputs`."""
        return Model(self, name)

    def pipeline(self, *models: Given, stages: Sequence[Given] = ()) -> Pipeline:
        """See AsyncClient.pipeline: `client.pipeline("detect", "classify")(x)`."""
        return Pipeline(self, [*models, *stages])

    def ask(self, verb: str, **args: Any) -> Any:
        """See AsyncClient.ask."""
        return self._wait(self._client.ask(verb, **args))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._background.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _iterate(self, results: AsyncIterator[T]) -> Iterator[T]:
        try:
            while True:
                try:
                    yield self._wait(_next(results))
                except StopAsyncIteration:
                    return
        finally:
            if not self._background.ended:
                self._wait(_close(results))


class Model:
    """One model of the mesh: `digits(x)` for a single input, `digits(a=x, b=y)` for several."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name
        self._document: dict[str, Any] | None = None

    @property
    def document(self) -> dict[str, Any]:
        """What is known of the model, asked once."""
        if self._document is None:
            self._document = self._client.ask("model.show", model=self.name)
        return self._document

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Its inputs: name, dtype, shape."""
        found: list[dict[str, Any]] = self.document["inputs"]
        return found

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """Its outputs: name, dtype, shape."""
        found: list[dict[str, Any]] = self.document["outputs"]
        return found

    def __call__(self, value: Any = None, /, **inputs: Any) -> Result:
        """A single unnamed input, or inputs by name."""
        if value is not None:
            inputs = dict(options.named(self.document, value, inputs))
        return self._client.infer(self.name, inputs)


class Pipeline:
    """Several models as one task: call it with the inputs of the first, and get the outputs of the last."""

    def __init__(self, client: Client, stages: Sequence[Given]) -> None:
        self._client = client
        self._pipeline = AsyncPipeline(client._client, stages)
        self.stages = self._pipeline.stages

    def infer(self, inputs: Inputs, **task: Unpack[PipelineOptions]) -> Result:
        """See AsyncPipeline.infer."""
        return self._client._wait(self._pipeline.infer(inputs, **task))

    def submit(self, inputs: Inputs, **task: Unpack[PipelineOptions]) -> Future[Result]:
        """Like `infer`, without waiting; inputs are copied. Cancelling the future cancels the stage that runs."""
        return self._client._background.start(self._pipeline.infer(options.snapshot(inputs), **task))

    def __call__(self, value: Any = None, /, **inputs: Any) -> Result:
        """A single unnamed input, or inputs by name."""
        return self._client._wait(self._pipeline(value, **inputs))


async def _next(results: AsyncIterator[T]) -> T:
    return await anext(results)


async def _close(results: AsyncIterator[T]) -> None:
    await cast("AsyncGenerator[T, None]", results).aclose()
