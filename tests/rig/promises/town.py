"""Where promises are tried: eight agents of one mesh on one subnet, what each has seen, and faults that pass by."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import meshnode
from tests.mesh.load import Load, task_of
from tests.mesh.rig import MODELS, Agent, pause, wait_for
from tests.rig.net import Net, net

HOSTS = 8
SUBMITTERS = (3, 7)
"""They run nothing themselves, so that all their tasks go over the wires; one on each side of a split."""
NEWCOMER = 12
"""A host without an agent, for who joins later."""
SETTLE_S = 120.0
LAG_S = 0.1
"""An agent writes down a change a moment after it shows it."""
RATE = 25.0
"""Tasks a second of each of the two clients."""
BEARABLE = 0.5
"""Of what the workers can do when it is tried: a fault is to be seen, and not that others need this machine too."""
MEASURED = 24


def wait(seconds: float) -> None:
    """The length of a fault: nothing is waited for, time passes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pause()


@contextmanager
def busy() -> Iterator[None]:
    """Every processor of this machine has something else to do."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(psutil.cpu_count() or 1)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that an agent saw happen to another; `at` is this machine's wall clock."""

    host: int
    other: int
    at: float
    event: str
    why: str


class Town:
    """Agents by host, with the echo and the slow model on each, and what they have seen since `mark`."""

    def __init__(self, it: Net, agents: Mapping[int, Agent], seed: int = 1) -> None:
        self.net = it
        self.agents = dict(agents)
        self.rng = random.Random(seed)
        self._clients: dict[int, meshnode.Client] = {}
        self._marks: dict[int, int] = {}
        self.mark()

    @property
    def workers(self) -> list[int]:
        """Hosts that take work; the first one holds the admin key and is spared."""
        return [host for host in self.agents if host not in SUBMITTERS and host > 0]

    def client(self, host: int) -> meshnode.Client:
        """A client of that host's agent."""
        if host not in self._clients:
            self._clients[host] = meshnode.Client(home=self.agents[host].home)
        return self._clients[host]

    def close(self) -> None:
        """Hang up."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def restart(self, host: int, env: Sequence[str] = ()) -> Agent:
        """An agent's next life; it ends first if it has not."""
        if self.agents[host].process.poll() is None:
            self.agents[host].terminate()
        self.net.rig.agents.remove(self.agents[host])
        for stream in (self.agents[host].process.stdout, self.agents[host].process.stderr):
            assert stream is not None
            stream.close()
        if host in self._clients:
            self._clients.pop(host).close()
        self._marks[host] = 0
        self.agents[host] = self.net.up(host, env=env)
        return self.agents[host]

    def dismiss(self, host: int) -> None:
        """An agent leaves for good."""
        agent = self.agents.pop(host)
        if host in self._clients:
            self._clients.pop(host).close()
        agent.terminate()

    # --- what agents see ---

    def states(self, host: int) -> dict[int, str]:
        """The states of all hosts as one of them holds them."""
        by_id = {row["id"]: row["state"] for row in self.client(host).ask("members")}
        return {other: by_id.get(agent.id) or "unknown" for other, agent in self.agents.items()}

    def all_alive(self, hosts: Sequence[int] | None = None) -> bool:
        """Whether each of these holds all of them alive, and has them linked or reaches them otherwise."""
        some = list(hosts or self.agents)
        return all({self.states(host)[other] for other in some} == {"alive"} for host in some)

    def until_alive(self, hosts: Sequence[int] | None = None, why: str = "everyone is alive for everyone") -> None:
        """Wait for it."""
        wait_for(lambda: self.all_alive(hosts), within_s=SETTLE_S, why=why)

    def mark(self) -> None:
        """Forget what was seen until now."""
        for host in self.agents:
            rows = self.client(host).ask("events")
            self._marks[host] = rows[-1]["number"] if rows else 0

    def forget_mark(self) -> None:
        """Everything counts, from the start of the agents on."""
        self._marks.clear()

    def seen(self, hosts: Sequence[int] | None = None) -> list[Event]:
        """What agents saw happen to each other since the mark."""
        wait(LAG_S)
        numbers = {agent.id: host for host, agent in self.agents.items()}
        return [
            Event(host, numbers[row["node"]], row["at"], row["event"], row["why"])
            for host in hosts or self.agents
            for row in self.client(host).ask("events", after=self._marks.get(host, 0))
            if row["node"] in numbers
        ]

    def deaths(self, *but: int) -> list[str]:
        """Verdicts about agents that live, since the mark."""
        return [f"h{e.other} for h{e.host}: {e.why}" for e in self.seen() if e.event == "dead" and e.other not in but]

    # --- work ---

    @contextmanager
    def load(
        self, rounds: int = 0, rate: float = RATE, hosts: Sequence[int] = SUBMITTERS, timeout_s: float = 20.0
    ) -> Iterator[list[Load]]:
        """Steady tasks from a client on each of these hosts, no more than this machine can do now."""
        if rounds:
            rate = min(rate, BEARABLE * self._capacity(hosts[0], rounds) / len(hosts))
        loads = [Load(self.agents[host].home, rate, rounds, timeout_s) for host in hosts]
        with ExitStack() as stack:
            for load in loads:
                stack.enter_context(load)
            wait_for(lambda: all(load.answered for load in loads), within_s=60, why="the load runs")
            yield loads

    def _capacity(self, host: int, rounds: int) -> float:
        """Tasks a second that all workers together do, at what else this machine does."""
        client, began = self.client(host), time.monotonic()
        waiting = [client.submit(*task_of(number, rounds), timeout=60) for number in range(MEASURED)]
        for future in waiting:
            future.result()
        return MEASURED / (time.monotonic() - began)

    def busiest(self, asked: int = SUBMITTERS[0]) -> int:
        """A worker with tasks inside."""
        numbers = {self.agents[host].id: host for host in self.workers}

        def look() -> int | None:
            rows = {n["id"]: n["in_flight"] or 0 for n in self.client(asked).status()["nodes"] if n["id"] in numbers}
            best = max(rows, key=lambda node: rows[node])
            return numbers[best] if rows[best] else None

        return wait_for(look, within_s=60, why="a worker is at work")

    def spread(self) -> None:
        """The models, on every disk."""
        founder = self.client(0)
        for name in ("echo", "slow"):
            founder.add_model(MODELS / name / "model.onnx", name=name)
        runs = [
            founder.submit(*task_of(0, rounds), node=self.agents[host].id, timeout=60)
            for host in (0, *self.workers)
            for rounds in (0, 1)
        ]
        for run in runs:
            run.result()
        for host in SUBMITTERS:
            if host in self.agents:
                wait_for(lambda host=host: len(self.client(host).models()) == 2, within_s=30, why="models are known")  # type: ignore[misc]


