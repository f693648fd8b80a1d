"""Real agents as real processes on loopback, for the tests in this folder.

Each agent has its own home and is driven only through the installed command and the public client, as a user would.
Everything that is started is ended when the `Rig` is left, and what an agent logged is printed when a test fails.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

import meshnode

T = TypeVar("T")

COMMAND = [sys.executable, "-m", "meshnode.cli.main"]
MODELS = Path(__file__).parent.parent.parent / "models"


def wait_for(what: Callable[[], T | None], *, within_s: float, why: str) -> T:
    """Ask until the answer is neither None nor False; fail with `why` when the time is up.

    The bound is one on liveness: generous, because the machine may be loaded.
    """
    end = time.monotonic() + within_s
    while True:
        answer = what()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{why}: not within {within_s} s (last answer: {answer!r})")
        pause()


def pause() -> None:
    """The step of a poll; not a synchronisation."""
    time.sleep(0.02)


@dataclass
class Agent:
    """One agent: its home, its process and what it said when it was ready."""

    home: Path
    options: tuple[str, ...]
    process: subprocess.Popen[str]
    program: Sequence[str] = field(default_factory=lambda: COMMAND)
    """What `meshnode` is for it."""
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.ready["id"])

    @property
    def address(self) -> str:
        return str(self.ready["listen"])

    def command(self, *words: str, check: int | None = 0, within_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """`meshnode --home … WORDS`; the exit code is checked unless `check` is None."""
        done = subprocess.run(
            [*self.program, "--home", str(self.home), *words],
            capture_output=True,
            text=True,
            timeout=within_s,
            stdin=subprocess.DEVNULL,
        )
        if check is not None and done.returncode != check:
            raise AssertionError(
                f"meshnode {' '.join(words)}: exit {done.returncode}, expected {check}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def json(self, *words: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.command("--json", *words).stdout)

    def status(self) -> Any:
        """The document of `meshnode status --json`, without the start of a command: it is polled."""
        with meshnode.Client(home=self.home) as client:
            return client.status()

    def states(self) -> dict[str, str]:
        """Node id to state, as this agent sees it."""
        return {node["id"]: node["state"] for node in self.status()["nodes"]}

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def terminate(self, within_s: float = 15.0) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def log(self) -> str:
        path = self.home / "agent.log"
        return path.read_text(errors="replace") if path.exists() else ""


class Rig:
    """A folder of homes and the agents that live in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agents: list[Agent] = []
        self.programs: Mapping[str, Sequence[str]] = {}
        """What `meshnode` is for the agents of these names, where it is not that of this checkout."""

    def program(self, name: str) -> Sequence[str]:
        """What `meshnode` is for the agent of that name."""
        return self.programs.get(name, COMMAND)

    def start(
        self,
        name: str,
        *options: str,
        listen: str = "127.0.0.1:0",
        within_s: float = 60.0,
        command: Sequence[str] = (),
        mdns: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Agent:
        """Start (or restart) the agent of that name and wait until it is ready; `command` is its program, inside of
        what may be around it."""
        home = self.folder / name
        words = ["up", "--manners", "free", *options, "--json", "--name", name, "--listen", listen]
        words += [] if mdns else ["--no-mdns"]
        process = subprocess.Popen(
            [*(command or self.program(name)), "--home", str(home), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        )
        agent = Agent(home, options, process, self.program(name))
        self.agents.append(agent)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            _, errors = process.communicate(timeout=within_s)
            raise AssertionError(f"{name} did not start: exit {process.returncode}\n{errors}\n{agent.log()}")
        agent.ready = json.loads(line)
        assert agent.ready["event"] == "ready", line
        return agent

    def mesh(self, n: int) -> list[Agent]:
        """N agents in one mesh: the first founds it and invites the others."""
        first = self.start("n0")
        agents = [first]
        for i in range(1, n):
            token = first.command("invite").stdout.strip()
            agents.append(self.start(f"n{i}", token))
        everyone = {agent.id for agent in agents}
        for agent in agents:
            wait_for(
                lambda agent=agent: {i for i, s in agent.states().items() if s == "alive"} == everyone,  # type: ignore[misc]
                within_s=30,
                why=f"{agent.home.name} sees all {n} nodes",
            )
        return agents

    def stop(self) -> None:
        """End every agent; whatever they leave behind is an error."""
        children = [
            child
            for agent in self.agents
            if agent.process.poll() is None
            for child in psutil.Process(agent.process.pid).children(recursive=True)
        ]
        for agent in self.agents:
            if agent.process.poll() is None:
                agent.process.terminate()
        for agent in self.agents:
            try:
                agent.process.wait(20)
            except subprocess.TimeoutExpired:
                agent.process.kill()
                agent.process.wait()
                raise AssertionError(f"{agent.home.name} did not end on SIGTERM\n{agent.log()[-3000:]}") from None
            finally:
                for stream in (agent.process.stdout, agent.process.stderr):
                    if stream is not None:
                        stream.close()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, f"left behind: {alive}"


@contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    """A `Rig` that is stopped at the end; agents' logs are shown when the test failed."""
    it = Rig(folder)
    try:
        yield it
    except BaseException:
        for agent in it.agents:
            print(f"--- {agent.home.name} ---\n{agent.log()[-4000:]}")
        raise
    finally:
        it.stop()
