"""What a peer that falls silent costs, exactly: the agents' own code on a virtual clock, and wires that swallow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from meshnode.errors import DeadlineExceeded, Refused
from meshnode.sim.faults import Fault, Weather
from meshnode.sim.shells.checks import Checks
from meshnode.sim.shells.clients import Clients
from meshnode.sim.shells.life import Life
from meshnode.sim.shells.mesh import Mesh, Node
from meshnode.sim.shells.process import Process
from meshnode.sim.shells.run import run
from meshnode.tasks.wanted import Wanted
from meshnode.wire.messages import Submit, Submitted, TensorSpec

BEGINS_S = 8.0
RUN_S = 1.0
SUBMITTER = 1


@dataclass
class Story:
    """What one user did and saw; times are those of the virtual clock."""

    checks: Checks
    node: Node
    life: Life
    weather: Weather

    @property
    def mesh(self) -> Mesh:
        return self.checks.mesh

    def of(self, node: Node) -> Story:
        """The same on another machine."""
        assert node.life is not None
        return Story(self.checks, node, node.life, self.weather)

    def request(self, name: str, deadline_s: float) -> Submit:
        """A task that says its name."""
        return Submit(
            task=name.encode().hex().ljust(32, "0"),
            model="m",
            inputs=(TensorSpec("x", "uint8", (len(name),), len(name)),),
            deadline_s=deadline_s,
        )

    def submit(self, name: str, deadline_s: float = 30.0) -> asyncio.Future[Any]:
        """Give it to this machine's agent."""
        request, body = self.request(name, deadline_s), name.encode()
        return asyncio.ensure_future(self.life.dispatcher.submit(request, memoryview(body)))

    def sees(self, node: Node) -> bool:
        """Whether this machine's agent would give the other one work."""
        member = node.life and self.life.membership.member(node.life.keeper.id)
        return bool(member and member.usable)

    @property
    def ran(self) -> int:
        """Runs of all."""
        return sum(node.life.execution.ran for node in self.mesh.nodes if node.life is not None)

    @property
    def now(self) -> float:
        return self.mesh.loop.now

    def busy(self, *but: Node) -> Node | None:
        """Who has a task and is none of these."""
        others = [it for it in self.mesh.nodes if it.life is not None and it not in but]
        return next((it for it in others if it.life is not None and it.life.execution.busy), None)

    async def until(self, what: Callable[[], Any]) -> Any:
        """A moment of the virtual clock, to the millisecond."""
        while not (answer := what()):
            assert self.now < BEGINS_S + 40.0, "it does not happen"
            await asyncio.sleep(0.001)
        return answer

    def cut(self, node: Node) -> Callable[[], None]:
        """Everything that it sends and is sent vanishes; returns how that ends."""
        return self._over(self.weather.wall(Fault("isolate", self.now, 0.0, (node.index,))), [node])

    def split(self, *indices: int) -> Callable[[], None]:
        """These and the others cannot reach each other; returns how that ends."""
        return self._over(self.weather.wall(Fault("split", self.now, 0.0, indices)), self.mesh.nodes)

    def hold(self, node: Node) -> Callable[[], None]:
        """As SIGSTOP; returns what SIGCONT does."""
        process = node.process
        assert process is not None
        self.mesh.loop.hold(process)
        return self._over(lambda: self.mesh.loop.release(process), [node])

    def _over(self, end: Callable[[], object], nodes: Sequence[Node]) -> Callable[[], None]:
        """Tell those who look on that these nodes have trouble, now and until the end."""
        self.checks.disturb(nodes)

        def over() -> None:
            end()
            self.checks.disturb(nodes)

        return over


def told(monkeypatch: pytest.MonkeyPatch, story: Callable[[Story], Awaitable[None]], nodes: int = 4) -> None:
    """Run it as the only user of a mesh, whose agents then have to agree and to stop leaving nothing behind."""
    ended = []

    async def of(self: Clients, node: Node, life: Life, process: Process) -> None:
        if node.index != SUBMITTER or node.starts > 1:
            return

        def nothing_here(*_: Any) -> Any:
            raise Refused("nothing is run on this machine")

        life.dispatcher.chooser.quote_here = nothing_here
        await asyncio.sleep(BEGINS_S)
        mesh = self.checks.mesh
        for other in mesh.nodes:
            if other.life is not None:
                other.life.execution._service_s = RUN_S
        await story(Story(self.checks, node, life, Weather(mesh.network.world.faults)))
        ended.append(True)

    monkeypatch.setattr(Clients, "of", of)
    outcome = run(3, nodes=nodes, seconds=60.0, faults=())
    assert () == outcome.violations
    assert [True] == ended


