"""An open-loop load: tasks come when they come, whatever comes back, and what became of each."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import meshnode
from meshnode.errors import MeshError
from tests.mesh.history import Task, Verdict, judge
from tests.mesh.load import KINDS, expected, task_of


@dataclass
class Traffic:
    """Poisson tasks of the slow model with known answers, through one client."""

    client: meshnode.AsyncClient
    rounds: int
    rng: random.Random
    timeout_s: float = 20.0
    history: list[Task] = field(default_factory=list)

    async def run(self, rate: float, seconds: float) -> None:
        """`rate` tasks a second for so long; returns when the last one has ended."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            await self._pump(group, rate, began + seconds)

    @asynccontextmanager
    async def going(self, rate: float) -> AsyncIterator[None]:
        """The same while something is done; what is open at the end is waited for."""
        async with asyncio.TaskGroup() as group:
            pump = group.create_task(self._pump(group, rate, float("inf")))
            try:
                yield
            finally:
                pump.cancel()

    async def _pump(self, group: asyncio.TaskGroup, rate: float, ends: float) -> None:
        due = time.monotonic()
        while (due := due + self.rng.expovariate(rate)) < ends:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.send(group, due)

    def send(self, group: asyncio.TaskGroup, due: float | None = None, node: str | None = None) -> asyncio.Task[Task]:
        """One task."""
        task = Task(len(self.history), time.monotonic() if due is None else due)
        self.history.append(task)
        return group.create_task(self._one(task, node))

    async def _one(self, task: Task, node: str | None) -> Task:
        model, inputs = task_of(task.number, self.rounds)
        try:
            result = await self.client.infer(model, inputs, timeout=self.timeout_s, node=node)
        except MeshError as error:
            task.failed(error)
        else:
            task.answered(result, expected(self.rounds, task.number % KINDS))
        task.ended = time.monotonic()
        task.answers += 1
        return task

    @property
    def took_s(self) -> list[float]:
        """Of the tasks that were answered."""
        return sorted(task.seconds for task in self.history if task.good)

    @property
    def runs(self) -> dict[str, list[float]]:
        """What the runs took, by node."""
        found: dict[str, list[float]] = {}
        for task in self.history:
            if task.good:
                found.setdefault(task.node, []).append(task.run_s)
        return found

    @property
    def verdict(self) -> Verdict:
        """What is wrong with its tasks."""
        return judge(self.history)


def at(ordered: Sequence[float], share: float) -> float:
    """A quantile of what is sorted; nothing has none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
