"""Runs of the real asyncio shells on a virtual clock: faults from a seed, clients that change their minds, checks.

What the cores' simulator cannot show is looked for here: tasks that wait for ever, locks that a cancellation leaves
taken, callbacks in an unlucky order, connections that only one side believes in. A run is a function of its seed.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import hashlib
import logging
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.catalog.manifest import File, Manifest
from meshnode.config import LAN, Discovery, Settings
from meshnode.errors import MeshError
from meshnode.sim.faults import Fault, Weather, draw
from meshnode.sim.life import PORT, ROLES, Life, Peers, SimKeeper
from meshnode.sim.loop import PROCESS, Deadlock, Process, SimLoop
from meshnode.sim.net import Network, Station
from meshnode.sim.world import Faults
from meshnode.trust import identity
from meshnode.trust.keeper import Membership
from meshnode.wire.messages import NodeId, StreamPing, Submit, Submitted, TensorSpec

KINDS = ("kill", "power", "leave", "hasty", "pause", "split", "isolate", "one-way", "loss", "disorder", "clock", "say")
NODES, SECONDS, FAULTS = 8, 120.0, 10
CALM_S = 30.0
"""A node that nothing was done to for so long must not be held dead by another such, and its tasks succeed."""
AGREE_S = 20.0
"""Background loss may make a suspicion at any moment: so long is waited for one at which there is none."""
STOP_S = 20.0
TASK_S = 5.0
SHARES = Settings(
    membership=LAN.membership, links=LAN.links, routing=LAN.routing, discovery=Discovery(mdns=False, seeds=())
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one seed."""

    seed: int
    faults: tuple[Fault, ...]
    violations: tuple[str, ...]
    counts: Counter[str]
    trace: str
    tail: tuple[str, ...]
    views: tuple[str, ...]
    node_seconds: float
    cpu_s: float
    messages: int

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.violations)} violations", *self.violations, "faults:"]
        return "\n  ".join([*lines, *map(str, self.faults), "the end of its trace:", *self.tail[-40:]])


@dataclass(slots=True)
class Node:
    """A machine of the run, and the process that runs on it."""

    index: int
    station: Station
    home: Path
    life: Life | None = None
    process: Process | None = None
    starts: int = 0
    wall_offset_s: float = 0.0
    disturbed_at: float = 0.0
    stopping: bool = False

    @property
    def running(self) -> Life | None:
        """Its present life, if it can be asked anything."""
        process = self.process
        idle = process is None or process.ended or process.held or self.stopping
        return None if idle else self.life


