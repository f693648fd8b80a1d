"""P26: hours of every kind of fault, one after the other, under steady tasks: none is lost, and nothing piles up."""

from __future__ import annotations

import itertools
import os
import random
import secrets
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

import meshnode
from meshnode.errors import MeshError
from tests.mesh.history import Task
from tests.mesh.load import Load, task_of, wanted_of
from tests.mesh.rig import MODELS, Agent, wait_for
from tests.rig.net import Net, net
from tests.rig.promises import samples
from tests.rig.promises.figures import Figure
from tests.rig.promises.record import machine, now
from tests.rig.promises.town import HOSTS, NEWCOMER, SUBMITTERS, Stage, Town, wait

MINUTES = 120.0
EVERY_S = 30.0
"""From one fault to the next, when the first is over."""
SAMPLE_S = 60.0
RATES = (5.0, 5.0)
"""Tasks a second of the two clients: of the echo model and of the slow one."""
ROUNDS = 500
"""About a millisecond."""
LONG = 150_000
"""Long enough to be found at work."""
TIMEOUT_S = 30.0
PATIENCE_S = 600.0
"""What a soak waits for before it gives up; how long it took is a figure, hours are not thrown away for a busy one."""
LOOK_S = 0.25
"""Eight agents are asked what they see of each other no more often: the soak is to be a light one."""
COUNTED = Path(__file__).parents[1] / "counted.py"


def keep(stage: Stage, full: bool) -> list[Figure]:
    """In full, two hours in a mesh of its own; else each kind of fault once."""
    book = samples.Book(stage.samples)
    minutes = stage.minutes or (MINUTES if full else 0.0)
    with net(stage.fresh(), [[0]] * (NEWCOMER + 1), seed=stage.seed) as it, ExitStack() as stack:
        soak = Soak(it, book, stage.seed, stack)
        book.write(
            "begin",
            date=now(),
            machine=machine(),
            seed=stage.seed,
            minutes=minutes,
            hosts=HOSTS,
            rate=sum(RATES),
            spared=[f"h{host}" for host in soak.spared],
        )
        why = "it broke off"
        try:
            soak.run(minutes * 60, quick=not full)
            why = ""
        except BaseException as error:
            why = repr(error).partition("\\n")[0]
            raise
        finally:
            book.write("end", why=why)
    return samples.judged(book.lines)


