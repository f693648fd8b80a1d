"""The client for code without an event loop: the same names as `AsyncClient`, and a thread of its own behind them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from meshnode.client import AsyncClient, Inputs, Result, cancel_all, only_input
from meshnode.errors import AgentUnavailable

T = TypeVar("T")


class Client:
    """The mesh, from any program: the same names as `AsyncClient`, blocking. Safe to use from several threads."""

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="meshnode-client", daemon=True)
        self._thread.start()
        self._client = AsyncClient(home)
        self._closed = False

    @property
    def home(self) -> Path:
        """The home of the agent."""
        return self._client.home

    def __enter__(self) -> Client:
        try:
            self._wait(self._client._connected())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is open and end the thread."""
        if self._closed:
            return
        self._closed = True

        async def end() -> None:
            await cancel_all([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])
            await self._client.close()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def infer(self, model: str, inputs: Inputs, **options: Any) -> Result:
        """See AsyncClient.infer."""
        return self._wait(self._client.infer(model, inputs, **options))

    def submit(self, model: str, inputs: Inputs, **options: Any) -> concurrent.futures.Future[Result]:
        """Like `infer`, without waiting; cancelling the future cancels the task where it runs."""
        return self._start(self._client.infer(model, inputs, **options))

    def map(
        self, model: str, batches: Iterable[Inputs], *, concurrency: int = 64, ordered: bool = True, **options: Any
    ) -> Iterator[Result]:
        """See AsyncClient.map."""
        return self._iterate(
            lambda: self._client.map(model, batches, concurrency=concurrency, ordered=ordered, **options)
        )

    def stream(self, model: str, frames: Iterable[Inputs], **options: Any) -> Iterator[Result]:
        """See AsyncClient.stream."""
        return self._iterate(lambda: self._client.stream(model, frames, **options))

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
        self, path: str | os.PathLike[str], *, name: str | None = None, version: int | None = None
    ) -> dict[str, Any]:
        """See AsyncClient.add_model."""
        return self._wait(self._client.add_model(path, name=name, version=version))

    def remove_model(self, model: str) -> dict[str, Any]:
        """See AsyncClient.remove_model."""
        return self._wait(self._client.remove_model(model))

    def model(self, name: str) -> Model:
        """A bound handle: `digits(x)`, `digits.inputs`."""
        return Model(self, name)

    def ask(self, verb: str, **args: Any) -> Any:
        """See AsyncClient.ask."""
        return self._wait(self._client.ask(verb, **args))

    def _start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        if self._closed:
            work.close()
            raise AgentUnavailable("this client is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _iterate(self, make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        results = make()
        try:
            while True:
                try:
                    yield self._wait(_next(results))
                except StopAsyncIteration:
                    return
        finally:
            if not self._closed:
                self._wait(results.aclose())  # type: ignore[attr-defined]


class Model:
    """One model of the mesh: `digits(x)` for a single input, `digits(image=x)` for several."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name
        self._described: dict[str, Any] | None = None

    @property
    def document(self) -> dict[str, Any]:
        """What is known of the model, asked once."""
        if self._described is None:
            self._described = self._client.ask("model.show", model=self.name)
        return self._described

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
            inputs = {only_input(self.document): value}
        return self._client.infer(self.name, inputs)


async def _next(results: AsyncIterator[T]) -> T:
    return await anext(results)
