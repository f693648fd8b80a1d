"""A network of hosts that are namespaces behind the rig's switch, with real agents in them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.mesh.rig import COMMAND, Agent, Rig, wait_for
from tests.rig import switch

ROOT = Path(__file__).parent.parent.parent
_numbers = itertools.count()
"""Of the networks of this process: two may stand at a time."""


def unavailable() -> str:
    """Why there can be no rig here; empty when there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces and TAP devices need root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    try:
        subprocess.run(["ip", "netns", "list"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"`ip netns` does not work: {error}"
    return ""


class Net:
    """The switch as a process, and the agents behind it. Hosts are numbers from 0."""

    def __init__(self, folder: Path, hosts: Sequence[Sequence[int]], seed: int) -> None:
        switch.remove_left_behind()
        self.rig = Rig(folder)
        self.size = len(hosts)
        self.prefix = f"mnrig{os.getpid()}-{next(_numbers)}"
        given = {"prefix": self.prefix, "seed": seed, "hosts": [list(subnets) for subnets in hosts]}
        self._switch = subprocess.Popen(
            [sys.executable, "-m", "tests.rig.switch", json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._answer()

    def set(self, sender: int, receiver: int, **policy: float) -> None:
        """What happens to frames from one host to another (-1 for any); see `wires.Policy`."""
        self._tell({"set": [sender, receiver], **policy})

    def cut(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Nothing passes between some hosts and others, either way."""
        for a in some:
            for b in others:
                self.set(a, b, cut=True)
                self.set(b, a, cut=True)

    def heal(self) -> None:
        """All wires are whole again."""
        self._tell({"heal": True})

    def inside(self, host: int, *command: str) -> list[str]:
        """A command as it is run on a host."""
        return ["ip", "netns", "exec", switch.namespace(self.prefix, host), *command]

    def ip(self, host: int, *words: str) -> None:
        """`ip WORDS` on a host."""
        subprocess.run(["ip", "-n", switch.namespace(self.prefix, host), *words], check=True, capture_output=True)

    def up(self, host: int, *options: str) -> Agent:
        """Start the agent of a host, with multicast discovery, and wait until it is ready."""
        return self.rig.start(
            f"h{host}", *options, listen="0.0.0.0:7433", command=self.inside(host, *COMMAND), mdns=True
        )

    def mesh(self, hosts: Sequence[int], inviter: int | None = None) -> list[Agent]:
        """Agents on these hosts, in one mesh; the first founds it and invites the others."""
        first = self.up(hosts[0])
        return [first, *(self.up(host, first.command("invite").stdout.strip()) for host in hosts[1:])]

    def stop(self) -> None:
        """End the agents, then the switch, which removes what it made."""
        try:
            self.rig.stop()
        finally:
            assert self._switch.stdin is not None
            assert self._switch.stdout is not None
            self._switch.stdin.close()
            self._switch.wait(20)
            self._switch.stdout.close()

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._switch.stdin is not None
        self._switch.stdin.write(json.dumps(command) + "\n")
        self._switch.stdin.flush()
        answer = self._answer()
        assert answer["ok"], answer

    def _answer(self) -> dict[str, Any]:
        assert self._switch.stdout is not None
        line = self._switch.stdout.readline()
        assert line, "the switch ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def net(folder: Path, hosts: Sequence[Sequence[int]], *, seed: int = 1) -> Iterator[Net]:
    """A network that is gone at the end; agents' logs are shown when something failed."""
    it = Net(folder, hosts, seed)
    try:
        yield it
    except BaseException:
        for agent in it.rig.agents:
            print(f"--- {agent.home.name} ---\n{agent.log()[-3000:]}")
        raise
    finally:
        it.stop()


def all_alive(agents: Sequence[Agent]) -> bool:
    """Whether each of these agents holds all of them alive."""
    everyone = {agent.id for agent in agents}
    return all({i for i, state in agent.states().items() if state == "alive"} >= everyone for agent in agents)


def until_all_alive(agents: Sequence[Agent], within_s: float, why: str) -> None:
    """Wait for it."""
    wait_for(lambda: all_alive(agents), within_s=within_s, why=why)
