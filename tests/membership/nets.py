"""Networks of namespaces for tests: machines with their own interfaces on switches, agents that live in them.

Needs root and the kernel's namespaces, bridges and virtual cables; where they are missing, `needed()` says what.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import meshnode
from meshnode.trust.joining import Inviter
from meshnode.trust.keeper import Keeper
from meshnode.trust.redeeming import redeem

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
COMMAND = [sys.executable, "-m", "meshnode.cli.main"]
IP = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""
CONFIG = "[discovery]\npoll_s = 0.2\n"


@cache
def needed() -> str:
    """What this machine lacks for these tests; empty when nothing."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if not IP:
        return "the command `ip` is not installed"
    name = f"mnt{os.getpid()}"
    tries = [
        f"netns add {name}",
        f"-n {name} link add name mnb type bridge",
        f"-n {name} link add name mnv type veth peer name mnw",
    ]
    try:
        for words in tries:
            done = subprocess.run([IP, *words.split()], capture_output=True, text=True)
            if done.returncode:
                return f"`ip {words}`: {done.stderr.strip()}"
    finally:
        subprocess.run([IP, "netns", "del", name], capture_output=True)
    return ""


def ip(words: str) -> None:
    """Run `ip`; an error shows its words."""
    done = subprocess.run([IP, *words.split()], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {words}: {done.stderr}"


def wait_for(what: Callable[[], T | None], *, within_s: float, why: str) -> T:
    """Ask until the answer is true."""
    end = time.monotonic() + within_s
    while not (answer := what()):
        assert time.monotonic() < end, f"{why}: not within {within_s} s (last answer: {answer!r})"
        select_nothing()
    return answer


def select_nothing() -> None:
    """The step of a poll; not a synchronisation."""
    time.sleep(0.05)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets that this thread makes belong to the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        assert libc.setns(there, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert libc.setns(here, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(here)
        os.close(there)


class Net:
    """Machines a, b, … on one switch, which is a namespace of its own."""

    def __init__(self) -> None:
        self.prefix = f"mn{os.getpid()}"
        self.agents: list[Living] = []
        self._namespaces: list[str] = []
        self.switch = self.machine("switch")
        ip(f"-n {self.switch} link add name lan type bridge mcast_snooping 0")
        ip(f"-n {self.switch} link set lan up")

    def machine(self, name: str) -> str:
        """A namespace with a loopback."""
        namespace = f"{self.prefix}{name}"
        ip(f"netns add {namespace}")
        self._namespaces.append(namespace)
        ip(f"-n {namespace} link set lo up")
        return namespace

    def cable(self, namespace: str, *addresses: str, device: str = "eth0", lan: str = "lan") -> None:
        """Plug the machine into the switch."""
        port = self.port(namespace, device)
        ip(f"link add name {device} netns {namespace} type veth peer name {port} netns {self.switch}")
        ip(f"-n {self.switch} link set {port} master {lan} up")
        for address in addresses:
            ip(f"-n {namespace} addr add {address} dev {device} nodad" if ":" in address else
               f"-n {namespace} addr add {address} dev {device}")  # fmt: skip
        ip(f"-n {namespace} link set {device} up")

    def port(self, namespace: str, device: str = "eth0") -> str:
        """The switch's end of a cable."""
        return f"p{namespace.removeprefix(self.prefix)}{device}"[:15]

    def unplug(self, namespace: str, device: str = "eth0") -> None:
        """The interface is gone, as when a USB adapter is pulled."""
        ip(f"-n {namespace} link del {device}")

    def start(self, namespace: str, home: Path, *options: str, listen: str = "0.0.0.0:7433") -> Living:
        """An agent in a machine; it is not waited for."""
        agent = Living(namespace, home, options, listen)
        self.agents.append(agent)
        return agent

    def stop(self) -> None:
        for agent in self.agents:
            if agent.process.poll() is None:
                agent.process.terminate()
        for agent in self.agents:
            agent.stop()
        for namespace in self._namespaces:
            subprocess.run([IP, "netns", "del", namespace], capture_output=True)
            shutil.rmtree(f"/etc/netns/{namespace}", ignore_errors=True)


class Living:
    """An agent in a namespace; asked over its Unix socket, which namespaces do not separate."""

    def __init__(self, namespace: str, home: Path, options: tuple[str, ...], listen: str) -> None:
        self.home = home
        words = ["--home", str(home), "--json", "up", "--listen", listen, "--name", home.name, *options]
        self.process = subprocess.Popen(
            [IP, "netns", "exec", namespace, *COMMAND, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self._client: meshnode.Client | None = None

    def ready(self) -> dict[str, Any]:
        """Wait for its first line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("{"), line + self.process.stdout.read()
        answer: dict[str, Any] = json.loads(line)
        self._client = meshnode.Client(home=self.home)
        return answer

    def ask(self, verb: str) -> Any:
        assert self._client is not None, "it is not ready yet"
        return self._client.ask(verb)

    def peer(self, name: str) -> dict[str, Any]:
        """What it says about another node; empty when it knows none."""
        assert self._client is not None, "it is not ready yet"
        return next((node for node in self._client.status()["nodes"] if node["name"] == name), {})

    def connected_from(self, host: str) -> bool:
        """Whether one of its connections stands on this address of the machine."""
        end = int.from_bytes(socket.inet_aton(host), sys.byteorder)
        return any(here.startswith(f"{end:08X}:") for here, _ in self.connections())

    def connections(self) -> set[tuple[str, str]]:
        """The established TCP connections of its machine: this end and the other, as the kernel writes them."""
        net = Path(f"/proc/{self.process.pid}/net")
        lines = [line.split() for kind in ("tcp", "tcp6") for line in (net / kind).read_text().splitlines()[1:]]
        return {(line[1], line[2]) for line in lines if line[3] == "01"}

    def log(self) -> str:
        path = self.home / "agent.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


async def members(folder: Path, *names: str) -> list[Path]:
    """Homes of nodes of one mesh that have never met, and know no addresses of each other."""
    homes = [folder / name for name in names]
    first = Keeper.open(homes[0])
    first.found("m", names[0])
    inviter = Inviter(first, host="127.0.0.1", hints=lambda: ["127.0.0.1"], peers=list, joined=lambda _: None)
    for home in homes[1:]:
        keeper = Keeper.open(home)
        token = await inviter.invite(expires_s=60, roles=None, zones=())
        keeper.adopt((await redeem(keeper, token, home.name)).membership)
        keeper.close()
    await inviter.stop()
    first.close()
    for home in homes:
        (home / "config.toml").write_text(CONFIG)
    return homes


def sniffer(namespace: str, device: str) -> socket.socket:
    """All frames that pass an interface."""
    with inside(namespace):
        sniffing = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sniffing.bind((device, 0))
    sniffing.setblocking(False)
    return sniffing
