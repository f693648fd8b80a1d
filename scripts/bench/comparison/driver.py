"""Puts questions to a system from its own environment and checks every answer: `python -m ...driver MODULE PLACE`.

A line of JSON comes in for each thing to do, and one goes out with what was seen; the input's end is the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import uvloop

from scripts.bench.comparison import contract, counting, falling
from scripts.bench.comparison.contract import Array, Client, Place

ATTEMPT_S = 10.0
PAUSE_S = 0.02
"""After a failure: nobody asks a server that is down ten thousand times a second."""
WARM_S = 0.2
"""Of a load, before it counts."""
LATE_S = 6.0
"""A request that is unanswered so long after the load is one that never will be."""


class Driver:
    """What can be asked for; each method answers with figures."""

    def __init__(self, system: Any, place: Place) -> None:
        self.system, self.place = system, place
        self.client: Client | None = None
        self.asked = {model: contract.questions(model) for model in contract.SHAPES}
        answers = np.load(os.path.join(place.models, "answers.npz"))
        self.right: dict[str, list[Array]] = {model: list(answers[model]) for model in contract.SHAPES}
        self.wrong = 0

    # --- what is asked for ---

    def prepare(self) -> dict[str, Any]:
        """What a user did long before."""
        getattr(self.system, "prepare", lambda place: None)(self.place)
        return {}

    def commands(self) -> dict[str, Any]:
        """The processes to start."""
        return {"commands": self.system.commands(self.place)}

    async def first(self, within_s: float) -> dict[str, Any]:
        """Ask until the first right answer of the first model, then of the other; when it was there."""
        end, why = time.monotonic() + within_s, "?"
        while time.monotonic() < end:
            self.client = self.system.Client(self.place)
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    await self.client.start()
                    await self.ask("mlp", 0)
                    at = time.monotonic()
                    await asyncio.gather(*(self.ask("cnn", number) for number in range(2 * self.place.workers)))
                if self.wrong:
                    return {"failed": f"{self.wrong} of its first answers were wrong"}
                return {"at": at}
            except Exception as error:  # whatever this library says while its server is not there
                why = falling.said(error)
                await self.close()
                await asyncio.sleep(PAUSE_S)
        return {"failed": f"no answer within {within_s:g} s; the last time: {why}"}

    async def latency(self, model: str, seconds: float) -> dict[str, Any]:
        """One request in flight."""
        times: list[float] = []
        for _ in range(3):  # it is warm, and its processes may be asleep
            await self.ask(model, 0)
        end, number = time.perf_counter() + seconds, 0
        while (began := time.perf_counter()) < end:
            await self.ask(model, number)
            times.append(time.perf_counter() - began)
            number += 1
        p10, p50, p99 = np.quantile(times, [0.1, 0.5, 0.99]) * 1e3
        return {"n": len(times), "p10_ms": p10, "p50_ms": p50, "p99_ms": p99}

    async def load(self, model: str, flights: int, seconds: float, tree: int) -> dict[str, Any]:
        """Many in flight; what the server's processes take for each, and what others take of the machine meanwhile."""
        done, going, inside = 0, True, not self.system.commands(self.place)

        async def one(number: int) -> None:
            nonlocal done
            while going:
                await self.ask(model, number)
                done, number = done + 1, number + flights
                if inside:  # it never waits, and others would never have their turn
                    await asyncio.sleep(0)

        asking = [asyncio.ensure_future(one(number)) for number in range(flights)]
        try:
            await asyncio.sleep(WARM_S)
            before, began = (done, counting.tree_cpu_s(tree), time.process_time(), counting.busy_s()), time.monotonic()
            await asyncio.sleep(seconds)
            n, took_s = done - before[0], time.monotonic() - began
            server_s, own_s = counting.tree_cpu_s(tree) - before[1], time.process_time() - before[2]
            others = max(0.0, counting.busy_s() - before[3] - server_s - own_s) / took_s
        finally:
            going = False
            done_at_end = await asyncio.gather(*asking, return_exceptions=True)
        for failure in done_at_end:
            if isinstance(failure, BaseException):
                raise failure
        figures = {"n": n, "rate": n / took_s, "others": others}
        return figures | {"server_ms": server_s / max(n, 1) * 1e3, "client_ms": own_s / max(n, 1) * 1e3}

    async def kill(self, model: str, flights: int, before_s: float, after_s: float, tree: int) -> dict[str, Any]:
        """Kill -9 under load; what its user saw."""
        seen, going = falling.Seen(), True

        async def one(number: int) -> None:
            while going:
                seen.asked(number)
                try:
                    await self.ask(model, number)
                    seen.answered(number)
                except Exception as error:  # each library has its own
                    seen.failed(number, falling.said(error))
                    await asyncio.sleep(PAUSE_S)
                number += flights

        asking = [asyncio.ensure_future(one(number)) for number in range(flights)]
        await asyncio.sleep(before_s / 2)
        cpu = counting.cpu_s(counting.below(tree))
        await asyncio.sleep(before_s / 2)
        busiest = self._busiest(cpu, tree)
        victims = getattr(self.system, "victims", lambda pid: [pid])(busiest)
        names = [counting.command(pid) for pid in victims]
        workers = self._workers(tree)
        seen.killed()
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(after_s)
        going = False
        seen.ended()
        await asyncio.wait(asking, timeout=LATE_S)
        for it in asking:
            it.cancel()
        return seen.figures() | {"killed": names, "workers_before": workers, "workers_after": self._workers(tree)}

    async def close(self) -> dict[str, Any]:
        """Let go of the system."""
        client, self.client = self.client, None
        if client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(ATTEMPT_S):
                    await client.close()
        return {}

    # --- how ---

    async def ask(self, model: str, number: int) -> None:
        """One question, and a look at its answer."""
        assert self.client is not None
        which = number % contract.INPUTS
        got, right = await self.client.infer(model, self.asked[model][which]), self.right[model][which]
        same = got.shape == right.shape and (got.tobytes() == right.tobytes() or np.allclose(got, right, 1e-4, 1e-5))
        self.wrong += not same

    def _workers(self, tree: int) -> int:
        return sum(map(counting.runs_models, counting.below(tree)))

    def _busiest(self, before: dict[int, float], tree: int) -> int:
        """The process that ran models most since then."""
        now = counting.cpu_s([pid for pid in counting.below(tree) if counting.runs_models(pid)])
        return max(now, key=lambda pid: now[pid] - before.get(pid, 0.0))


async def main() -> None:
    """Do what comes in."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what `prepare` has started is taken down on the way out
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    driver = Driver(importlib.import_module(sys.argv[1]), contract.read(sys.argv[2]))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        method: Callable[..., Any] = getattr(driver, order.pop("do"))
        try:
            figures = method(**order)
            figures = figures if isinstance(figures, dict) else await figures
        except Exception as error:  # told, and the next turn may go better
            figures = {"failed": falling.said(error)}
        print(json.dumps(figures | {"wrong": driver.wrong}, default=float), file=out, flush=True)
        driver.wrong = 0
    await driver.close()


if __name__ == "__main__":
    uvloop.run(main())
