"""A throw-away mesh for other people's tests: real agents in processes of their own, on loopback, gone afterwards.

with meshnode.testing.Mesh(n=3) as mesh:
    with mesh.client() as client:
        client.add_model("model.onnx", name="mine")
        client.infer("mine", {"x": x})
    mesh.kill(1)
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from meshnode.blocking import Client
from meshnode.errors import AgentUnavailable

COMMAND = (sys.executable, "-m", "meshnode.cli.main")
READY_S = 60.0
END_S = 15.0


class Mesh:
    """N agents in one mesh; the first founded it and invited the others.

    Args:
        n: how many agents.

    Raises AgentUnavailable when an agent does not start, or they do not all see each other within a minute.
    """

    def __init__(self, n: int = 3) -> None:
        self._n = n
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._processes: list[subprocess.Popen[str]] = []
        self.homes: list[Path] = []
        self.ids: list[str] = []

    def __enter__(self) -> Mesh:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the agents and wait until each sees all."""
        self._folder = tempfile.TemporaryDirectory(prefix="meshnode-test-")
        for index in range(self._n):
            token = () if index == 0 else (self._invite(),)
            self._start(Path(self._folder.name) / f"node-{index}", *token)
        end = time.monotonic() + READY_S
        for index in range(self._n):
            with self.client(index) as client:
                while client.status()["mesh"]["nodes"]["alive"] < self._n:
                    if time.monotonic() > end:
                        raise AgentUnavailable(f"node-{index} does not see all {self._n} agents after {READY_S:g} s")
                    time.sleep(0.05)

    def stop(self) -> None:
        """End every agent and remove what it kept."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._processes.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def client(self, index: int = 0) -> Client:
        """A client of one of the agents."""
        return Client(self.homes[index])

    def kill(self, index: int) -> None:
        """SIGKILL for one of the agents, as a power cut would do it."""
        self._processes[index].kill()
        self._processes[index].wait()

    def _start(self, home: Path, *words: str) -> None:
        process = launched(home, *words)
        self._processes.append(process)
        said = first_words(process)
        if said.get("event") != "ready":
            raise AgentUnavailable(f"{home.name} did not start: {said.get('message', 'it said nothing')}")
        self.homes.append(home)
        self.ids.append(said["id"])

    def _invite(self) -> str:
        with self.client() as client:
            token: str = client.ask("invite", expires_s=READY_S)["token"]
            return token


def launched(home: Path, *words: str, apart: bool = False) -> subprocess.Popen[str]:
    """The process of an agent on loopback; signals of the terminal do not reach one that is `apart`."""
    options = ("--json", "--name", home.name, "--listen", "127.0.0.1:0", "--no-mdns", "--manners", "free")
    return subprocess.Popen(
        [*COMMAND, "--home", str(home), "up", *words, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=apart,
    )


def first_words(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What an agent says first: the event `ready`, or an error; nothing when it says nothing within a minute."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], READY_S)
    line = process.stdout.readline() if readable else ""
    said: dict[str, Any] = json.loads(line) if line else {}
    return said
