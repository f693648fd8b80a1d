"""Machines of different speed on one: worker processes are stopped and let go on in a fixed cycle, one after the other.

A process of its own does it (`python -m tests.mesh.live.throttle`), told by lines on its standard input what each
agent's workers may have; where it is allowed to, it comes before ordinary processes, so that a share is a share on a
busy machine too. A worker that is new is left alone until it is ready, for its start is not what is measured. Linux:
a worker is held by a descriptor, so that no signal ever reaches another process that got its number.

    share PID SHARE    the workers of the agent PID get this share of a core
    hold PID           they stay stopped
    leave PID          they run freely
    forget PID         the agent is gone

When its standard input ends it lets everything go on, and ends.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

CYCLE_S = 0.02
LOOK_S = 0.1
"""How often new workers are looked for."""
NEW_S = 10.0
"""A worker that is not ready after so long is treated as one that is."""
MODULE = b"meshnode.execution.confined"
ROOT = Path(__file__).resolve().parent.parent.parent.parent


@dataclass(slots=True)
class _Worker:
    pid: int
    fd: int
    born: float
    ready: bool = False

    def tell(self, signum: signal.Signals) -> bool:
        """Whether it was still there."""
        try:
            signal.pidfd_send_signal(self.fd, signum)
        except ProcessLookupError:
            return False
        return True

    def look(self, now: float) -> None:
        """It is ready when the threads that serve have begun."""
        with suppress(OSError):
            tasks = len(os.listdir(f"/proc/{self.pid}/task"))
            self.ready = self.ready or tasks > 1 or now - self.born > NEW_S


@dataclass(slots=True)
class _Agent:
    share: float
    held: bool = False
    workers: dict[int, _Worker] = field(default_factory=dict)

    def look(self, pid: int, now: float) -> None:
        """Take up workers that are new."""
        for child in workers_of(pid):
            if child not in self.workers:
                with suppress(OSError):
                    self.workers[child] = _Worker(child, os.pidfd_open(child), now)
        for worker in self.workers.values():
            worker.look(now)

    def tell(self, signum: signal.Signals) -> None:
        """To those that are ready; those that are gone are forgotten."""
        for worker in [it for it in self.workers.values() if it.ready]:
            if not worker.tell(signum):
                os.close(worker.fd)
                del self.workers[worker.pid]


def workers_of(pid: int) -> list[int]:
    """The worker processes of an agent."""
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                if MODULE in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def obey(agents: dict[int, _Agent], line: str) -> None:
    """One order."""
    verb, pid, *rest = line.split()
    agent = agents.setdefault(int(pid), _Agent(1.0))
    match verb:
        case "share":
            agent.share, agent.held = float(rest[0]), False
        case "hold":
            agent.held = True
            agent.tell(signal.SIGSTOP)
        case "leave":
            agent.share, agent.held = 1.0, False
            agent.tell(signal.SIGCONT)
        case "forget":
            del agents[int(pid)]
            agent.tell(signal.SIGCONT)
            for worker in agent.workers.values():
                os.close(worker.fd)


def turn(agents: dict[int, _Agent], cycle_s: float) -> None:
    """Each agent's workers in their turn, and nobody for the rest of the cycle."""
    ends = time.monotonic() + cycle_s
    for agent in agents.values():
        if agent.share < 1.0 and not agent.held:
            agent.tell(signal.SIGCONT)
            time.sleep(agent.share * cycle_s)
            agent.tell(signal.SIGSTOP)
    time.sleep(max(0.0, ends - time.monotonic()))


def main() -> None:
    """Until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; whoever started this ends it
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.set_blocking(0, False)
    agents: dict[int, _Agent] = {}
    looked, pending = 0.0, b""
    try:
        while True:
            if select.select([0], [], [], 0)[0]:
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    obey(agents, line.decode())
            if (now := time.monotonic()) - looked > LOOK_S:
                looked = now
                for pid, agent in agents.items():
                    agent.look(pid, now)
            turn(agents, CYCLE_S)
    finally:
        for agent in agents.values():
            agent.tell(signal.SIGCONT)


class Throttle:
    """The process, from the outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mesh.live.throttle"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def tell(self, *words: object) -> None:
        """An order; see the module's docstring. It is carried out within a cycle."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")

    def close(self) -> None:
        """Let everything go on."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


if __name__ == "__main__":
    main()
