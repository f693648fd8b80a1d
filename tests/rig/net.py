"""A network of hosts that are namespaces behind the rig's switch, with real agents in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import meshnode
from tests.mesh.rig import Agent, Rig, wait_for

ROOT = Path(__file__).parent.parent.parent

NAMESPACES = {False: ["unshare", "-n"], True: ["unshare", "-Urn"]}
"""The switch's own network namespace; without root in a user namespace of its own, where it may make what it needs."""


def rootless() -> bool:
    """Whether a rig has to do without root."""
    return os.geteuid() != 0


def unavailable() -> str:
    """Why there can be no rig here; empty when there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    try:
        # A pair of devices in two namespaces is what a rig is made of.
        probe = "ip link add rig0 type veth peer name rig1 && unshare -n true && nsenter --version"
        subprocess.run([*NAMESPACES[rootless()], "sh", "-c", probe], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        fix = "be root, or `sysctl -w user.max_user_namespaces=9999 kernel.apparmor_restrict_unprivileged_userns=0`"
        return f"this user may not make network namespaces with devices ({error.stderr.strip()}); {fix}"
    except OSError as error:
        return f"a tool is missing: {error}"
    return ""


CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"
"""Of IPv6 as well."""


class Net:
    """The switch as a process, and the agents behind it. Hosts are numbers from 0.

    Args:
        hosts: for each its subnets.
        seed: of what the wires do.
        rootless: make the namespaces as an ordinary user can; None for as this user has to.
    """

    def __init__(
        self,
        folder: Path,
        hosts: Sequence[Sequence[int]],
        seed: int,
        *,
        rootless: bool | None = None,
    ) -> None:
        self.rig = Rig(folder)
        self.size = len(hosts)
        self._rootless = os.geteuid() != 0 if rootless is None else rootless
        given = {"seed": seed, "hosts": [list(subnets) for subnets in hosts]}
        self._switch = subprocess.Popen(
            [*NAMESPACES[self._rootless], sys.executable, "-m", "tests.rig.switch", json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._pids: list[int] = self._answer()["hosts"]

    def set(self, sender: int, receiver: int, **policy: float) -> None:
        """What happens to frames from one host to another (-1 for any); see `wires.Policy`."""
        self._tell({"set": [sender, receiver], **policy})

    def cut(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Nothing passes between some hosts and others, either way."""
        for a in some:
            for b in others:
                self.set(a, b, cut=True)
                self.set(b, a, cut=True)

    def record(self, path: Path | None) -> None:
        """Write down every frame from now on; None ends it."""
        self._tell({"record": None if path is None else str(path)})

    def heal(self) -> None:
        """All wires are whole again."""
        self._tell({"heal": True})

    def inside(self, host: int, *command: str) -> list[str]:
        """A command as it is run on a host."""
        within = ["-U", "--preserve-credentials"] if self._rootless else []
        return ["nsenter", "-t", str(self._pids[host]), *within, "-n", "--", *command]

    def ip(self, host: int, *words: str) -> None:
        """`ip WORDS` on a host."""
        subprocess.run(self.inside(host, "ip", *words), check=True, capture_output=True)

    def congestion(self, way: str) -> str:
        """TCP's congestion control on all hosts, of connections that are made from now on; returns what it was.

        At first it is that of this machine. Every kernel has `reno` and lets a namespace choose it.
        """
        for host in range(self.size):
            tell = f"cat {CONGESTION} && echo {way} >{CONGESTION}"
            was = subprocess.run(self.inside(host, "sh", "-c", tell), check=True, capture_output=True, text=True).stdout
        return was.strip()

    def up(self, host: int, *options: str, env: Sequence[str] = ()) -> Agent:
        """Start the agent of a host, with multicast discovery, and wait until it is ready; `env` is of KEY=VALUE."""
        command = self.inside(host, "env", *env, *self.rig.program(f"h{host}"))
        return self.rig.start(f"h{host}", *options, listen="0.0.0.0:7433", command=command, mdns=True)

    def join(self, host: int, token: str) -> None:
        """Make a host's home a member, without an agent."""
        command = self.inside(
            host, *self.rig.program(f"h{host}"), "--home", str(self.rig.folder / f"h{host}"), "join", token
        )
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def mesh(
        self,
        hosts: Sequence[int],
        *,
        roles: Mapping[int, str] | None = None,
        env: Callable[[int], Sequence[str]] = lambda host: (),
    ) -> list[Agent]:
        """Agents on these hosts, in one mesh; the first founds it and invites the others, which join all at once."""
        first = self.up(hosts[0], env=env(hosts[0]))
        with meshnode.Client(home=first.home) as client:
            tokens = {host: client.ask("invite", role=(roles or {}).get(host))["token"] for host in hosts[1:]}
        with ThreadPoolExecutor(max(1, len(tokens))) as pool:
            return [first, *pool.map(lambda host: self.up(host, tokens[host], env=env(host)), hosts[1:])]

    def stop(self) -> None:
        """End the agents, then the switch, with which all that it made is gone."""
        try:
            self.rig.stop()
        finally:
            assert self._switch.stdin is not None
            assert self._switch.stdout is not None
            self._switch.stdin.close()
            self._switch.wait(20)
            self._switch.stdout.close()

    def dials(self) -> int:
        """So many TCP connections were begun on these wires, the ones in vain too; and the system's own repeats."""
        return int(self._tell({})["dials"])

    def _tell(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._switch.stdin is not None
        self._switch.stdin.write(json.dumps(command) + "\n")
        self._switch.stdin.flush()
        answer = self._answer()
        assert answer["ok"], answer
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._switch.stdout is not None
        line = self._switch.stdout.readline()
        assert line, "the switch ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def net(
    folder: Path,
    hosts: Sequence[Sequence[int]],
    *,
    seed: int = 1,
    rootless: bool | None = None,
) -> Iterator[Net]:
    """A network that is gone at the end; agents' logs are shown when something failed."""
    it = Net(folder, hosts, seed, rootless=rootless)
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