@dataclass(slots=True)
class Run:
    """One seed."""

    seed: int
    nodes: int
    seconds: float
    loss: float
    faults: list[Fault]
    folder: Path
    loop: SimLoop
    network: Network
    weather: Weather = field(init=False)
    all: list[Node] = field(default_factory=list)
    ids: dict[NodeId, Node] = field(default_factory=dict)
    dead: list[Process] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    closing: bool = False
    _views: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.weather = Weather(self.network.world.faults)

    def violated(self, what: str) -> None:
        """Something that must hold does not."""
        if len(self.violations) < 20:
            self.violations.append(f"{self.loop.time():.3f} s: {what}")

    # --- the mesh ---

    def found(self) -> None:
        """Homes with keys from the seed, all of one mesh with one model."""
        keepers = []
        for index in range(self.nodes):
            home = self.folder / str(index)
            home.mkdir()
            drawn = hashlib.sha256(f"key {self.seed} {index}".encode()).digest()
            identity.write_key(home / "node.key", Ed25519PrivateKey.from_private_bytes(drawn))
            keepers.append(SimKeeper.open(home))
            self.all.append(Node(index, self.network.add(), home))
            self.ids[keepers[-1].id] = self.all[-1]
        first = keepers[0]
        first.found("simulated", "n0")
        leaves = [first.admit(it.spki, f"n{i}", ROLES, ())[0] for i, it in enumerate(keepers) if i]
        first.publish_model(manifest("m"))
        said = tuple(data for _, data in first.statements.items())
        for keeper, leaf in zip(keepers[1:], leaves, strict=True):
            keeper.adopt(Membership(leaf, said, first.statements.mesh_id))
        for keeper in keepers:
            keeper.close()

    def begin(self, node: Node) -> None:
        """Start the agent's shells on a machine."""
        node.station.powered = True
        node.starts += 1
        node.stopping = False
        node.process = Process(f"node {node.index}, start {node.starts}", node.station)
        node.life = None
        self.inside(node.process, self._live(node, node.process))

    def inside(self, process: Process, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of a process."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        return self.loop.create_task(work, context=context)

    async def _live(self, node: Node, process: Process) -> None:
        life = Life(
            f"n{node.index}",
            node.home,
            SHARES,
            process,
            self.loop,
            f"{self.seed} {node.index} {node.starts}",
            looked=self._looked,
            wall_offset_s=node.wall_offset_s,
        )
        peers: Peers = tuple((id, ((other.station.host, PORT),)) for id, other in list(self.ids.items())[:3])
        node.life = life
        await life.start(peers)
        dice = random.Random(f"clients {self.seed} {node.index} {node.starts}")
        life.start_task(self._clients(life, process, dice))

    def end(self, node: Node, *, power: bool) -> None:
        """It dies, with its kernel saying so or without."""
        assert node.process is not None, "it runs"
        node.process.ended = True
        self.dead.append(node.process)
        (node.station.power_off if power else node.station.kill)()
        if node.life is not None:
            node.life.keeper.close()
        node.life = node.process = None

    async def leave(self, node: Node) -> None:
        """Stop it in good order; then nothing of it may be left."""
        life, process = node.life, node.process
        assert life is not None and process is not None, "it runs"  # noqa: PT018
        node.stopping = True
        stopping = self.inside(process, life.stop())
        done, _ = await asyncio.wait([stopping], timeout=STOP_S)
        if not done:
            self.violated(f"{process.name} does not stop; waiting: {_names(process.open_tasks())}")
        elif stopping.exception() is not None:
            self.violated(f"{process.name} failed while stopping: {stopping.exception()!r}")
        await asyncio.sleep(0.1)
        if left := process.open_tasks():
            self.violated(f"{process.name} has stopped, and left tasks: {_names(left)}")
        if timers := self.loop.pending_timers(process):
            self.violated(f"{process.name} has stopped, and left timers: {'; '.join(timers)}")
        if sockets := node.station.open_sockets():
            self.violated(f"{process.name} has stopped, and left open: {', '.join(sockets)}")
        process.ended = True
        node.station.kill()
        life.keeper.close()
        node.life = node.process = None

    # --- what users do ---

    async def _clients(self, life: Life, process: Process, dice: random.Random) -> None:
        count = 0
        while True:
            await asyncio.sleep(dice.expovariate(1.0))
            if self.closing:
                return
            count += 1
            work = self._ask if dice.random() < 0.6 else self._look_up
            life.start_task(work(life, process, random.Random(f"{process.name} {self.seed} {count}")))

    async def _ask(self, life: Life, process: Process, dice: random.Random) -> None:
        """A task; some clients leave before its end."""
        node, began = self.ids[life.keeper.id], self.loop.time()
        body = dice.randbytes(dice.choice((10, 1000, 100_000)))
        spec = TensorSpec("x", "uint8", (len(body),), len(body))
        request = Submit(task=dice.randbytes(16).hex(), model="m", inputs=(spec,), deadline_s=TASK_S)
        asking = asyncio.ensure_future(life.dispatcher.submit(request, memoryview(body)))
        gone = dice.random() < 0.3
        try:
            if gone:
                await asyncio.wait([asking], timeout=dice.uniform(0.0, 0.1))
                asking.cancel()
            reply = await asking
        except asyncio.CancelledError:
            self.counts["tasks given up"] += 1
            if not gone:
                asking.cancel()
                raise
        except MeshError as error:
            self.counts["tasks failed"] += 1
            if began - self._last_trouble() > CALM_S and not self.closing:
                self.violated(f"a task of a calm node {node.index} failed: {error}")
        else:
            self.counts["tasks answered"] += 1
            assert isinstance(reply.message, Submitted)
            if b"".join(map(bytes, reply.body)) != body:
                self.violated(f"a task of node {node.index} was answered with something else")
        took_s = self.loop.time() - began
        if took_s > TASK_S + 0.5 and node.disturbed_at < began:
            self.violated(f"a task of node {node.index} with {TASK_S} s took {took_s:.3f} s")

    async def _look_up(self, life: Life, process: Process, dice: random.Random) -> None:
        """Somebody wants to reach a peer, and not for long."""
        peer = dice.choice([id for id in self.ids if id != life.keeper.id])
        try:
            async with asyncio.timeout(dice.choice((0.0, 0.001, 0.003, 0.1, 2.0)) * dice.random()):
                link = await life.pool.link(peer, life.membership.addresses(peer))
                await link.call(StreamPing())
        except (TimeoutError, MeshError):
            self.counts["look-ups failed"] += 1

    # --- faults ---

    def _last_trouble(self) -> float:
        return max(node.disturbed_at for node in self.all)

    async def _do(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        self.counts[fault.kind] += 1
        node = self.all[fault.nodes[0]]
        everyone = [self.all[i] for i in fault.nodes]
        if fault.kind in ("split", "loss", "disorder"):
            everyone = self.all
        self._disturb(everyone)
        self.network.note(f"fault {fault.kind}", node.index, node.index, 0)
        end: Callable[[], object] = lambda: None  # noqa: E731
        match fault.kind:
            case "split" | "isolate" | "one-way":
                end = self.weather.wall(fault)
            case "loss" | "disorder":
                end = self.weather.storm(fault)
            case "clock":
                node.wall_offset_s += (fault.amount - 0.5) * 2 * 365 * 86400
                if node.life is not None:
                    node.life.wall_offset_s = node.wall_offset_s
            case _ if node.running is not None:
                end = await self._do_to(node, node.running, fault)
        await asyncio.sleep(fault.lasts_s)
        end()
        self._disturb(everyone)

    async def _do_to(self, node: Node, life: Life, fault: Fault) -> Callable[[], object]:
        """To one node that runs; returns how it ends."""
        process = life.process
        match fault.kind:
            case "kill" | "power":
                self.end(node, power=fault.kind == "power")
                return lambda: self.begin(node)
            case "leave":
                await self.leave(node)
                return lambda: self.begin(node)
            case "hasty":
                await self.leave(node)
                self.begin(node)
                await asyncio.sleep(fault.amount * 0.05)
                if node.running is not None:
                    await self.leave(node)
                    self.begin(node)
            case "pause":
                process.hold()
                return lambda: None if process.ended else process.release(self.loop)
            case "say":
                self.inside(process, _quietly(lambda: life.publish(manifest(f"m{self.counts['say']}"))))
        return lambda: None

    def _disturb(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            node.disturbed_at = self.loop.time()

    # --- what must hold ---

    def _looked(self, life: Life) -> None:
        """A view changed: nobody who was there all the time is dead in it."""
        me, now = self.ids[life.keeper.id], self.loop.time()
        for member in life.membership.view():
            other = self.ids[member.id]
            if member.state == "dead" and other.running is not None:
                self.counts["seen dead"] += 1
                if min(now - me.disturbed_at, now - other.disturbed_at) > CALM_S and not self.closing:
                    self.violated(f"node {me.index} holds node {other.index} dead, which was there all the time")

    def disagreement(self) -> str:
        """Who sees what is not so; empty when all see the same."""
        up = [node for node in self.all if node.running is not None]
        wrong = [f"node {node.index} does not run" for node in self.all if node.running is None]
        there = {id for id, node in self.ids.items() if node in up}
        roots, trusts = set(), set()
        for node in up:
            life = node.running
            assert life is not None
            view = life.membership.view()
            wrong += [
                f"node {node.index} holds node {self.ids[m.id].index} {m.state}{'' if m.usable else ', not usable'}"
                f"{f' ({m.reason})' if m.reason else ''}"
                for m in view
                if (m.id in there) != (m.state == "alive" and m.usable)
            ]
            wrong += [f"node {node.index} knows {len(view)}" for _ in [0] if len(view) < len(there)]
            roots.add(life.membership._core.roster.root)
            trusts.add(life.keeper.statements.root_hash)
        if not wrong and len(roots) > 1:
            wrong.append("their tables differ")
        if not wrong and len(trusts) > 1:
            wrong.append("their trust sets differ")
        return "; ".join(wrong[:8])

    async def main(self) -> None:
        """The whole of it."""
        self.found()
        for node in self.all:
            self.begin(node)
            await asyncio.sleep(0.2)
        doing = [asyncio.ensure_future(self._do(fault)) for fault in self.faults]
        await asyncio.sleep(max(0.0, self.seconds - self.loop.time()))
        await asyncio.gather(*doing)
        until, why = self.loop.time() + AGREE_S, self.disagreement()
        while why and self.loop.time() < until:
            await asyncio.sleep(0.1)
            why = self.disagreement()
        if why:
            self.violated(f"no agreement: {why}")
        self._views = tuple(_line(node) for node in self.all)
        self.closing = True
        await asyncio.sleep(TASK_S + 1.0)
        await asyncio.gather(*(self.leave(node) for node in self.all if node.life is not None))

    def remains(self) -> None:
        """After everything: nothing may still wait."""
        mine = {task for process in self.dead for task in process.tasks}
        left = [task for task in asyncio.all_tasks(self.loop) if task not in mine]
        if left:
            self.violated(f"tasks are left: {_names(left)}")

    def outcome(self, cpu_s: float) -> Outcome:
        """What came of it."""
        return Outcome(
            self.seed,
            tuple(self.faults),
            tuple(self.violations),
            self.counts,
            self.network.trace.hexdigest(),
            tuple(self.network.tail),
            self._views,
            self.nodes * self.loop.time(),
            cpu_s,
            self.network.messages,
        )


def run(
    seed: int,
    *,
    nodes: int = NODES,
    seconds: float = SECONDS,
    loss: float = 0.0,
    faults: Sequence[Fault] | None = None,
) -> Outcome:
    """One seed; with `faults` these and no others."""
    chosen = list(faults) if faults is not None else draw(seed, nodes, seconds / 2, FAULTS, KINDS)
    began = time.process_time()
    network = Network(seed, Faults(loss=loss))
    loop = SimLoop(network)
    with tempfile.TemporaryDirectory() as folder, _listening() as heard:
        it = Run(seed, nodes, seconds, loss, chosen, Path(folder), loop, network)
        try:
            loop.run_until_complete(it.main())
        except Deadlock as error:
            it.violated(str(error))
        it.remains()
        gc.collect()
        for complaint in (*loop.complaints, *heard):
            it.violated(complaint)
    outcome = it.outcome(time.process_time() - began)
    _bury(it)
    loop.close()
    return outcome


def smaller(failed: Outcome, *, nodes: int = NODES, seconds: float = SECONDS, loss: float = 0.0) -> Outcome:
    """The same failure with as few faults as will do: each is left out in turn while it still fails."""
    kept = failed
    for fault in failed.faults:
        fewer = [other for other in kept.faults if other is not fault]
        tried = run(failed.seed, nodes=nodes, seconds=seconds, loss=loss, faults=fewer)
        if tried.violations:
            kept = tried
    return kept


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What is complained about outside of the loop: errors in the log, coroutines nobody awaited."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            why = f": {record.exc_info[1]!r}" if record.exc_info else ""
            heard.append(f"logged: {record.getMessage()}{why}")

    ear, before = Ear(logging.ERROR), sys.unraisablehook
    logger = logging.getLogger("meshnode")
    logger.addHandler(ear)
    sys.unraisablehook = lambda args: heard.append(f"not raised: {args.exc_value!r} in {args.object!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, category, *_: heard.append(f"{category.__name__}: {message}")
            yield heard
            gc.collect()
    finally:
        logger.removeHandler(ear)
        sys.unraisablehook = before


def _bury(run: Run) -> None:
    """End what died in the middle: it must not complain when it is taken away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, sys.unraisablehook = sys.unraisablehook, lambda _: None
        run.loop.set_exception_handler(lambda loop, context: None)
        for process in run.dead:
            for task in process.open_tasks():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(BaseException):
                    task.get_coro().close()
        run.dead.clear()
        gc.collect()
        sys.unraisablehook = before


def manifest(name: str) -> dict[str, Any]:
    """Of a model that nobody opens."""
    digest = hashlib.sha256(name.encode()).digest()
    return Manifest(name, 1, (File("m.onnx", 1000, digest, digest),), (), (), 4096).to_map()


async def _quietly(work: Callable[[], None]) -> None:
    with suppress(MeshError):
        work()


def _names(tasks: Sequence[asyncio.Task[Any]]) -> str:
    return "; ".join(sorted(repr(task.get_coro()) for task in tasks)[:6])


def _line(node: Node) -> str:
    life = node.life
    if life is None:
        return f"node {node.index}: does not run"
    states = Counter(member.state for member in life.membership.view())
    seen = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"node {node.index}, start {node.starts}: {seen}; {len(life.pool.links())} links; ran {life.execution.ran}"
