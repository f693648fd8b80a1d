"""Eight agents of different speed and one that only submits, as processes on loopback; killed, frozen and restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnxruntime

import meshnode
from tests.mesh.live.throttle import Throttle, workers_of
from tests.mesh.live.traffic import Traffic
from tests.mesh.load import task_of
from tests.mesh.rig import MODELS, Agent, Rig, rig, wait_for

SLOWEST, FASTEST = 0.03, 0.3
"""Shares of a core."""
TOGETHER = 0.95
"""…of which one is given away; the other core is the agents'."""
TASK_S = 0.01
"""Of a processor, for a task."""
SETTLE_S = 60.0
CONFIG = """\
[execution]
concurrency = 1
batch_max = 1
gpu = false
"""
"""One run at a time and one task a run, so that a node's capacity is one over what a run takes."""


def shares(n: int) -> list[float]:
    """Log-uniform from the slowest to the fastest, as even as can be, and together a core."""
    grid = [SLOWEST * (FASTEST / SLOWEST) ** (i / max(n - 1, 1)) for i in range(n)]
    return [share * TOGETHER / sum(grid) for share in grid]


def rounds_of(seconds: float) -> int:
    """So many rounds of the slow model take so much of a processor on this machine."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(MODELS / "slow" / "model.onnx"), options)
    tried = 20_000
    inputs = {"x": np.ones((1, 64), np.float32), "rounds": np.array(tried, np.int64)}

    def once() -> float:
        began = time.thread_time()
        session.run(None, inputs)
        return time.thread_time() - began

    return max(1, round(tried * seconds / statistics.median(once() for _ in range(15))))


class Town:
    """The agents that work, by number, the one that submits, and what they are allowed."""

    def __init__(self, it: Rig, throttle: Throttle, n: int) -> None:
        self.rig = it
        self.throttle = throttle
        self.shares = shares(n)
        self.rounds = rounds_of(TASK_S)
        self.agents = [self._start(f"n{i}") for i in range(n)]
        self.submitter = self._start("submitter", role="submitter")
        self.frozen: set[int] = set()
        with meshnode.Client(self.agents[0].home) as client:
            client.add_model(MODELS / "slow" / "model.onnx", name="slow")
        everyone = [*self.agents, self.submitter]
        for agent in everyone:
            with meshnode.Client(agent.home) as client:
                wait_for(
                    lambda client=client: (
                        client.status()["mesh"]["nodes"]["alive"] == len(everyone) and client.models()
                    ),  # type: ignore[misc]
                    within_s=SETTLE_S,
                    why=f"{agent.home.name} sees all {len(everyone)} and the model",
                )
        with meshnode.Client(self.submitter.home) as client:
            for agent in self.agents:
                client.infer(*task_of(0, 1000), node=agent.id)
        for number, agent in enumerate(self.agents):
            self.throttle.tell("share", agent.process.pid, self.shares[number])

    def _start(self, name: str, role: str | None = None) -> Agent:
        home = self.rig.folder / name
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(CONFIG)
        if name == "n0":
            return self.rig.start(name)
        with meshnode.Client(self.rig.agents[0].home) as client:
            return self.rig.start(name, client.ask("invite", expires_s=SETTLE_S, role=role)["token"])

    def name(self, node: str) -> str:
        """Of an id."""
        return next((it.home.name for it in [*self.agents, self.submitter] if it.id == node), node[:8])

    # --- what is done to them ---

    def kill(self, number: int) -> None:
        """SIGKILL for an agent and its workers."""
        agent = self.agents[number]
        workers = workers_of(agent.process.pid)
        agent.process.kill()
        for worker in workers:
            _signal(worker, signal.SIGKILL)
        agent.process.wait()
        self.throttle.tell("forget", agent.process.pid)

    def restart(self, number: int) -> None:
        """Its next life, at its address."""
        dead = self.agents[number]
        self.rig.agents.remove(dead)
        for stream in (dead.process.stdout, dead.process.stderr):
            assert stream is not None
            stream.close()
        self.agents[number] = agent = self.rig.start(dead.home.name, listen=dead.address)
        self.throttle.tell("share", agent.process.pid, self.shares[number])

    def freeze(self, number: int) -> None:
        """SIGSTOP for an agent and its workers: nothing is closed, nothing is said."""
        self.frozen.add(number)
        pid = self.agents[number].process.pid
        self.throttle.tell("hold", pid)
        os.kill(pid, signal.SIGSTOP)
        for worker in workers_of(pid):
            _signal(worker, signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """And SIGCONT."""
        self.frozen.discard(number)
        pid = self.agents[number].process.pid
        os.kill(pid, signal.SIGCONT)
        self.throttle.tell("share", pid, self.shares[number])

    def leave_alone(self, number: int) -> None:
        """Its workers may have all there is, until `share`."""
        self.throttle.tell("leave", self.agents[number].process.pid)

    def share(self, number: int, part: float = 1.0) -> None:
        """Its workers have their share again, or so much of it."""
        self.throttle.tell("share", self.agents[number].process.pid, part * self.shares[number])

    def kill_worker(self, number: int) -> None:
        """SIGKILL for a worker; the agent lives."""
        for worker in workers_of(self.agents[number].process.pid):
            _signal(worker, signal.SIGKILL)

    def memory_files(self) -> int:
        """Files in shared memory, with and without a name, that agents and their workers hold open or left behind."""
        found = len(os.listdir("/dev/shm"))  # noqa: S108 - looked at, nothing is made there
        for agent in [*self.agents, self.submitter]:
            for pid in (agent.process.pid, *workers_of(agent.process.pid)):
                found += Path(f"/proc/{pid}/maps").read_text().count("memfd:")
                for fd in Path(f"/proc/{pid}/fd").iterdir():
                    with suppress(FileNotFoundError):  # it was closed since
                        found += "memfd:" in os.readlink(fd)
        return found

    # --- what they say ---

    async def own_row(self, number: int) -> dict[str, int]:
        """What an agent says of itself."""
        async with meshnode.AsyncClient(self.agents[number].home) as client:
            return await _row(client)

    async def until(self, what: Callable[[], object], within_s: float) -> float | None:
        """Seconds until it is so; None when it was not."""
        began = time.monotonic()
        while not what():
            if time.monotonic() - began > within_s:
                return None
            await asyncio.sleep(0.005)
        return time.monotonic() - began

    async def until_whole(self) -> None:
        """Everybody is alive for the one that submits, and nothing is under way."""
        everyone = len(self.agents) + 1
        end = time.monotonic() + SETTLE_S
        async with meshnode.AsyncClient(self.submitter.home) as client:
            while True:
                status = await client.status()
                rows = [row for row in status["nodes"] if row["state"] == "alive"]
                if len(rows) == everyone and all(row["in_flight"] == 0 for row in rows):
                    return
                assert time.monotonic() < end, f"not whole after {SETTLE_S:g} s: {rows}"
                await asyncio.sleep(0.1)

    async def measure(self, traffic: Traffic, seconds: float) -> dict[str, list[float]]:
        """What a task takes each node while it always has work: seconds between answers of one after the other."""
        ends = time.monotonic() + seconds

        async def feed(node: str) -> list[float]:
            gaps: list[float] = []
            last = 0.0

            async def again(group: asyncio.TaskGroup) -> None:
                nonlocal last
                while time.monotonic() < ends or len(gaps) < 3:
                    task = await traffic.send(group, node=node)
                    if task.good:
                        if last:
                            gaps.append(task.ended - last)
                        last = task.ended

            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(again(group))
            return gaps

        fed = await asyncio.gather(*(feed(agent.id) for agent in self.agents))
        return {agent.id: gaps for agent, gaps in zip(self.agents, fed, strict=True)}


async def _row(client: meshnode.AsyncClient) -> dict[str, int]:
    status = await client.status()
    row = next(row for row in status["nodes"] if row["self"])
    return {"in_flight": row["in_flight"], "tasks_done": row["tasks_done"]}


def _signal(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


@contextmanager
def town(folder: Path, n: int = 8) -> Iterator[Town]:
    """Agents that end with it, whatever state they were left in."""
    throttle = Throttle()
    it: Town | None = None
    try:
        with rig(folder) as agents:
            try:
                it = Town(agents, throttle, n)
                yield it
            finally:
                if it is not None:
                    for number in list(it.frozen):
                        it.thaw(number)  # a stopped process does not end when it is asked to
                throttle.close()
    finally:
        throttle.close()
