"""`meshnode demo models`: one model from one agent to all the others, which give each other what they have.

Every agent gives at most so many bytes a second, as a real network would let it. First one copy is timed, then a second
model of the same size goes to all at once, and in the middle one that receives is killed and started again. It passes
only if every copy is right to the bit and runs, the one that was killed went on where it was, and all of it took less
time than one copy after the other.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from meshnode.blocking import Client
from meshnode.cli import context, render
from meshnode.cli.demo import Agent, Demo, end_all, ended_by_signals
from meshnode.cli.showpiece import WIDTH, first_row, weights_model
from meshnode.errors import MeshError

COPY_S = 6.0
"""What one copy takes at the rate that the agents are given."""
PIECE_BYTES = 1 << 19
LOOK_S = 0.2
SAY_S = 2.0
KILL_AT = 0.4
"""Share of the model that the victim has when it is killed."""
LIMIT_S = 180.0
RUN_S = 60.0


class ModelsDemo(Demo):
    """One run of it, with so many agents and a model of so many bytes."""

    def __init__(self, nodes: int, nbytes: int) -> None:
        super().__init__(nodes, 0)
        self._nbytes = nbytes

    def run(self) -> int:
        """0 when the promise was kept."""
        with ExitStack() as stack:
            stack.enter_context(ended_by_signals())
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshnode-demo-")))
            started: list[Agent] = []
            stack.callback(end_all, started)
            agents = self._build(started, scratch)
            alone_s = self._one_copy(agents, scratch)
            path = weights_model(scratch / "swarm.onnx", self._nbytes, seed=2)
            with Client(agents[0].home) as client:
                document = client.add_model(path, name="swarm")
            self._wait_for(agents, lambda status: len(status["models"]) == 2, "know the model")
            total_s, agents, resent = self._all_at_once(started, agents, scratch, path)
            return self._judge(agents, path, document, alone_s, total_s, resent)

    def _start(self, agents: list[Agent], scratch: Path, name: str, *words: str) -> Agent:
        home = scratch / name
        home.mkdir(mode=0o700, exist_ok=True)
        rate = self._nbytes / COPY_S
        (home / "config.toml").write_text(f"[catalog]\npiece_bytes = {PIECE_BYTES}\nupload_bytes_s = {rate}\n")
        return super()._start(agents, scratch, name, *words)

    def _build(self, started: list[Agent], scratch: Path) -> list[Agent]:
        began = time.monotonic()
        first = self._start(started, scratch, "node-1")
        with Client(first.home) as client:
            for number in range(2, self._nodes + 1):
                self._start(started, scratch, f"node-{number}", client.ask("invite")["token"])
        self._wait_for(started, lambda status: status["mesh"]["nodes"]["alive"] == len(started), "see all the others")
        rate = render.size(self._nbytes / COPY_S)
        took_s = time.monotonic() - began
        self._say(f"{self._nodes} agents see each other after {took_s:.1f} s; each gives at most {rate} a second")
        return list(started)

    def _one_copy(self, agents: list[Agent], scratch: Path) -> float:
        """Seconds of one model of this size from one node to one other."""
        path = weights_model(scratch / "alone.onnx", self._nbytes, seed=1)
        with Client(agents[0].home) as client:
            client.add_model(path, name="alone")
        self._wait_for(agents, lambda status: bool(status["models"]), "know the model")
        with Client(agents[1].home) as client:
            seconds = float(client.ask("model.pull", model="alone")["seconds"])
        others = self._nodes - 1
        self._say(
            f"one copy of {render.size(path.stat().st_size)} took {seconds:.1f} s: "
            f"{others} one after the other would take {seconds * others:.1f} s"
        )
        return seconds

    # --- all at once ---

    def _all_at_once(
        self, started: list[Agent], agents: list[Agent], scratch: Path, path: Path
    ) -> tuple[float, list[Agent], int]:
        """(seconds, the agents as they are then, bytes that the victim fetched again)"""
        receivers, victim = agents[1:], agents[-1]
        began = time.monotonic()
        with ThreadPoolExecutor(2 * len(receivers)) as threads:
            pulls = [threads.submit(_pull, agent) for agent in receivers]
            with _Show(self, receivers) as show:
                self._until(show, receivers, victim, KILL_AT)
                victim.process.kill()
                victim.process.wait()
                had = _on_disk(victim.home, path)
                self._say(f"{victim.name} was killed with {render.size(had)} of it on its disk")
                again = self._start(started, scratch, victim.name)
                receivers = [*receivers[:-1], again]
                pulls[-1] = threads.submit(_pull, again)
                while not all(pull.done() for pull in pulls) and time.monotonic() - began < LIMIT_S:
                    show.look(receivers)
            documents = [_result(pull) for pull in pulls]
        total_s = time.monotonic() - began
        fetched = documents[-1].get("fetched_bytes", self._nbytes)
        return total_s, [agents[0], *receivers], max(0, had + fetched - documents[-1].get("size", 0))

    def _until(self, show: _Show, receivers: list[Agent], victim: Agent, share: float) -> None:
        end = time.monotonic() + LIMIT_S
        while show.look(receivers)[victim.name] < share * self._nbytes and time.monotonic() < end:
            pass

    def _judge(
        self,
        agents: list[Agent],
        path: Path,
        document: dict[str, Any],
        alone_s: float,
        total_s: float,
        resent: int,
    ) -> int:
        digest, original = document["digest"], _sha256(path)
        right = [_sha256(agent.home / "models" / digest / "model.onnx") == original for agent in agents]
        ran = self._run_everywhere(agents)
        one_by_one_s = alone_s * (self._nodes - 1)
        piece = PIECE_BYTES
        kept = all(right) and ran == len(agents) and total_s < one_by_one_s and resent <= piece
        self._say(
            f"{self._nodes - 1} at once, one of them killed and started again: {total_s:.1f} s, "
            f"{one_by_one_s / total_s:.1f} times as fast as one after the other"
        )
        self._say(f"the one that was killed fetched {render.size(resent)} twice (a piece has {render.size(piece)})")
        self._say(f"right to the bit on {sum(right)} of {len(agents)}, ran with the right answer on {ran}")
        self._say("The promise was kept." if kept else "The promise was NOT kept.")
        if context.current.json:
            context.emit(
                {
                    "kept": kept,
                    "one_copy_seconds": alone_s,
                    "all_seconds": total_s,
                    "fetched_twice": resent,
                    "right": sum(right),
                    "ran": ran,
                    "nodes": len(agents),
                }
            )
        return 0 if kept else 1

    def _run_everywhere(self, agents: list[Agent]) -> int:
        """On how many the model runs and answers what its weights say."""
        x = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]
        expected, ran = x * first_row(2), 0
        for agent in agents:
            try:
                with Client(agent.home) as client:
                    result = client.infer("swarm", {"x": x}, node=agent.ready["id"], timeout=RUN_S)
            except MeshError as error:
                self._say(f"  {agent.name}: {error}")
            else:
                ran += bool(np.allclose(expected, result["y"], rtol=1e-6))
        return ran


class _Show:
    """How far each is: bars on a terminal, a line now and then elsewhere."""

    def __init__(self, demo: ModelsDemo, agents: list[Agent]) -> None:
        self._demo = demo
        self._said_at = 0.0
        self._done = {agent.name: 0 for agent in agents}
        columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bars = Progress(*columns, console=demo._console) if demo._console.is_terminal else None
        if self._bars is not None:
            self._ids = {agent.name: self._bars.add_task(agent.name, total=demo._nbytes) for agent in agents}

    def __enter__(self) -> _Show:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def look(self, agents: list[Agent]) -> dict[str, int]:
        """Bytes that each has, after a moment."""
        time.sleep(LOOK_S)
        for agent in agents:
            try:
                with Client(agent.home) as client:
                    self._done[agent.name] = client.ask("model.moved", model="swarm")["done"]
            except MeshError:
                continue
            if self._bars is not None:
                self._bars.update(self._ids[agent.name], completed=self._done[agent.name])
        if self._bars is None and time.monotonic() - self._said_at > SAY_S:
            self._said_at = time.monotonic()
            shares = (f"{name} {done * 100 // self._demo._nbytes} %" for name, done in self._done.items())
            self._demo._say(f"  {', '.join(shares)}")
        return self._done


def _pull(agent: Agent) -> dict[str, Any]:
    with Client(agent.home) as client:
        document: dict[str, Any] = client.ask("model.pull", model="swarm")
        return document


def _result(pull: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return pull.result(timeout=1.0)
    except (MeshError, TimeoutError):
        return {}


def _on_disk(home: Path, original: Path) -> int:
    """Bytes of whole pieces of a half-fetched model that are right."""
    right = 0
    for half in home.glob("models/partial-*/model.onnx"):
        with half.open("rb") as some, original.open("rb") as whole:
            while piece := whole.read(PIECE_BYTES):
                right += len(piece) if some.read(PIECE_BYTES) == piece else 0
    return right


def _sha256(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