class Soak:
    """A town of agents that can be counted, and what happens to it."""

    def __init__(self, it: Net, book: samples.Book, seed: int, stack: ExitStack) -> None:
        self._temporary = it.rig.folder / "tmp"
        self._temporary.mkdir()
        for host in range(NEWCOMER + 1):
            it.rig.programs[f"h{host}"] = [sys.executable, "-P", str(COUNTED)]
        agents = it.mesh(range(HOSTS), roles=dict.fromkeys(SUBMITTERS, "submitter"), env=self._env_of(it))
        self.town = town = Town(it, dict(enumerate(agents)), seed)
        stack.callback(town.close)
        self._env = self._env_of(it)
        self._book, self._rng = book, random.Random(seed)
        self.spared = (0, *SUBMITTERS, town.workers[0])
        """The founder, the clients' own, and a worker: what piles up, piles up in them."""
        self._mortal = town.workers[1:]
        self._faults, self._extra = Counter[str](), list[Task]()
        self._broken, self._slowest_whole_s = list[str](), 0.0
        self._spent, self._looked = 0.0, time.monotonic()
        self._faulty: dict[str, Callable[[], None]] = {
            "killed and started again": self._killed,
            "frozen": self._frozen,
            "cut off": self._cut,
            "cut in halves": self._halved,
            "models added and removed": self._model,
            "joined and revoked": self._joined,
            "worker crashes": self._crashed,
        }
        town.until_alive(why="the mesh stands")
        town.spread()

    def _env_of(self, it: Net) -> Callable[[int], list[str]]:
        return lambda host: [f"TMPDIR={self._temporary}", f"RIG_COUNTS={it.rig.folder / f'h{host}.counts'}"]

    def run(self, seconds: float, *, quick: bool) -> None:
        """Faults and samples for so long; at least each kind once, and with `quick` without a pause."""
        hosts = [self.town.agents[host].home for host in SUBMITTERS]
        self._quick = quick
        with (
            Load(hosts[0], RATES[0], 0, TIMEOUT_S) as echo,
            Load(hosts[1], RATES[1], ROUNDS, TIMEOUT_S) as slow,
        ):
            loads = [echo, slow]
            wait_for(lambda: all(load.answered for load in loads), within_s=60, why="the load runs")
            began = sampled = time.monotonic()
            self._processor()
            self._sample(loads)
            for number, name in enumerate(self._order()):
                if number >= len(self._faulty) and time.monotonic() > began + seconds:
                    break
                due = time.monotonic() + (0 if quick else EVERY_S)
                self._do(name)
                wait(due - time.monotonic())
                if time.monotonic() > sampled + SAMPLE_S:
                    sampled = time.monotonic()
                    self._sample(loads)
        self._sample(loads)

    def _do(self, name: str) -> None:
        """A fault, until all is whole again. One that does not go as it should is a line, and the next one is tried."""
        try:
            self._faulty[name]()
        except (MeshError, AssertionError, TimeoutError) as error:
            self._broken.append(f"{name}: {error!r}")
            print(f"{name}: {error!r}", flush=True)
            self.town.net.heal()
            if NEWCOMER in self.town.agents:
                self._dismiss(self.town.agents[NEWCOMER])
        over = time.monotonic()
        self._whole()
        self._slowest_whole_s = max(self._slowest_whole_s, time.monotonic() - over)
        self._faults[name] += 1

    def _order(self) -> Iterator[str]:
        for _ in itertools.count():
            names = sorted(self._faulty)
            self._rng.shuffle(names)
            yield from names

    def _sample(self, loads: list[Load]) -> None:
        town = self.town
        processes = self._processes()
        tasks = [task for load in loads for task in load.history] + self._extra
        line = self._book.write(
            "sample",
            faults=dict(sorted(self._faults.items())),
            broken=list(self._broken),
            whole_s=round(self._slowest_whole_s, 2),
            work=samples.of_tasks(tasks, time.monotonic()),
            cores=self._processor(),
            load=os.getloadavg()[0],
            agents={f"h{host}": samples.of_agent(agent) for host, agent in town.agents.items()},
            lying=samples.left_lying(self._temporary, processes),
        )
        print(samples.progress(line, [f"h{host}" for host in self.spared]), flush=True)

    def _processes(self) -> list[psutil.Process]:
        found = list[psutil.Process]()
        for child in psutil.Process().children():  # agents, and the switch
            with suppress(psutil.Error):
                found += [child, *child.children(recursive=True)]
        return found

    def _processor(self) -> float:
        """Processors in use since the last time."""
        spent, looked = samples.processor_s(self._processes()), time.monotonic()
        cores = (spent - self._spent) / max(0.001, looked - self._looked)
        self._spent, self._looked = spent, looked
        return round(cores, 3)

    def _whole(self) -> None:
        """Wait until everyone is alive for everyone."""
        self._until(self.town.all_alive, "everyone is alive for everyone again")

    def _until(self, what: Callable[[], bool], why: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < end, f"{why}: not within {PATIENCE_S:g} s"
            wait(LOOK_S)

    def _follow(
        self, client: meshnode.Client, model: str, of: int, rounds: int = 0, node: str | None = None
    ) -> Future[Any]:
        """A task that is judged with the rest."""
        task = Task(len(self._extra), time.monotonic())
        self._extra.append(task)
        future = client.submit(model, task_of(of, rounds)[1], node=node, timeout=TIMEOUT_S)
        task.follow(future, partial(wanted_of, of, rounds))
        return future

    # --- the faults ---

    def _killed(self) -> None:
        host = self._rng.choice(self._mortal)
        self.town.agents[host].kill()
        wait(0.2 if self._quick else 2.0)
        self.town.restart(host, env=self._env(host))

    def _frozen(self) -> None:
        agent = self.town.agents[self._rng.choice(self.town.workers)]
        agent.process.send_signal(signal.SIGSTOP)
        try:
            wait(0.5 if self._quick else self._rng.choice((1.0, 4.0, 20.0)))
        finally:
            agent.process.send_signal(signal.SIGCONT)

    def _cut(self) -> None:
        host = self._rng.choice(self.town.workers)
        self.town.net.cut([host], [other for other in self.town.agents if other != host])
        wait(0.5 if self._quick else self._rng.choice((1.0, 5.0, 15.0)))
        self.town.net.heal()

    def _halved(self) -> None:
        """Each half has a client and who does its work."""
        hosts = [host for host in self.town.agents if host not in SUBMITTERS]
        self._rng.shuffle(hosts)
        half = len(hosts) // 2
        self.town.net.cut([SUBMITTERS[0], *hosts[:half]], [SUBMITTERS[1], *hosts[half:]])
        wait(0.5 if self._quick else self._rng.choice((3.0, 12.0)))
        self.town.net.heal()

    def _own(self, model: str) -> str:
        """One of the models under bytes of its own, as a new one of the mesh; its name."""
        name = f"{model}-{secrets.token_hex(4)}"
        path = self._temporary.parent / f"{name}.onnx"
        note = name.encode()
        path.write_bytes((MODELS / model / "model.onnx").read_bytes() + bytes([6 << 3 | 2, len(note)]) + note)
        try:
            self.town.client(0).add_model(path, name=name)
        finally:
            path.unlink()
        for host in SUBMITTERS:
            self._until(partial(self._has, host, name), f"h{host} knows {name}")
        return name

    def _has(self, host: int, name: str) -> bool:
        return name in {model["name"] for model in self.town.client(host).models()}

    def _model(self) -> None:
        """A new model, run where it has to be fetched first, and gone again everywhere."""
        name = self._own("echo")
        for host in self._rng.sample(self.town.workers, 2):
            client = self.town.client(self._rng.choice(SUBMITTERS))
            self._follow(client, name, self._rng.randrange(1000), node=self.town.agents[host].id).exception(90)
        self._gone(name)

    def _gone(self, name: str) -> None:
        self.town.client(0).ask("model.remove", model=name)
        for host in self.town.agents:
            self._until(lambda host=host: not self._has(host, name), f"{name} is gone for h{host}")  # type: ignore[misc]

    def _joined(self) -> None:
        """A ninth machine comes, works, and is thrown out."""
        town, founder = self.town, self.town.client(0)
        agent = town.net.up(NEWCOMER, founder.ask("invite")["token"], env=self._env(NEWCOMER))
        town.agents[NEWCOMER] = agent
        self._whole()
        self._follow(town.client(SUBMITTERS[0]), "echo", 7, node=agent.id).exception(90)
        founder.ask("revoke", node=agent.id, reason="the soak")
        others = [host for host in town.agents if host != NEWCOMER]
        for host in others:
            self._until(partial(self._revoked, host, agent.id), f"h{host} knows that it is revoked")
        self._dismiss(agent)

    def _dismiss(self, agent: Agent) -> None:
        self.town.dismiss(NEWCOMER)
        self.town.net.rig.agents.remove(agent)
        for stream in (agent.process.stdout, agent.process.stderr):
            assert stream is not None
            stream.close()
        shutil.rmtree(agent.home)
        samples.counts_of(agent).unlink(missing_ok=True)

    def _revoked(self, host: int, node: str) -> bool:
        return any(row["id"] == node and row["revoked"] for row in self.town.client(host).ask("members"))

    def _crashed(self) -> None:
        """SIGSEGV for the worker that has a task inside; of a model of its own, which nobody needs if it is blamed."""
        name, client = self._own("slow"), self.town.client(SUBMITTERS[0])
        future = self._follow(client, name, self._rng.randrange(1000), LONG)
        while not future.done():
            if (pid := self._at_work()) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSEGV)
                break
            wait(0.05)
        future.exception(90)
        self._gone(name)

    def _at_work(self) -> int | None:
        """A worker process with a task inside."""
        ids = {agent.id: agent for agent in self.town.agents.values()}
        for row in self.town.client(SUBMITTERS[0]).status()["nodes"]:
            if row["in_flight"] and row["id"] in ids:
                children = psutil.Process(ids[row["id"]].process.pid).children()
                return children[0].pid if children else None
        return None
