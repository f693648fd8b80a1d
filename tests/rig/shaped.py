"""Real agents on hosts behind one switch of the kernel's, each with a way in and a way out of a given width.

The rig's own switch (`tests.rig.net`) can do anything to a frame, at the speed of Python; here only the rate is
bounded, by token buckets in the kernel, which carry gigabits. It needs root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import meshnode
from tests.mesh.rig import COMMAND, Agent, Rig

BURST = "64kb"
QUEUE = "50ms"
"""What waits longer is dropped, as by a switch."""


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


class Shaped:
    """Hosts are numbers from 0."""

    def __init__(self, folder: Path, hosts: int, mbit: float) -> None:
        self.rig = Rig(folder)
        self._name = f"mn{os.getpid() % 10_000}"
        self._hosts = hosts
        self._bridge = f"{self._name}b"
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "link", "set", self._bridge, "up")
        for host in range(hosts):
            space, outer = f"{self._name}-{host}", f"{self._name}v{host}"
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "link", "set", outer, "master", self._bridge, "up")
            inside = ("ip", "netns", "exec", space)
            _run(*inside, "ip", "link", "set", "lo", "up")
            _run(*inside, "ip", "addr", "add", f"10.77.0.{host + 1}/24", "dev", "eth0")
            _run(*inside, "ip", "link", "set", "eth0", "up")
            shape = ("root", "tbf", "rate", f"{mbit}mbit", "burst", BURST, "latency", QUEUE)
            _run("tc", "qdisc", "add", "dev", outer, *shape)
            _run(*inside, "tc", "qdisc", "add", "dev", "eth0", *shape)

    def up(self, host: int, *options: str) -> Agent:
        """Start, or start again, the agent of a host."""
        command = ["ip", "netns", "exec", f"{self._name}-{host}", *COMMAND]
        return self.rig.start(f"h{host}", *options, listen=f"10.77.0.{host + 1}:7433", command=command)

    def mesh(self, *options: str) -> list[Agent]:
        """An agent on each host, in one mesh."""
        first = self.up(0, *options)
        with meshnode.Client(home=first.home) as client:
            tokens = [client.ask("invite")["token"] for _ in range(1, self._hosts)]
        with ThreadPoolExecutor(4) as pool:
            return [first, *pool.map(lambda it: self.up(it[0], it[1], *options), enumerate(tokens, 1))]

    def sent(self, host: int) -> int:
        """Bytes that a host has sent, with all headers."""
        return int(Path(f"/sys/class/net/{self._name}v{host}/statistics/rx_bytes").read_text())

    def stop(self) -> None:
        """End the agents and take the hosts away."""
        try:
            self.rig.stop()
        finally:
            for host in range(self._hosts):
                subprocess.run(["ip", "netns", "del", f"{self._name}-{host}"], check=False, capture_output=True)
            subprocess.run(["ip", "link", "del", self._bridge], check=False, capture_output=True)


@contextmanager
def shaped(folder: Path, hosts: int, mbit: float) -> Iterator[Shaped]:
    """Hosts that are gone at the end."""
    it = Shaped(folder, hosts, mbit)
    try:
        yield it
    except BaseException:
        for agent in it.rig.agents:
            print(f"--- {agent.home.name} ---\n{agent.log()[-3000:]}")
        raise
    finally:
        it.stop()
