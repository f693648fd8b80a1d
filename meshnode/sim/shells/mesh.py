"""The machines of a run and the agents on them: they are founded, join, start, die, and stop in good order."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.catalog.manifest import File, Manifest
from meshnode.config import LAN, Discovery, Settings
from meshnode.sim.shells.findings import Findings
from meshnode.sim.shells.life import PORT, ROLES, Life, Peers, SimKeeper, Watcher
from meshnode.sim.shells.loop import SimLoop
from meshnode.sim.shells.process import PROCESS, Process
from meshnode.sim.shells.stations import Network, Station
from meshnode.trust import homefiles, identity
from meshnode.trust.keeper import Membership
from meshnode.wire.messages import NodeId

BOUND = "bound"
"""The name of the model that is bound to a zone."""
STOP_S = 20.0
AFTERWARDS_S = 0.1
"""What a stopped agent has begun to close is closed by then."""
SETTINGS = Settings(
    membership=LAN.membership, links=LAN.links, routing=LAN.routing, discovery=Discovery(mdns=False, seeds=())
)


@dataclass(slots=True)
class Node:
    """A machine of the run, and the process that runs on it."""

    index: int
    station: Station
    home: Path
    spki: bytes
    life: Life | None = None
    process: Process | None = None
    starts: int = 0
    joined: bool = False
    wall_offset_s: float = 0.0
    disturbed_at: float = 0.0
    stopping: bool = False
    zone: str = ""
    """That its grant names."""

    @property
    def zones(self) -> tuple[str, ...]:
        """As a grant has them."""
        return (self.zone,) if self.zone else ()

    @property
    def running(self) -> Life | None:
        """Its present life, if it can be asked anything."""
        process = self.process
        idle = process is None or process.ended or process.held or self.stopping
        return None if idle else self.life

    def __str__(self) -> str:
        if self.life is None:
            return f"node {self.index}: does not run"
        states = Counter(member.state for member in self.life.membership.view())
        seen = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        links, ran = len(self.life.pool.links()), self.life.execution.ran
        return f"node {self.index}, start {self.starts}: {seen}; {links} links; ran {ran}"


@dataclass(slots=True)
class Mesh:
    """See the module's docstring.

    Args:
        watcher: is told what the agents see.
        clients: what users of an agent do as long as it lives.
    """

    seed: int
    folder: Path
    loop: SimLoop
    network: Network
    findings: Findings
    watcher: Watcher
    clients: Callable[[Node, Life, Process], Coroutine[Any, Any, None]]
    zones: Sequence[str] = ()
    """Of the nodes, in turn; then there is a model bound to the first, too."""
    nodes: list[Node] = field(default_factory=list)
    ids: dict[NodeId, Node] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    """That ever were; a killed one has tasks that were in the middle of something."""

    def found(self, nodes: int, late: int) -> None:
        """Homes with keys from the seed; all but the last `late` belong to one mesh, which has one model."""
        keepers = []
        for index in range(nodes):
            home = self.folder / str(index)
            home.mkdir()
            drawn = hashlib.sha256(f"key {self.seed} {index}".encode()).digest()
            homefiles.mark_unjoined(home)
            identity.write_key(home / "node.key", Ed25519PrivateKey.from_private_bytes(drawn))
            keepers.append(keeper := SimKeeper.open(home))
            self.nodes.append(Node(index, self.network.add(), home, keeper.spki, zone=self._zone(index)))
            self.ids[keeper.id] = self.nodes[-1]
        first, early = keepers[0], range(1, nodes - late)
        first.found("simulated", "n0", self.nodes[0].zone)
        leaves = [first.admit(keepers[i].spki, f"n{i}", ROLES, self.nodes[i].zones)[0] for i in early]
        first.publish_model(manifest("m"))
        if self.zones:
            first.publish_model(manifest(BOUND, self.zones[0]))
        said = tuple(data for _, data in first.statements.items())
        for i, leaf in zip(early, leaves, strict=True):
            keepers[i].adopt(Membership(leaf, said, first.statements.mesh_id))
        for node, keeper in zip(self.nodes, keepers, strict=True):
            node.joined = node.index < nodes - late
            keeper.close()

    def _zone(self, index: int) -> str:
        return self.zones[index % len(self.zones)] if self.zones else ""

    async def join(self, node: Node) -> None:
        """The founder admits a machine, whose agent starts with what it was told; as after `meshnode join`."""
        founder = self.nodes[0]
        while (life := founder.running) is None:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.1)
        leaf, statement = life.keeper.admit(node.spki, f"n{node.index}", ROLES, node.zones)
        said = tuple(data for _, data in life.keeper.statements.items())
        keeper = SimKeeper.open(node.home)
        keeper.adopt(Membership(leaf, said, life.keeper.statements.mesh_id))
        keeper.close()
        node.joined = True
        assert founder.process is not None, "it runs"
        self.inside(founder.process, _do(lambda: life.admitted(statement)))
        self.begin(node)

    def begin(self, node: Node) -> None:
        """Start the agent's shells on a machine."""
        node.station.powered = True
        node.starts += 1
        node.stopping = False
        node.process = Process(f"node {node.index}, start {node.starts}", node.station)
        self.processes.append(node.process)
        node.life = None
        self.network.note(f"start {node.starts}", node.index, node.index)
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
            SETTINGS,
            process,
            self.loop,
            f"{self.seed} {node.index} {node.starts}",
            watcher=self.watcher,
            wall_offset_s=node.wall_offset_s,
        )
        peers: Peers = tuple((id, ((other.station.host, PORT),)) for id, other in list(self.ids.items())[:3])
        node.life = life
        await life.start(peers)
        life.start_task(self.clients(node, life, process))

    def end(self, node: Node, *, power: bool) -> None:
        """It dies, with its kernel saying so or without."""
        assert node.process is not None, "it runs"
        node.process.ended = node.process.killed = True
        (node.station.power_off if power else node.station.kill)()
        if node.life is not None:
            node.life.keeper.close()
        node.life = node.process = None

    async def leave(self, node: Node) -> None:
        """Stop it in good order; then nothing of it may be left."""
        life, process = node.life, node.process
        assert life is not None, "it runs"
        assert process is not None, "it runs"
        self.network.note("stop", node.index, node.index)
        node.stopping = True
        stopping = self.inside(process, life.stop())
        done, _ = await asyncio.wait([stopping], timeout=STOP_S)
        violated = self.findings.violated
        if not done:
            violated(f"{process.name} does not stop; waiting: {names(process.open_tasks())}")
        elif stopping.exception() is not None:
            violated(f"{process.name} failed while stopping: {stopping.exception()!r}")
        await asyncio.sleep(AFTERWARDS_S)
        if left := process.open_tasks():
            violated(f"{process.name} has stopped, and left tasks: {names(left)}")
        if timers := self.loop.pending_timers(process):
            violated(f"{process.name} has stopped, and left timers: {'; '.join(timers)}")
        if sockets := node.station.open_sockets():
            violated(f"{process.name} has stopped, and left open: {', '.join(sockets)}")
        self.network.note("stopped", node.index, node.index)
        process.ended = True
        node.station.kill()
        life.keeper.close()
        node.life = node.process = None

    def left(self) -> None:
        """After everything: nothing may still wait, but for what was killed."""
        killed = {task for process in self.processes if process.killed for task in process.tasks}
        left = [task for task in asyncio.all_tasks(self.loop) if task not in killed]
        if left:
            self.findings.violated(f"tasks are left: {names(left)}")


def manifest(name: str, zone: str = "") -> dict[str, Any]:
    """Of a model that nobody opens."""
    digest = hashlib.sha256(name.encode()).digest()
    return Manifest(name, 1, (File("m.onnx", 1000, digest, digest),), (), (), 4096, zone=zone).to_map()


def names(tasks: Sequence[asyncio.Task[Any]]) -> str:
    """Of some tasks, for people."""
    return "; ".join(sorted(repr(task.get_coro()) for task in tasks)[:6])


async def _do(work: Callable[[], None]) -> None:
    work()
