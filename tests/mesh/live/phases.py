"""The experiments: what is done to the town, what is promised, and what was seen. Each begins with a whole town."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import meshnode
from tests.mesh.history import Task
from tests.mesh.live.bound import bound_s
from tests.mesh.live.town import Town
from tests.mesh.live.traffic import Traffic, at
from tests.mesh.load import task_of
from tests.rig.promises.figures import Figure, at_least, at_most, none_of, told, true
from tests.rig.promises.town import busy

IN_TIME_S = 5.0
"""A steady task is good when it is back in so long."""
SILENT_S = 0.75
"""A node that says nothing for so long is left."""
TCP_S = 0.1
"""What the way there and back, and the clocks of heartbeats, may add."""
IMPATIENT_S = 1.0
"""The deadline of tasks in the overload."""
KILL_EVERY_S, AWAY_S = 5.0, 2.0
CANCELLED = 1000
SLOWED = 0.1
POLL_S = 0.01


@dataclass
class Stage:
    """What experiments share: the town, a client of the agent that submits, and what the nodes can do."""

    town: Town
    client: meshnode.AsyncClient
    rng: random.Random
    scale: float = 1.0
    """Of the length of each experiment; 1 is the full one."""
    gaps: dict[str, list[float]] = field(default_factory=dict)
    runs: dict[str, list[float]] = field(default_factory=dict)

    def traffic(self, timeout_s: float = 20.0) -> Traffic:
        return Traffic(self.client, self.town.rounds, self.rng, timeout_s)

    @property
    def service_s(self) -> dict[str, float]:
        """What a task takes each node, mean."""
        return {node: statistics.fmean(gaps) for node, gaps in self.gaps.items()}

    def beside_s(self, node: str) -> float:
        """What the node takes for a task beside the run itself."""
        return max(0.0, self.service_s[node] - statistics.fmean(self.runs[node]))

    @property
    def capacity(self) -> float:
        """Tasks a second of all of them."""
        return sum(1 / service_s for service_s in self.service_s.values())

    async def measure(self, seconds: float) -> list[Figure]:
        """Find out what the nodes can do at this moment: a machine that others use can do less the next minute."""
        traffic = self.traffic(timeout_s=60.0)
        self.gaps = await self.town.measure(traffic, seconds)
        self.runs = traffic.runs
        by_runs = sum(1 / statistics.median(times) for times in self.runs.values())
        shown = " ".join(f"{service_s * 1000:.0f}" for service_s in sorted(self.service_s.values()))
        return [
            told("nodes always busy", "ms a task, by node", shown),
            told("nodes always busy", "capacity", f"{self.capacity:.1f} tasks/s (by the median run {by_runs:.1f})"),
            none_of("nodes always busy", "lost, wrong", [*traffic.verdict.lost, *traffic.verdict.wrong]),
        ]


def histogram(ordered: Sequence[float]) -> str:
    """What each tenth of them stays below, in milliseconds."""
    return " ".join(f"{at(ordered, tenth / 10) * 1000:.0f}" for tenth in range(1, 11)) if ordered else "-"


def history(did: str, traffic: Traffic) -> list[Figure]:
    """What holds of every load: none lost, none wrong, none twice; and how long it took."""
    took = traffic.took_s
    seen = f"{at(took, 0.5) * 1000:.0f}, {at(took, 0.99) * 1000:.0f}, {at(took, 1) * 1000:.0f} ms of {len(took)}"
    return [
        none_of(did, "tasks lost", traffic.verdict.lost),
        none_of(did, "answers that are wrong", traffic.verdict.wrong),
        none_of(did, "answers that came twice", traffic.verdict.twice),
        told(did, "p50, p99, longest", seen),
    ]


async def steady(stage: Stage) -> list[Figure]:
    """80 % of what the nodes can do: all in time, and the tail within twice what perfect knowledge would give."""
    did = "80 % load"
    measured = await stage.measure(6.0)
    traffic = stage.traffic()
    await traffic.run(0.8 * stage.capacity, 30 * stage.scale)
    took, sent = traffic.took_s, traffic.history
    services = {node: [run_s + stage.beside_s(node) for run_s in runs] for node, runs in traffic.runs.items()}
    best = sorted(bound_s([task.due for task in sent], {**stage.gaps, **services}, stage.rng))
    in_time = sum(it <= IN_TIME_S for it in took) / len(sent)
    by_node = Counter(task.node for task in sent if task.good)
    share = " ".join(
        f"{by_node[node] / len(took) * 100:.0f}" for node in sorted(by_node, key=stage.service_s.__getitem__)
    )
    expected = " ".join(f"{100 / it / stage.capacity:.0f}" for it in sorted(stage.service_s.values()))
    return [
        *measured,
        *history(did, traffic),
        at_least(did, f"back within {IN_TIME_S:g} s", in_time * 100, 99.9, "%"),
        told(did, "p50, p99 of the bound", f"{at(best, 0.5) * 1000:.0f}, {at(best, 0.99) * 1000:.0f} ms"),
        at_most(did, "p99 against the bound's", at(took, 0.99) / at(best, 0.99), 2.0, "x"),
        told(did, "% of the tasks by node (capacity)", f"{share} ({expected})"),
    ]


async def killed(stage: Stage) -> list[Figure]:
    """kill -9 of a working agent and its worker every five seconds at 60 % load; back two seconds later."""
    did = "kill -9 every 5 s, 60 % load"
    town, traffic = stage.town, stage.traffic()
    ends = time.monotonic() + 60 * stage.scale
    first = {number: (await town.own_row(number))["tasks_done"] for number in range(len(town.agents))}
    inside, runs_of_dead, deaths = 0, 0, list[tuple[str, float]]()
    returns: list[asyncio.Task[None]] = []
    up = set(range(len(town.agents)))

    async def comes_back(number: int) -> None:
        await asyncio.sleep(AWAY_S)
        await asyncio.to_thread(town.restart, number)
        up.add(number)
        first[number] = 0

    async with traffic.going(0.6 * stage.capacity):
        due = time.monotonic() + 2.0
        while due < ends:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += KILL_EVERY_S
            number = stage.rng.choice(await _working(stage, up))
            row = await town.own_row(number)
            up.remove(number)
            town.kill(number)
            deaths.append((town.agents[number].id, time.monotonic()))
            inside += row["in_flight"]
            runs_of_dead += row["tasks_done"] - first.pop(number)
            returns.append(asyncio.create_task(comes_back(number)))
        await asyncio.gather(*returns)
    await town.until_whole()
    last = [(await town.own_row(number))["tasks_done"] - done for number, done in first.items()]
    lost_attempts = [it for task in traffic.history for it in task.attempts if it.outcome == "peer_lost"]
    answered = sum(task.good for task in traffic.history)
    extra = sum(last) + runs_of_dead - answered
    moved = sorted(
        task.last_sent - max((at_s for node, at_s in deaths if node == task.attempts[-2].node), default=task.due)
        for task in traffic.history
        if task.good and len(task.attempts) == 2 and task.attempts[0].outcome == "peer_lost"
    )
    return [
        told(did, "agents killed", f"{len(deaths)}"),
        *history(did, traffic),
        told(did, "in flight on the dead, as they said", f"{inside}"),
        told(did, "attempts that ended with the dead", f"{len(lost_attempts)}"),
        Figure(
            did,
            "runs beyond one a task, as nodes count",
            f"<= {len(lost_attempts)}",
            f"{extra}",
            extra <= len(lost_attempts),
        ),
        told(did, f"moved after the kill, tenths of {len(moved)}, ms", histogram(moved)),
        at_most(did, "moved after the kill (p99)", at(moved, 0.99) if moved else 0.0, 0.1),
    ]


async def frozen(stage: Stage) -> list[Figure]:
    """SIGSTOP of an agent and its worker for ten seconds at 60 % load: a cut that nobody announces."""
    did = "SIGSTOP for 10 s, 60 % load"
    town, traffic = stage.town, stage.traffic()
    async with traffic.going(0.6 * stage.capacity):
        await asyncio.sleep(2.0)
        # One of the faster half: the others have so little to do at this load that their return would not show.
        number = stage.rng.choice(await _working(stage, set(range(len(town.agents) // 2, len(town.agents)))))
        node = town.agents[number].id
        cut = time.monotonic()
        town.freeze(number)
        await asyncio.sleep(10 * stage.scale)
        town.thaw(number)
        thawed = time.monotonic()
        again = await town.until(lambda: any(t.good and t.node == node and t.due > thawed for t in traffic.history), 20)
    left = [task for task in traffic.history if "peer_silent" in task.outcomes(node)]
    moved_s = max((task.last_sent - cut for task in left), default=0.0)
    gap_s = max((task.ended - max(cut, task.due) for task in left), default=0.0)
    service_s = max(stage.service_s.values())
    return [
        *history(did, traffic),
        told(did, "tasks that were with it", f"{len(left)}, on a node of {stage.service_s[node] * 1000:.0f} ms a task"),
        at_most(did, "until the last was elsewhere", moved_s, SILENT_S + TCP_S),
        at_most(did, "longest gap (0.75 s + 2 x slowest)", gap_s, SILENT_S + TCP_S + 2 * service_s),
        told(did, "has work again after", "never" if again is None else f"{again:.1f} s"),
    ]


async def slowed(stage: Stage) -> list[Figure]:
    """Something else takes nine tenths of what the second fastest node can do, for 15 s at 50 % load; then it goes.

    Afterwards there is a little more to do, for who looks slow is tried again when the others are busy. When it has its
    share again is told and not promised: nothing but that tries it.
    """
    did = "a node 10x slower for 15 s, 50 % load"
    town, traffic = stage.town, stage.traffic()
    number = len(town.agents) - 2
    node, settled_s, enough = town.agents[number].id, 2.0, 5

    def there(begins: float, ends: float = float("inf")) -> float:
        tasks = [task.node for task in traffic.history if task.good and begins <= task.due < ends]
        return tasks.count(node) / len(tasks) if len(tasks) >= 2 * enough else 0.0

    async with traffic.going(0.5 * stage.capacity):
        await asyncio.sleep(settled_s)
        town.share(number, SLOWED)
        cut = time.monotonic()
        await asyncio.sleep(15 * stage.scale)
        town.share(number)
        back = time.monotonic()
    async with traffic.going(0.7 * stage.capacity):
        await town.until(lambda: there(time.monotonic() - 2.0) > there(cut - settled_s, cut) / 2, 15 * stage.scale)
        back_s = time.monotonic() - back
    its = sorted(task.due for task in traffic.history if node in [it.node for it in task.attempts] and task.due > cut)
    before, its_rate = there(cut - settled_s, cut), 1 / stage.service_s[node]
    after = there(its[enough] if len(its) > enough else cut, back)
    fair = SLOWED * its_rate / (stage.capacity - (1 - SLOWED) * its_rate)
    return [
        *history(did, traffic),
        told(did, "its share of the tasks before", f"{before:.0%}"),
        at_most(did, "and after its fifth task (twice what is fair)", after * 100, 2 * fair * 100, "%"),
        told("70 % load", "half of it again, at most 15 s looked for", f"{back_s:.1f} s"),
    ]


async def overloaded(stage: Stage) -> list[Figure]:
    """Half as much again as can be done, for ten seconds, with deadlines; then 60 % of it."""
    did, seconds = "150 % load", 10 * stage.scale
    measured = await stage.measure(6.0)
    during, after = stage.traffic(IMPATIENT_S), stage.traffic(IMPATIENT_S)
    rows = await stage.client.ask("work")
    began = time.monotonic()
    over = asyncio.create_task(during.run(1.5 * stage.capacity, seconds))
    await asyncio.sleep(seconds)
    ended = time.monotonic()
    await asyncio.gather(over, after.run(0.6 * stage.capacity, 6 * stage.scale + 2))
    good = sum(task.good and task.ended <= ended for task in during.history)
    late = [task.due - ended for task in after.history if not task.good or task.seconds > IMPATIENT_S]
    reasons = Counter(task.error.partition(":")[0] for task in during.history if not task.good)
    counters = {
        key: value - rows["since_start"].get(key, 0)
        for key, value in (await stage.client.ask("work"))["since_start"].items()
        if isinstance(value, int)
    }
    by_runs = sum(1 / statistics.median(runs) for runs in during.runs.values())
    return [
        *measured,
        told(did, "submitted, ended in time", f"{len(during.history)}, {sum(t.good for t in during.history)}"),
        at_least(did, "done in time, of the capacity", good / (ended - began) / stage.capacity * 100, 90, "%"),
        told(did, "of what their runs in it allowed", f"{good / (ended - began) / by_runs * 100:.0f} %"),
        none_of(did, "answers that are wrong", [*during.verdict.wrong, *after.verdict.wrong]),
        told(did, "the others", ", ".join(f"{count} {code}" for code, count in reasons.most_common())),
        told(did, "what the agent counted", ", ".join(f"{key} {value}" for key, value in counters.items() if value)),
        at_most("60 % afterwards", "until all are in time again", max(late, default=0.0), 2.0),
        told("60 % afterwards", "not in time", f"{len(late)} of {len(after.history)}"),
    ]


async def worker_killed(stage: Stage) -> list[Figure]:
    """kill -9 of a worker while it runs a task and others wait for it: the agent lives."""
    did = "kill -9 of a worker, 50 % load"
    town, traffic, pinned = stage.town, stage.traffic(), stage.traffic()
    number = len(town.agents) // 2
    node = town.agents[number].id
    async with traffic.going(0.5 * stage.capacity), asyncio.TaskGroup() as group:
        await asyncio.sleep(2.0)
        queued = [pinned.send(group, node=node) for _ in range(6)]
        await queued[0]  # the next one has begun, and has most of its time before it
        cut = time.monotonic()
        town.kill_worker(number)
        await asyncio.wait(queued, return_when=asyncio.ALL_COMPLETED)
    crashed = [task for task in [*traffic.history, *pinned.history] if "worker_crashed" in task.outcomes(node)]
    told_s = max((_when(task, "worker_crashed") - cut for task in crashed), default=0.0)
    after = [task for task in [*pinned.history, *traffic.history] if task.good and task.node == node]
    back_s = min(
        (task.ended - task.run_s - cut for task in after if task.ended - task.run_s > cut), default=float("inf")
    )
    untouched = sum(task.good and len(task.attempts) == 1 for task in pinned.history)
    return [
        *history(did, traffic),
        none_of(did, "tasks for that node alone lost, wrong", [*pinned.verdict.lost, *pinned.verdict.wrong]),
        told(did, "tasks that died with it", f"{len(crashed)}"),
        at_most(did, "until their submitter knew", told_s, 0.1),
        at_most(did, "until the next worker ran a task", back_s, 2.0),
        told(did, "of 6 for that node, in their first attempt", f"{untouched}"),
    ]


async def cancelled(stage: Stage) -> list[Figure]:
    """A thousand tasks at once, and all are cancelled while they wait."""
    did = f"{CANCELLED} tasks cancelled"
    town = stage.town
    before = town.memory_files()

    async def in_flight() -> int:
        return sum(row["in_flight"] or 0 for row in (await stage.client.status())["nodes"])

    open_tasks = [stage.client.submit(*task_of(n, town.rounds), timeout=60.0) for n in range(CANCELLED)]
    await asyncio.sleep(1.0)
    inside = await in_flight()
    done = sum(task.done() for task in open_tasks)
    began = time.monotonic()
    for task in open_tasks:
        task.cancel()
    await asyncio.gather(*open_tasks, return_exceptions=True)
    said_s = time.monotonic() - began
    while (left := await in_flight()) and time.monotonic() - began < IN_TIME_S:
        pass
    empty_s = time.monotonic() - began
    await asyncio.sleep(1.0)
    return [
        told(did, "of these done, with nodes, in line", f"{done}, {inside}, {CANCELLED - done - inside}"),
        told(did, "the client's part", f"{said_s * 1000:.0f} ms"),
        true(did, "nothing left on any node", left == 0, f"{left} left"),
        at_most(did, "until nothing was left", empty_s, 0.1),
        told(did, "memory files before, after", f"{before}, {town.memory_files()}"),
        at_most(did, "memory files left behind", town.memory_files() - before, 0, ""),
    ]


async def lagging(stage: Stage) -> list[Figure]:
    """A model of 100 MB is added and loaded while every core is busy: what a small question to the agent takes.

    Beside it, the same question to another agent that does nothing: what is true of both is the machine's.
    """
    did = "100 MB model, all cores busy"
    town = stage.town
    agent, other = town.agents[0], town.agents[1]
    town.leave_alone(0)
    took: dict[str, list[float]] = {agent.id: [], other.id: []}

    async def ask(client: meshnode.AsyncClient, answers: list[float]) -> None:
        due = time.monotonic()
        while True:
            due = max(due + POLL_S, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            began = time.monotonic()
            await client.ask("version")
            answers.append(time.monotonic() - began)

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = await asyncio.to_thread(_heavy, Path(folder))
            async with (
                meshnode.AsyncClient(agent.home) as asking,
                meshnode.AsyncClient(other.home) as beside,
                meshnode.AsyncClient(agent.home) as adding,
            ):
                with busy():
                    questions = [asyncio.create_task(ask(asking, took[agent.id]))]
                    questions.append(asyncio.create_task(ask(beside, took[other.id])))
                    began = time.monotonic()
                    await adding.add_model(path, name="heavy")
                    x = np.ones((1, SIDE), np.float32)
                    await adding.infer("heavy", {"x": x}, node=agent.id, timeout=60.0)
                    loaded_s = time.monotonic() - began
                    while time.monotonic() - began < 10 * stage.scale:
                        await adding.infer("heavy", {"x": x}, node=agent.id, timeout=60.0)
                    for question in questions:
                        question.cancel()
                    await asyncio.gather(*questions, return_exceptions=True)
                await adding.ask("model.remove", model="heavy")
    finally:
        town.share(0)
    its, others = sorted(took[agent.id]), sorted(took[other.id])
    limit_s = max(0.01, at(others, 0.99))
    return [
        told(did, "added, loaded and run once in", f"{loaded_s:.1f} s"),
        told(did, "questions, p50, longest", f"{len(its)}, {at(its, 0.5) * 1000:.2f} ms, {its[-1] * 1000:.1f} ms"),
        told(did, "p99 of an agent that does nothing", f"{at(others, 0.99) * 1000:.1f} ms"),
        at_most(did, "p99 (10 ms, or as one at rest)", at(its, 0.99), limit_s),
    ]


PHASES: dict[str, Callable[[Stage], Awaitable[list[Figure]]]] = {
    "steady": steady,
    "killed": killed,
    "frozen": frozen,
    "slowed": slowed,
    "overload": overloaded,
    "worker": worker_killed,
    "cancel": cancelled,
    "lag": lagging,
}


SIDE = 5000
"""A matrix of so many rows and columns of float32 is 100 MB."""


def _heavy(folder: Path) -> Path:
    weights = np.random.default_rng(1).standard_normal((SIDE, SIDE), np.float32)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "heavy",
        [info("x", TensorProto.FLOAT, ["b", SIDE])],
        [info("y", TensorProto.FLOAT, ["b", SIDE])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = folder / "heavy.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


async def _working(stage: Stage, up: set[int]) -> list[int]:
    """Those of these agents that have a task at this moment."""
    numbers = {stage.town.agents[number].id: number for number in up}
    end = time.monotonic() + IN_TIME_S
    while True:
        rows = (await stage.client.status())["nodes"]
        found = [numbers[row["id"]] for row in rows if row["id"] in numbers and row["in_flight"]]
        if found:
            return sorted(found)
        assert time.monotonic() < end, "nobody works under load"


def _when(task: Task, outcome: str) -> float:
    """When its attempt ended like that: those after it are subtracted from the end."""
    after_s = 0.0
    for it in reversed(task.attempts):
        if it.outcome == outcome:
            return task.ended - after_s
        after_s += it.seconds
    raise AssertionError(f"no attempt ended as {outcome}")
