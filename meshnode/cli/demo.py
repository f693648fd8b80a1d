"""`meshnode demo`: a real mesh on this machine, with real work and a real death.

Every agent is a process of its own with its own home, started and driven by the same commands that a person uses. The
answers are compared with a plain onnxruntime run in yet another process. It passes only if nothing was lost and
nothing was wrong.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from meshnode.blocking import Client
from meshnode.client import Result
from meshnode.errors import HomeError, MeshError
from meshnode.wire.tensors import Array

COMMAND = (sys.executable, "-m", "meshnode.cli.main")
READY_S = 60.0
WINDOW = 128
"""Tasks in flight together."""
ACCURACY = 0.98
REFERENCE = """
import sys
import numpy as np
import onnxruntime as ort
samples = np.load(sys.argv[2], allow_pickle=False)
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
rows = [session.run(None, {"image": image[None]})[0] for image in samples["image"]]
np.save(sys.argv[3], np.concatenate(rows), allow_pickle=False)
"""


@dataclass
class Agent:
    """One process of the mesh."""

    name: str
    home: Path
    process: subprocess.Popen[str]
    ready: dict[str, Any] = field(default_factory=dict)
    done: int = 0
    state: str = "alive"


class Demo:
    """One run of it.

    Args:
        nodes: how many agents.
        tasks: how many tasks at least; the samples are repeated.
    """

    def __init__(self, nodes: int, tasks: int) -> None:
        self._nodes = nodes
        self._tasks = tasks
        self._console = Console(highlight=False)

    def run(self) -> int:
        """0 when the promise was kept."""
        folder = digits_folder()
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshnode-demo-")))
            agents: list[Agent] = []
            stack.callback(_end, agents)
            reference = self._reference(folder, scratch)
            self._build_mesh(agents, scratch, stack)
            return self._work(agents, folder, reference)

    # --- the mesh ---

    def _build_mesh(self, agents: list[Agent], scratch: Path, stack: ExitStack) -> None:
        began = time.monotonic()
        first = self._start(agents, scratch, "node-1")
        for number in range(2, self._nodes + 1):
            token = _command(first.home, "invite")
            self._start(agents, scratch, f"node-{number}", token)
        self._wait_for_view(agents)
        self._say(f"{self._nodes} agents, {self._nodes - 1} invited by token, all see each other after {_since(began)}")

    def _start(self, agents: list[Agent], scratch: Path, name: str, *words: str) -> Agent:
        home = scratch / name
        process = subprocess.Popen(
            [
                *COMMAND,
                "--home",
                str(home),
                "up",
                *words,
                "--json",
                "--name",
                name,
                "--listen",
                "127.0.0.1:0",
                "--no-mdns",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        agent = Agent(name, home, process)
        agents.append(agent)
        assert process.stdout is not None
        line = process.stdout.readline()
        agent.ready = json.loads(line) if line else {}
        if agent.ready.get("event") != "ready":
            raise HomeError(f"{name} did not start: {agent.ready.get('message', 'no word from it')}")
        return agent

    def _wait_for_view(self, agents: list[Agent]) -> None:
        end = time.monotonic() + READY_S
        for agent in agents:
            with Client(agent.home) as client:
                while client.status()["mesh"]["nodes"]["alive"] < len(agents):
                    if time.monotonic() > end:
                        raise HomeError(f"{agent.name} does not see all {len(agents)} agents after {READY_S:g} s")
                    time.sleep(0.05)

    # --- the work ---

    def _reference(self, folder: Path, scratch: Path) -> Array:
        """What onnxruntime alone answers, in a process that the mesh has nothing to do with."""
        out = scratch / "reference.npy"
        model, samples = str(folder / "model.onnx"), str(folder / "samples.npz")
        subprocess.run(
            [sys.executable, "-c", REFERENCE, model, samples, str(out)], check=True, stdin=subprocess.DEVNULL
        )
        answers: Array = np.load(out, allow_pickle=False)
        return answers

    def _work(self, agents: list[Agent], folder: Path, reference: Array) -> int:
        with np.load(folder / "samples.npz", allow_pickle=False) as samples:
            images, labels = samples["image"], samples["labels"]
        repeats = -(-self._tasks // len(images))
        total = repeats * len(images)
        tally = Tally(total)
        with Client(agents[0].home) as client:
            client.add_model(folder / "model.onnx", name="digits")
            for agent in agents:  # each fetches the model, so that the work can spread from the first task on
                client.infer("digits", {"image": images[:1]}, node=agent.ready["id"])
            self._say(f"every agent has the model; {len(images)} held-out samples, {repeats} times: {total} tasks")
            began = time.monotonic()
            with self._progress(tally, agents) as show:
                for index, future in self._submit(client, images, total, tally, agents):
                    tally.judge(index % len(images), future, labels, reference)
                    show()
            seconds = time.monotonic() - began
            self._wait_until_seen_dead(client, agents)
        return self._report(agents, tally, seconds)

    def _submit(
        self, client: Client, images: Array, total: int, tally: Tally, agents: list[Agent]
    ) -> Iterator[tuple[int, Future[Result]]]:
        """Keep a window of tasks in flight; half way, kill the agent that has done most, but for the client's own."""
        window: list[tuple[int, Future[Result]]] = []
        for index in range(total):
            image = images[index % len(images)][None]
            window.append((index, client.submit("digits", {"image": image}, timeout=60.0)))
            if len(window) >= WINDOW:
                yield window.pop(0)
            if index == total // 2:
                victim = max(agents[1:], key=lambda agent: tally.by_node[agent.ready["id"]])
                victim.process.send_signal(signal.SIGKILL)
                victim.state = "killed"
                tally.killed_at = index
        yield from window

    @contextmanager
    def _progress(self, tally: Tally, agents: list[Agent]) -> Iterator[Any]:
        """A bar on a terminal, a line now and then elsewhere."""
        if not self._console.is_terminal:
            shown = 0

            def line() -> None:
                nonlocal shown
                if tally.done * 10 // tally.total > shown:
                    shown = tally.done * 10 // tally.total
                    self._say(f"  {tally.done} of {tally.total}: {_share(tally, agents)}")

            yield line
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("", total=tally.total)
            yield lambda: progress.update(bar, completed=tally.done, description=_share(tally, agents))

    def _wait_until_seen_dead(self, client: Client, agents: list[Agent]) -> None:
        victim = next(agent for agent in agents if agent.state == "killed")
        end = time.monotonic() + 15
        while time.monotonic() < end:
            states = {node["id"]: node["state"] for node in client.status()["nodes"]}
            if states.get(victim.ready["id"]) == "dead":
                victim.state = "killed, and seen dead"
                return
            time.sleep(0.1)

    def _report(self, agents: list[Agent], tally: Tally, seconds: float) -> int:
        accuracy = tally.right / max(1, tally.done)
        for agent in agents:
            note = "" if agent.state == "alive" else f" ({agent.state} after {tally.killed_at} submissions)"
            self._say(f"  {agent.name}: {tally.by_node[agent.ready['id']]} tasks{note}")
        self._say(
            f"{tally.done} answers in {seconds:.1f} s, {tally.rerouted} re-routed, "
            f"{tally.refused} sent on by a full queue, accuracy {accuracy:.2%}, "
            f"lost = {tally.lost}, wrong = {tally.wrong}"
        )
        for error in tally.errors[:5]:
            self._say(f"  {error}")
        kept = tally.lost == 0 and tally.wrong == 0 and tally.done == tally.total and accuracy >= ACCURACY
        self._say("The promise was kept." if kept else "The promise was NOT kept.")
        return 0 if kept else 1

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


