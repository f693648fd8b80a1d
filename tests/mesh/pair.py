"""Two real agents that cannot send each other anything, and a third that reaches both."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from tests.mesh.rig import Agent, Rig

WALLED = (sys.executable, str(Path(__file__).parent / "walled.py"))
SETTINGS = "[links]\nrelay_retry_s = 0.5\nrelay_retry_max_s = 2\n"


def free_port() -> int:
    """A port that nobody has, TCP or UDP, at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(tcp.getsockname())
        return int(tcp.getsockname()[1])


class Pair:
    """`a` and `b` with a wall between them, in the mesh of `r`, which relays at its rate or without one."""

    def __init__(self, rig: Rig, *, capped: bool = True) -> None:
        self.rig = rig
        home = self._home("r")
        if not capped:
            (home / "config.toml").write_text("[links]\nrelay_bytes_s = 0\nrelay_total_bytes_s = 0\n")
        self.r = rig.start("r")
        ports = free_port(), free_port()
        self.a = self._start("a", ports[0], other=ports[1])
        self.b = self._start("b", ports[1], other=ports[0])

    def _start(self, name: str, port: int, *, other: int) -> Agent:
        home = self._home(name)
        (home / "wall").write_text(str(other))
        (home / "config.toml").write_text(SETTINGS)
        token = self.r.command("invite").stdout.strip()
        return self.rig.start(name, token, listen=f"127.0.0.1:{port}", command=WALLED)

    def _home(self, name: str) -> Path:
        home = self.rig.folder / name
        home.mkdir(mode=0o700)
        return home

    def tear_down(self) -> None:
        """From now on everything gets through."""
        for agent in (self.a, self.b):
            (agent.home / "wall").unlink()

    def linked(self, path: str) -> bool:
        """Whether both see each other that way."""
        return [path, path] == [way(self.a, self.b), way(self.b, self.a)]


def way(agent: Agent, other: Agent) -> str:
    """How an agent reaches another that it would use; `none` when it would not."""
    row = next((node for node in agent.status()["nodes"] if node["id"] == other.id), None)
    return str(row["path"]) if row is not None and row["usable"] and row["state"] == "alive" else "none"
