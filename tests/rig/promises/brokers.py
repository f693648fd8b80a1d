"""P27: a broker that dies, forgets, replays and changes bytes costs what goes over it, and nothing on direct ways."""

from __future__ import annotations

import asyncio
import io
import shutil
import signal
import time
from collections.abc import Callable, Sequence

import numpy as np

import meshnode
from meshnode.edge.mqtt.sealing import Sealing
from meshnode.trust.keeper import Keeper
from tests.edge.mqtt.mosquitto import COMMAND, MISSING, Mosquitto, outsider
from tests.mesh.load import Load
from tests.mesh.rig import MODELS, Agent, Rig, rig, wait_for
from tests.rig.middle import BYTES, PASS, PAYLOADS, Middle, middle
from tests.rig.promises.figures import Figure, at_least, at_most, none_of, tasks, told, true
from tests.rig.promises.town import SETTLE_S, Stage, wait
from tests.waiting import until

RATE = 25.0
BACK_S = 40.0
"""Agents come back to a broker with pauses of up to 30 s."""
REFUSED = "a record at the broker is refused"
CONNECTED = "connected with the MQTT broker"
"""Lines of an agent's log."""


def lacks() -> str:
    """Why this cannot be tried here."""
    return "" if COMMAND is not None else MISSING


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Three agents that have a broker beside their links; a steady load that never touches it."""
    folder = stage.fresh()
    it = Mosquitto(folder / "broker")
    asyncio.run(it.start())
    try:
        with middle(it.port, stage.seed) as between, rig(folder) as agents:
            return _Broker(it, between, agents, full).run()
    finally:
        it.stop()


class _Broker:
    def __init__(self, it: Mosquitto, between: Middle, agents: Rig, full: bool) -> None:
        self.broker, self.between, self.rig, self.full = it, between, agents, full
        self.url = url = f"mqtt://127.0.0.1:{between.port}"
        first = agents.start("n0", "--mqtt", url)
        roles = {"n1": "worker", "n2": "submitter"}
        tokens = {name: first.command("invite", "--role", role).stdout.strip() for name, role in roles.items()}
        self.agents = [first, *(agents.start(name, token, "--mqtt", url) for name, token in tokens.items())]
        first.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
        submitter = self.agents[2]
        wait_for(lambda: submitter.status()["models"], within_s=30, why="the model is known")
        wait_for(lambda: all(self._sees(agent) for agent in self.agents), within_s=30, why="all see all")

    def run(self) -> list[Figure]:
        """What a broker can do, one after the other."""
        self._left()
        figures = list[Figure]()
        marks = [self._last_event(agent) for agent in self._steady]
        with Load(self.agents[2].home, RATE) as load:
            wait_for(lambda: load.answered, within_s=30, why="the load runs")
            for number in range(1, (3 if self.full else 1) + 1):
                figures += [self._dies(number), *self._lies(number), *self._changes(number)]
        did = "through all of it, a load that never touches the broker"
        return [
            *figures,
            *tasks(did, [load]),
            none_of(
                did, "changes in how agents hold each other, but of the one that was started anew", self._seen(marks)
            ),
            none_of(did, "agents that ended", [it.home.name for it in self.agents if it.process.poll() is not None]),
            none_of(did, "tracebacks in their logs", [it.home.name for it in self.agents if "Traceback" in it.log()]),
        ]

    @property
    def _steady(self) -> list[Agent]:
        return [self.agents[0], self.agents[2]]

    def _dies(self, number: int) -> Figure:
        """Killed, and back with what it knew before."""
        kept, old = self.broker.folder / "mosquitto.db", self.broker.folder / "old"
        kept.unlink(missing_ok=True)
        assert self.broker.process is not None
        self.broker.process.send_signal(signal.SIGUSR1)  # it writes down what it holds
        wait_for(kept.exists, within_s=30, why="the broker has written")
        wait(0.2)
        shutil.copy(kept, old)
        before = self._said(CONNECTED)
        self.broker.kill()
        wait(3.0 if self.full else 0.5)
        shutil.copy(old, kept)
        asyncio.run(self.broker.start())
        began = time.monotonic()
        self._until_more(CONNECTED, before, "all are at the broker again")
        did = f"the broker killed (-9), and back with what it held before; {number}"
        return at_most(did, "agents are back at it after", time.monotonic() - began, BACK_S)

    def _lies(self, number: int) -> list[Figure]:
        """Records that are forged, moved from another's place, of an earlier start, cut, and junk, all retained."""
        between, victim = self.between, self.agents[1]
        place, other = self._places[victim.id], self._places[self.agents[0].id]
        count, old = len(between.delivered[place]), between.delivered[place][0]
        victim.kill()
        self.agents[1] = victim = self.rig.start("n1", "--mqtt", self.url)  # all that it left before is old now
        wait_for(lambda: len(between.delivered[place]) > count, within_s=SETTLE_S, why="it left its addresses anew")
        wait_for(lambda: all(self._sees(agent) for agent in self.agents), within_s=SETTLE_S, why="it is back")
        fresh = between.delivered[place][-1]
        bent = bytearray(fresh)
        bent[len(bent) // 2] ^= 1
        moved = between.delivered[other][-1]
        lies = [bytes(bent), moved, old, fresh[:-1], fresh + b"x", bytes(len(fresh)), b"x", b"x" * 2000, old, moved]
        before = self._said(REFUSED, self._steady)
        asyncio.run(self._publish(place, lies))

        def found() -> list[int]:
            return [now - then for now, then in zip(self._said(REFUSED, self._steady), before, strict=True)]

        _within(lambda: min(found()) >= len(lies), 20.0)
        did = f"{len(lies)} retained lies at an agent's place: forged, moved, cut, junk, of its earlier start; {number}"
        wanted = [len(lies)] * len(self._steady)
        return [true(did, f"refused by each of {len(wanted)} others: all", found() == wanted, f"{found()}")]

    def _changes(self, number: int) -> list[Figure]:
        """A bit of every sealed record, then of any packet both ways; then it is honest again."""
        between, before = self.between, self._said(REFUSED)
        between.changed.clear()
        between.mode = PAYLOADS
        connected = self._said(CONNECTED)
        between.hang_up()
        self._until_more(CONNECTED, connected, "all are at the broker")
        wait_for(lambda: self._read_changed(), within_s=BACK_S, why="records came")
        wait(0.5)
        between.mode = PASS
        wanted = self._read_changed()
        _within(lambda: sum(self._said(REFUSED)) - sum(before) >= wanted, 10.0)
        refused = sum(self._said(REFUSED)) - sum(before)
        did = f"one bit of every sealed record changed on its way; {number}"
        figures = [true(did, f"all {wanted} that others left were refused", refused == wanted, f"{refused}")]
        between.counts.clear()
        between.mode = BYTES
        between.hang_up()
        wait(20.0 if self.full else 2.0)
        between.mode = PASS
        between.hang_up()
        began = time.monotonic()
        answered = asyncio.run(self._asked(number))
        did = f"bits of any packet changed, both ways; {number}"
        return [
            *figures,
            at_least(did, "packets", between.counts["bytes changed"], 1),
            true(did, "a task by the broker, honest again, is answered", answered),
            told(did, "...after", f"{time.monotonic() - began:.1f} s"),
        ]

    # --- the pieces ---

    def _last_event(self, agent: Agent) -> int:
        with meshnode.Client(home=agent.home) as client:
            rows = client.ask("events")
        return int(rows[-1]["number"]) if rows else 0

    def _seen(self, marks: Sequence[int]) -> list[str]:
        """What two of them saw of each other."""
        steady = {agent.id for agent in self._steady}
        found = []
        for agent, mark in zip(self._steady, marks, strict=True):
            with meshnode.Client(home=agent.home) as client:
                rows = client.ask("events", after=mark)
            found += [f"{row['event']} {row['node'][:8]}: {row['why']}" for row in rows if row["node"] in steady]
        return found

    def _sees(self, agent: Agent) -> bool:
        return [*agent.states().values()].count("alive") == len(self.agents)

    def _said(self, what: str, agents: Sequence[Agent] = ()) -> list[int]:
        """How often the log of each says that."""
        return [agent.log().count(what) for agent in agents or self.agents]

    def _until_more(self, what: str, before: Sequence[int], why: str) -> None:
        def more() -> bool:
            return all(now > then for now, then in zip(self._said(what), before, strict=True))

        wait_for(more, within_s=SETTLE_S, why=why)

    def _read_changed(self) -> int:
        """Changed records that came to somebody else than who left them."""
        own = {(f"meshnode-{node[:16]}", place) for node, place in self._places.items()}
        return sum(it not in own for it in self.between.changed)

    def _left(self) -> None:
        """Wait until all have left their addresses. Where that is, who has the mesh's genesis can tell."""
        copy = self.rig.folder / "copy"
        copy.mkdir()
        for name in ("node.key", "trust"):
            shutil.copy(self.agents[0].home / name, copy / name)
        keeper = Keeper.open(copy)
        sealing = Sealing(bytes(keeper.statements.genesis.body["random"]), "meshnode", lambda _: None)
        keeper.close()
        self._places = {agent.id: sealing.place(agent.id) for agent in self.agents}
        wanted = set(self._places.values())
        wait_for(lambda: wanted <= set(self.between.delivered), within_s=SETTLE_S, why="all left their addresses")

    async def _publish(self, topic: str, payloads: Sequence[bytes]) -> None:
        async with outsider(self.broker, "liar") as out:
            for payload in payloads:
                await out.client.publish(topic, payload, qos=1, retain=True)

    async def _asked(self, number: int) -> bool:
        """A task of a program that knows only the broker."""
        file = io.BytesIO()
        np.save(file, np.full((1, 4), number, np.float32))
        mesh, correlation = str(self.agents[0].ready["mesh"])[:16], b"%d" % number
        async with outsider(self.broker, f"asks{number}") as out:
            await out.ask(f"meshnode/{mesh}/infer/echo", file.getvalue(), correlation, expiry_s=60)
            answers = await until(lambda: out.answers.get(correlation), "an answer", within_s=60.0)
        return answers[0].properties["code"] == "ok" and answers[0].payload == file.getvalue()


def _within(what: Callable[[], bool], seconds: float) -> None:
    """Give it so much time; whether it came to that is judged by who asked."""
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        wait(0.05)