def test_a_task_leaves_a_black_hole_in_time_and_the_late_result_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is reset, nothing comes back: 0.75 s later another node has it, which answers; what the first one made
    of it comes when the hole closes, to nobody."""

    async def story(it: Story) -> None:
        asked = it.submit("a")
        victim = await it.until(lambda: it.busy(it.node))
        ends, cut_at = it.cut(victim), it.now
        other = await it.until(lambda: it.busy(it.node, victim))
        assert 0.45 <= it.now - cut_at <= 1.05
        message: Any = (await asked).message
        assert isinstance(message, Submitted)
        assert other.life is not None
        assert other.life.keeper.id == message.node
        assert ["peer_silent", "ok"] == [outcome for _, _, outcome, _, _ in message.attempts]
        assert victim.life is not None
        assert (1, 1) == (victim.life.execution.ran, other.life.execution.ran)
        assert 0 == it.life.dispatcher.counters.late
        ends()
        await it.until(lambda: it.life.dispatcher.counters.late)
        assert (1, 1) == (it.life.dispatcher.counters.answered, it.life.dispatcher.counters.late)

    told(monkeypatch, story)


def test_a_frozen_peer_comes_back_whole_and_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds like SIGSTOP, with tasks inside, and on: each task has one answer, nothing crashes, and the peer,
    which was used before, is drawn like a newcomer until it has been there for ten seconds."""

    def weight(it: Story, node: Node) -> float:
        assert node.life is not None
        wanted = Wanted.of(it.request("look", 1.0), it.life.catalog.resolve("m"))
        peers = it.life.dispatcher.chooser.knowing.peers(wanted, it.now)
        return next(peer.weight for peer in peers if peer.id == node.life.keeper.id)

    async def story(it: Story) -> None:
        for number in range(24):
            await it.submit(f"before {number}")
        victim = next(node for node in it.mesh.nodes if node.life is not None and node.life.execution.ran >= 5)
        assert 1.0 == weight(it, victim)
        asked = [it.submit(f"in it {number}") for number in range(6)]
        await it.until(lambda: victim.life is not None and victim.life.execution.busy)
        goes_on = it.hold(victim)
        await asyncio.sleep(10.0)
        goes_on()
        replies = await asyncio.gather(*asked)
        assert 6 == len(replies)
        assert (30, 30, 0) == (
            it.life.dispatcher.counters.submitted,
            it.life.dispatcher.counters.answered,
            it.life.dispatcher.counters.failed,
        )
        await it.until(lambda: weight(it, victim) > 0.0 and it.sees(victim))
        assert 0.1 <= weight(it, victim) < 0.3
        await asyncio.sleep(11.0)
        assert weight(it, victim) >= 0.9
        await asyncio.gather(*(it.submit(f"after {number}") for number in range(12)))

    told(monkeypatch, story)


def test_both_sides_of_a_split_go_on_and_no_task_waits_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two and three of five cannot reach each other for 30 s: tasks under way and new ones are done where they are."""

    async def story(it: Story) -> None:
        there = next(it.of(node) for node in it.mesh.nodes if node.index == 3)
        under_way = [one.submit(f"{side} before {n}") for side, one in (("a", it), ("b", there)) for n in range(4)]
        await it.until(lambda: it.busy(it.node))
        ends, began = it.split(0, SUBMITTER), it.now
        for number in range(10):
            replies = await asyncio.gather(
                it.submit(f"a {number}", 10.0), there.submit(f"b {number}", 10.0), *under_way
            )
            for one, reply in zip((it, there), replies, strict=False):
                message: Any = reply.message
                near = (0, SUBMITTER) if one is it else (2, 3, 4)
                assert it.mesh.ids[message.node].index in near
                assert message.seconds < 8.0
        assert it.now - began < 30.0
        await asyncio.sleep(began + 30.0 - it.now)
        ends()
        assert (14, 0) == (it.life.dispatcher.counters.answered, it.life.dispatcher.counters.failed)
        assert (14, 0) == (there.life.dispatcher.counters.answered, there.life.dispatcher.counters.failed)

    told(monkeypatch, story, nodes=5)


def test_what_cannot_be_in_time_is_told_after_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline of 100 ms behind seconds of work: an error after a round trip, and nobody ever runs it."""

    async def story(it: Story) -> None:
        asked = [it.submit(f"work {number}") for number in range(9)]
        await it.until(lambda: 9 == sum(node.life.execution.busy for node in it.mesh.nodes if node.life is not None))
        ran, began = it.ran, it.now
        with pytest.raises(DeadlineExceeded, match="no node would be done"):
            await it.submit("late", 0.1)
        assert it.now - began < 0.02
        await asyncio.gather(*asked)
        assert ran + 9 == it.ran

    told(monkeypatch, story)