@dataclass
class Tally:
    """What became of each task. Wrong is what differs from onnxruntime alone; right is what the label says."""

    total: int
    done: int = 0
    lost: int = 0
    wrong: int = 0
    right: int = 0
    rerouted: int = 0
    refused: int = 0
    killed_at: int = 0
    by_node: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def judge(self, sample: int, future: Future[Result], labels: Array, reference: Array) -> None:
        """Wait for an answer and compare it."""
        try:
            result = future.result()
        except MeshError as error:
            self.lost += 1
            self.errors.append(f"{error.code}: {error}")
            return
        probabilities = result["probabilities"][0]
        self.done += 1
        self.wrong += not np.array_equal(probabilities, reference[sample])
        self.right += int(probabilities.argmax()) == int(labels[sample])
        outcomes = {attempt.outcome for attempt in result.attempts[:-1]}
        self.refused += "refused" in outcomes
        self.rerouted += bool(outcomes - {"refused"})
        self.by_node[result.node] += 1


def digits_folder() -> Path:
    """The model and its samples: of the checkout, or those that were installed with the package."""
    here = Path(__file__).resolve().parent.parent
    for folder in (here.parent / "models" / "digits", here / "data" / "digits"):
        if (folder / "samples.npz").exists():
            return folder
    raise HomeError("the digits model is not here", hint="run the demo from a checkout of the project")


def _command(home: Path, *words: str) -> str:
    done = subprocess.run(
        [*COMMAND, "--home", str(home), *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=READY_S,
    )
    if done.returncode != 0:
        raise HomeError(f"meshnode {' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _end(agents: list[Agent]) -> None:
    """End every process, whatever happened before."""
    for agent in agents:
        if agent.process.poll() is None:
            agent.process.terminate()
    for agent in agents:
        try:
            agent.process.wait(15)
        except subprocess.TimeoutExpired:
            os.kill(agent.process.pid, signal.SIGKILL)
            agent.process.wait()
        if agent.process.stdout is not None:
            agent.process.stdout.close()


def _share(tally: Tally, agents: list[Agent]) -> str:
    return " ".join(f"{a.name}{'' if a.state == 'alive' else '(x)'} {tally.by_node[a.ready['id']]}" for a in agents)


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
