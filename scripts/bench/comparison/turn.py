"""What is done with one system: start, ask for a moment, count, kill a part of it, and leave nothing behind."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.bench.comparison import counting, environments
from scripts.bench.comparison.contract import Place
from scripts.bench.comparison.register import System

ROOT = Path(__file__).resolve().parents[3]
START_S = 240.0
LEAVE_S = 40.0
"""For a process of ours that was asked to end; agents that it prepares have 20."""
FLIGHTS = 16
SETTLE_S = 1.5
IDLE_S = 6.0
BEFORE_S, AFTER_S = 2.0, 6.0
"""Load before a kill, and after."""
PORTS = 4


class TurnError(Exception):
    """The turn came to nothing; why."""


@dataclass(slots=True)
class Bench:
    """Where turns are taken."""

    at: Path
    """The environments."""
    scratch: Path
    seconds: float
    """Of each measurement."""
    _ports: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)

    def place(self, system: System, workers: int) -> Place:
        """The same for each of its turns: what was prepared stays, and where it listens."""
        folder = self.scratch / f"{system.name}-{workers}"
        folder.mkdir(exist_ok=True, mode=0o700)
        ports = self._ports.setdefault((system.name, workers), free_ports(PORTS))
        return Place(str(folder), str(self.scratch / "models"), str(self.at / "tools"), ports, workers)


def free_ports(n: int) -> tuple[int, ...]:
    """That nobody listens on now, TCP or UDP."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < n:
            tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            found.append(tcp.getsockname()[1])
        return tuple(found)


class Lines:
    """A process of ours that answers a line of JSON with one."""

    def __init__(self, command: list[str], log: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MESHNODE_")}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command,
                cwd=log.parent,
                env=environment | {"MESHNODE_LOG": "warning", "RAY_DEDUP_LOGS": "0"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for the comparison, which then ends them
            )

    def ask(self, order: dict[str, Any], within_s: float = 120.0) -> dict[str, Any]:
        """What it answers; TurnError when it says that it failed, ends, or stays silent."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise TurnError(f"it ended: {self.tail()}") from None
        if not select.select([self.process.stdout], [], [], within_s)[0]:
            raise TurnError(f"no answer to {order.get('do', 'start')} within {within_s:g} s: {self.tail()}")
        line = self.process.stdout.readline()
        if not line:
            raise TurnError(f"it ended: {self.tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise TurnError(f"{order.get('do')}: {answer['failed']}")
        return answer

    def tail(self) -> str:
        """The last line that it logged."""
        return (self.log.read_text(errors="replace").strip().splitlines() or ["no word from it"])[-1][:300]

    def end(self, within_s: float) -> None:
        """Close its input, and wait; who does something else is asked to leave it, and then made to."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        for harder in (self.process.terminate, self.process.kill, None):
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(within_s)
                return
            if harder:
                harder()
            within_s = LEAVE_S


@contextmanager
def running(bench: Bench, system: System, workers: int) -> Iterator[tuple[Lines, int, float]]:
    """The system with both models answered: (its driver, the root of its processes, seconds from start to answer)."""
    place, module = bench.place(system, workers), f"scripts.bench.comparison.systems.{system.module}"
    python, log = str(environments.python(bench.at, system.environment)), Path(place.folder) / "log"
    with ExitStack() as stack:
        words = ["-m", "scripts.bench.comparison.driver", module, place.text()]
        driver = Lines([python, *words], log.with_name("driver.log"))
        stack.callback(driver.end, 10.0)
        driver.ask({"do": "prepare"})
        commands = driver.ask({"do": "commands"})["commands"]
        keeper = Lines([str(environments.python(bench.at, "")), "-m", "scripts.bench.comparison.keeper"], log)
        stack.callback(keeper.end, 60.0)
        began = keeper.ask({"commands": commands, "folder": place.folder, "log": str(log)})["began"]
        try:
            at = driver.ask({"do": "first", "within_s": START_S}, START_S + 60)["at"]
        except TurnError as error:
            raise TurnError(f"{error}; its log ends: {keeper.tail()}") from None
        stack.callback(_close, driver)  # before the server goes, so that no library waits for it
        yield driver, keeper.process.pid, at - began


def _close(driver: Lines) -> None:
    with suppress(TurnError):
        driver.ask({"do": "close"}, 20.0)


def ask(bench: Bench, model: str, flights: int, driver: Lines, tree: int) -> dict[str, Any]:
    """A moment of questions: one in flight, or many."""
    if flights == 1:
        seen = driver.ask({"do": "latency", "model": model, "seconds": bench.seconds})
        wanted: tuple[str, ...] = ("p10_ms", "p50_ms", "p99_ms")
    else:
        order = {"do": "load", "model": model, "flights": flights, "seconds": bench.seconds, "tree": tree}
        seen, wanted = driver.ask(order), ("rate", "server_ms", "client_ms", "others")
    return {f"{model}_{name}": seen[name] for name in wanted} | {"wrong": seen["wrong"]}


def rest(trees: dict[str, int]) -> dict[str, dict[str, Any]]:
    """What the processes of each take while nobody asks anything, all looked at in the same seconds."""
    time.sleep(SETTLE_S)
    before, began = {name: counting.tree_cpu_s(tree) for name, tree in trees.items()}, time.monotonic()
    time.sleep(IDLE_S)
    took_s, found = time.monotonic() - began, {}
    for name, tree in trees.items():
        share = (counting.tree_cpu_s(tree) - before[name]) / took_s
        if pids := counting.below(tree):
            found[name] = {
                "idle_cpu": share * 100,
                "idle_mb": counting.memory_bytes(pids) / 1e6,
                "processes": len(pids),
            }
    return found


def kill(bench: Bench, system: System) -> dict[str, Any]:
    """With two workers: many in flight, and kill -9 where there is something to kill."""
    with running(bench, system, 2) as (driver, tree, _):
        order = {"do": "load", "model": "cnn", "flights": FLIGHTS, "seconds": bench.seconds, "tree": tree}
        seen = driver.ask(order)
        figures: dict[str, Any] = {"two_rate": seen["rate"], "wrong": seen["wrong"]}
        if system.killable:
            times = {"before_s": BEFORE_S, "after_s": AFTER_S}
            seen = driver.ask({"do": "kill", "model": "cnn", "flights": FLIGHTS, "tree": tree} | times)
            figures["wrong"] += seen.pop("wrong")
            figures |= {f"kill_{key}": value for key, value in seen.items()}
    return figures