@dataclass
class Stage:
    """Gives experiments their town, the same one to all that ask for it, and folders for networks of their own."""

    folder: Path
    seed: int = 1
    """Of what the wires do, and of who is hit."""
    minutes: float | None = None
    """How long the soak is to be, when not as long as its form says."""
    samples: Path | None = None
    """Where the soak writes down what it sees, to be judged even if it is ended."""
    _stack: ExitStack = field(default_factory=ExitStack)
    _town: Town | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def town(self) -> Town:
        """Eight agents, whole and quiet."""
        if self._town is None:
            it = self._stack.enter_context(net(self.fresh(), [[0]] * (NEWCOMER + 1), seed=self.seed))
            agents = it.mesh(range(HOSTS), roles=dict.fromkeys(SUBMITTERS, "submitter"))
            self.settle(Town(it, dict(enumerate(agents)), self.seed))
        assert self._town is not None
        self._town.net.heal()
        self._town.until_alive()
        self._town.mark()
        return self._town

    @property
    def settled(self) -> bool:
        """Whether there is a town."""
        return self._town is not None

    def settle(self, town: Town, stack: ExitStack | None = None) -> None:
        """This is the town from now on; `stack` ends what it lives on."""
        if stack is not None:
            self._stack.push(stack)
        self._stack.callback(town.close)
        self._town = town
        town.until_alive(why="the mesh stands")
        town.spread()

    def fresh(self) -> Path:
        """An empty folder."""
        folder = self.folder / f"net{next(self._numbers)}"
        folder.mkdir(parents=True)
        return folder

    def renew(self) -> None:
        """An experiment broke off: show what the agents said; the next one gets another town."""
        for agent in self._town.net.rig.agents if self._town else ():
            print(f"--- {agent.home.name} ---\n{agent.log()[-3000:]}")
        self.close()
        self._town = None

    def close(self) -> None:
        """Everything ends."""
        self._stack.close()
