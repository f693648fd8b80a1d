"""`meshnode demo`: a real mesh on this machine, with real work and a real death.

Every agent is a process of its own with its own home, started and driven by the same commands that a person uses. One
more, the desk, only submits: it runs nothing itself, so all work is given to others over the network. The
answers are compared with a plain onnxruntime run in yet another process. It passes only if nothing was lost and
nothing was wrong.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from meshnode.blocking import Client
from meshnode.cli import context
from meshnode.client import Result
from meshnode.errors import HomeError, MeshError
from meshnode.testing import COMMAND, READY_S, first_words, launched
from meshnode.wire.tensors import Array

STOP_S = 15.0
SEEN_S = 15.0
WINDOW = 128
"""Tasks in flight together."""
TASK_TIMEOUT_S = 60.0
HELD_S = 0.1
LATEST = 64
ACCURACY = 0.98
NEAR = 1e-3
"""A GPU's sums may differ from the CPU's in their last digits; a CPU's answer must be the same to the bit."""
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
        self._console = context.console(stderr=context.current.json)

    def run(self) -> int:
        """0 when the promise was kept."""
        folder = digits_folder()
        with ExitStack() as stack:
            self._check = stack.enter_context(ended_by_signals())
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshnode-demo-")))
            started: list[Agent] = []
            stack.callback(end_all, started)
            reference = self._reference(folder, scratch)
            desk = self._build_mesh(started, scratch)
            return self._work([agent for agent in started if agent is not desk], desk, folder, reference)

    # --- the mesh ---

    def _build_mesh(self, started: list[Agent], scratch: Path) -> Agent:
        """Start those that work, then the desk; the desk."""
        began = time.monotonic()
        first = self._start(started, scratch, "node-1")
        for number in range(2, self._nodes + 1):
            self._start(started, scratch, f"node-{number}", _command(first.home, "invite"))
        desk = self._start(started, scratch, "desk", _command(first.home, "invite", "--role", "submitter"))
        self._wait_for(started, lambda status: status["mesh"]["nodes"]["alive"] == len(started), "see all the others")
        self._say(
            f"{self._nodes} agents and one that only submits, {self._nodes} of them invited by token, "
            f"all see each other after {_since(began)}"
        )
        return desk

    def _start(self, agents: list[Agent], scratch: Path, name: str, *words: str) -> Agent:
        home = scratch / name
        agent = Agent(name, home, launched(home, *words, apart=True))  # Ctrl-C is for the demo, which ends its agents
        agents.append(agent)
        agent.ready = first_words(agent.process)
        if agent.ready.get("event") != "ready":
            raise HomeError(f"{name} did not start: {agent.ready.get('message', 'no word from it')}")
        return agent

    def _wait_for(self, agents: list[Agent], condition: Callable[[dict[str, Any]], bool], what: str) -> None:
        """Until the status of every agent is so."""
        end = time.monotonic() + READY_S
        for agent in agents:
            with Client(agent.home) as client:
                while not condition(client.status()):
                    if time.monotonic() > end:
                        raise HomeError(f"{agent.name} does not {what} after {READY_S:g} s")
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

    def _work(self, agents: list[Agent], desk: Agent, folder: Path, reference: Array) -> int:
        with np.load(folder / "samples.npz", allow_pickle=False) as samples:
            images, labels = samples["image"], samples["labels"]
        repeats = -(-self._tasks // len(images))
        total = repeats * len(images)
        tally = Tally(total)
        with Client(agents[0].home) as client:
            client.add_model(folder / "model.onnx", name="digits")
        self._wait_for([*agents, desk], lambda status: bool(status["models"]), "know the model")
        with Client(desk.home) as client:
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
        """Keep a window of tasks in flight; half way, kill the agent that is busiest."""
        window: list[tuple[int, Future[Result]]] = []
        killing: threading.Thread | None = None
        try:
            for index in range(total):
                self._check()
                image = images[index % len(images)][None]
                window.append((index, client.submit("digits", {"image": image}, timeout=TASK_TIMEOUT_S)))
                if len(window) >= WINDOW:
                    yield window.pop(0)
                if index == total // 2:
                    victim = max(agents, key=lambda agent: tally.latest.count(agent.ready["id"]))
                    killing = threading.Thread(target=_kill, args=(victim, tally))
                    killing.start()
            yield from window
        finally:
            if killing is not None:
                killing.join()

    @contextmanager
    def _progress(self, tally: Tally, agents: list[Agent]) -> Iterator[Callable[[], None]]:
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
        began = time.monotonic()
        while time.monotonic() - began < SEEN_S:
            states = {node["id"]: node["state"] for node in client.status()["nodes"]}
            if states.get(victim.ready["id"]) == "dead":
                victim.state = "killed, and seen dead by the others"
                return
            time.sleep(0.1)

    def _report(self, agents: list[Agent], tally: Tally, seconds: float) -> int:
        accuracy = tally.right / max(1, tally.done)
        kept = tally.lost == 0 and tally.wrong == 0 and tally.done == tally.total and accuracy >= ACCURACY
        for agent in agents:
            note = "" if agent.state == "alive" else f" ({agent.state}, after {tally.killed_at} answers)"
            self._say(f"  {agent.name}: {tally.by_node[agent.ready['id']]} tasks{note}")
        self._say(
            f"{tally.done} answers in {seconds:.1f} s, {tally.rerouted} re-routed from the dead agent, "
            f"{tally.refused} sent on by a full queue"
        )
        self._say(f"accuracy {accuracy:.2%}, lost = {tally.lost}, wrong = {tally.wrong}")
        for error in tally.errors[:5]:
            self._say(f"  {error}")
        self._say("The promise was kept." if kept else "The promise was NOT kept.")
        if context.current.json:
            nodes = [
                {"name": a.name, "id": a.ready["id"], "tasks": tally.by_node[a.ready["id"]], "state": a.state}
                for a in agents
            ]
            counts = {key: getattr(tally, key) for key in ("total", "done", "lost", "wrong", "rerouted", "refused")}
            context.emit({"kept": kept, "accuracy": accuracy, "seconds": seconds, **counts, "nodes": nodes})
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
    latest: deque[str] = field(default_factory=lambda: deque(maxlen=LATEST))
    """Who gave the last answers."""
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
        self.wrong += not _same(probabilities, reference[sample], result.provider)
        self.right += int(probabilities.argmax()) == int(labels[sample])
        outcomes = {attempt.outcome for attempt in result.attempts[:-1]}
        self.refused += "refused" in outcomes
        self.rerouted += bool(outcomes - {"refused"})
        self.by_node[result.node] += 1
        self.latest.append(result.node)


def _kill(victim: Agent, tally: Tally) -> None:
    """SIGKILL, at a moment when it has work: its worker is held up for a moment before, so that tasks wait there."""
    workers = psutil.Process(victim.process.pid).children()
    for worker in workers:
        worker.suspend()
    time.sleep(HELD_S)
    victim.state = "killed"
    tally.killed_at = tally.done
    victim.process.kill()
    for worker in workers:
        with suppress(psutil.NoSuchProcess):  # it dies with its agent; held up, it might not notice
            worker.resume()


def _same(answer: Array, reference: Array, provider: str) -> bool:
    if provider == "CPUExecutionProvider":
        return np.array_equal(answer, reference)
    return bool(np.allclose(answer, reference, rtol=0, atol=NEAR))


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


@contextmanager
def ended_by_signals() -> Iterator[Callable[[], None]]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: with everything cleaned up.

    What is yielded raises once a signal came. An exception of a handler is lost when it meets a finalizer.
    """
    told = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True
        raise KeyboardInterrupt

    def check() -> None:
        if told:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield check
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def end_all(agents: list[Agent]) -> None:
    """End every process, whatever happened before; impatience does not stop it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for agent in agents:
            if agent.process.poll() is None:
                agent.process.terminate()
        end = time.monotonic() + STOP_S
        for agent in agents:
            try:
                agent.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                agent.process.kill()
                agent.process.wait()
            if agent.process.stdout is not None:
                agent.process.stdout.close()
    finally:
        signal.signal(signal.SIGINT, before)


def _share(tally: Tally, agents: list[Agent]) -> str:
    return " ".join(f"{a.name}{'' if a.state == 'alive' else '(x)'} {tally.by_node[a.ready['id']]}" for a in agents)


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
