"""Answers that do not arrive, with two and three whole agents: real links that break, real workers that count runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from meshnode.client import AsyncClient
from meshnode.edge.node import Node
from meshnode.errors import NoCapacity, OutcomeUnknown, UnknownTask, WorkerCrashed
from meshnode.wire.messages import ResultAsk
from tests.edge import living
from tests.edge.living import ask, founder, joiner, workers
from tests.edge.test_local import ECHO
from tests.edge.test_peers import to
from tests.execution.making import save, value_info
from tests.mesh.rig import MODELS
from tests.waiting import until

ROUNDS = 700_000
"""About half a second of the slow model."""


def long(rounds: int = ROUNDS) -> dict[str, Any]:
    return {"x": np.ones((1, 64), np.float32), "rounds": np.array(rounds, np.int64)}


def done(node: Node) -> int:
    """Runs that ended well in its worker."""
    return node.execution.vitals()[2]


def busy(node: Node) -> int:
    return node.execution.vitals()[0]


def cut(node: Node, other: Node) -> None:
    """The connection breaks, at both ends at once."""
    for a, b in ((node, other), (other, node)):
        if (link := a.pool.get(b.keeper.id)) is not None:
            link.abort("the test cut it")


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[tuple[Node, Node, Node]]:
    """A mesh of three that has the slow model everywhere, in memory."""
    async with living.trio(tmp_path) as nodes:
        await ask(nodes[0].home, "model.add", {"path": str(MODELS / "slow" / "model.onnx"), "name": "slow"})
        await until(lambda: all(node.catalog.manifests() for node in nodes), "all know the model")
        async with AsyncClient(nodes[0].home) as client:
            for node in nodes:
                await client.infer("slow", long(1), node=node.keeper.id)
        yield nodes


async def test_a_link_that_breaks_under_a_task_costs_no_second_run(three: tuple[Node, Node, Node]) -> None:
    """The run goes on, its result is fetched over a new link, and the worker has run it once."""
    ann, bob, cat = three
    before = done(bob), done(cat), done(ann)
    async with AsyncClient(ann.home) as client:
        waiting = client.submit("slow", long(), node=bob.keeper.id)
        await until(lambda: busy(bob), "it runs")
        cut(ann, bob)
        result = await waiting
    assert ["peer_lost", "ok"] == [attempt.outcome for attempt in result.attempts]
    assert {bob.keeper.id} == {attempt.node for attempt in result.attempts}
    assert (before[0] + 1, *before[1:]) == (done(bob), done(cat), done(ann))
    assert 1 == ann.dispatcher.counters.recalled


async def test_a_result_that_was_ready_when_the_link_broke_is_still_there(three: tuple[Node, Node, Node]) -> None:
    """It ended while there was no link: the stored one is given, to the node that submitted it and to no other."""
    ann, bob, cat = three
    async with AsyncClient(ann.home) as client:
        result = await client.infer("slow", long(1), node=bob.keeper.id)
    task = next(reversed(bob.serving.runs.kept._results))
    runs = done(bob)
    again: Any = (await to(ann, bob).call(ResultAsk(task=task, attempt=1))).message
    assert result.model == again.model
    for asking, other in ((cat, task), (ann, "f" * 32)):
        with pytest.raises(UnknownTask):
            await to(asking, bob).call(ResultAsk(task=other, attempt=1))
    assert runs == done(bob)


async def test_a_result_that_was_cut_off_is_the_stored_one(
    three: tuple[Node, Node, Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link breaks when the answer is about to be written: what comes over the next one is the result of the one
    run, which a second run would not give again, for the model adds chance."""
    ann, bob, _ = three
    model = save(
        tmp_path,
        [helper.make_node("RandomNormalLike", ["x"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])],
        [value_info("x", TensorProto.FLOAT, ["b", 4])],
        [value_info("y", TensorProto.FLOAT, ["b", 4])],
    )
    await ask(ann.home, "model.add", {"path": str(model.path), "name": "chance"})
    await until(lambda: len(bob.catalog.manifests()) == 2, "bob knows it")
    real, given = bob.serving.runs.run, list[bytes]()

    async def cut_off(*words: Any) -> Any:
        reply = await real(*words)
        given.append(b"".join(reply.body))
        cut(ann, bob)
        return reply

    x = {"x": np.zeros((1, 4), np.float32)}
    async with AsyncClient(ann.home) as client:
        before = [(await client.infer("chance", x, node=bob.keeper.id))["y"].tobytes() for _ in range(2)]
        assert 2 == len(set(before)), "runs differ"
        runs = done(bob)
        monkeypatch.setattr(bob.serving.runs, "run", cut_off)
        result = await client.infer("chance", x, node=bob.keeper.id)
    assert ["peer_lost", "ok"] == [attempt.outcome for attempt in result.attempts]
    assert [result["y"].tobytes()] == given
    assert runs + 1 == done(bob)


async def test_one_task_over_many_cuts_is_answered_once_and_right(three: tuple[Node, Node, Node]) -> None:
    """Links that break again and again under load: nothing is lost, nothing is wrong, and runs stay few."""
    ann, bob, cat = three
    async with AsyncClient(ann.home) as client:
        expected = (await client.infer("slow", long(20_000)))["y"]
        before = sum(done(node) for node in three)
        tasks = [client.submit("slow", long(20_000)) for _ in range(60)]
        for _ in range(6):
            await asyncio.sleep(0.1)  # the rhythm of the cuts
            cut(ann, bob)
            cut(ann, cat)
        results = await asyncio.gather(*tasks)
    assert all(np.array_equal(expected, result["y"]) for result in results)
    runs = sum(done(node) for node in three) - before
    assert 60 <= runs <= 66, runs


async def test_what_may_run_once_survives_a_broken_link(three: tuple[Node, Node, Node]) -> None:
    """The same answer, one run."""
    ann, bob, _ = three
    runs = done(bob)
    async with AsyncClient(ann.home) as client:
        waiting = client.submit("slow", long(), node=bob.keeper.id, idempotent=False)
        await until(lambda: busy(bob), "it runs")
        cut(ann, bob)
        result = await waiting
    assert ["peer_lost", "ok"] == [attempt.outcome for attempt in result.attempts]
    assert runs + 1 == done(bob)


async def test_what_may_run_once_is_not_run_again_after_a_crash(three: tuple[Node, Node, Node]) -> None:
    """The worker dies under it: the error tells the one attempt, and no other worker gets it."""
    ann, bob, cat = three
    before = done(ann), done(cat)
    async with AsyncClient(ann.home) as client:
        waiting = client.submit("slow", long(), node=bob.keeper.id, idempotent=False)
        await until(lambda: busy(bob), "it runs")
        await asyncio.sleep(0.05)  # it is in the worker by now
        for worker in workers(bob.home):
            worker.kill()
        with pytest.raises(WorkerCrashed) as caught:
            await waiting
    assert ["worker_crashed"] == [attempt.outcome for attempt in caught.value.attempts]
    assert before == (done(ann), done(cat))


async def test_what_may_run_once_is_told_when_its_node_is_gone(tmp_path: Path) -> None:
    """The agent that has it ends: OutcomeUnknown or the node's own error, and it runs nowhere else."""
    async with founder(tmp_path / "ann") as first:
        ann = first.node
        async with joiner(tmp_path / "bob", ann) as second:
            bob = second.node
            await ask(ann.home, "model.add", {"path": str(MODELS / "slow" / "model.onnx"), "name": "slow"})
            await until(lambda: bob.catalog.manifests(), "bob knows the model")
            async with AsyncClient(ann.home) as client:
                await client.infer("slow", long(1), node=bob.keeper.id)
                runs = done(ann)
                waiting = client.submit("slow", long(20_000_000), node=bob.keeper.id, idempotent=False)
                await until(lambda: busy(bob), "it runs")
                bob.pool.unlisten()  # gone for good: nobody answers there any more
                cut(ann, bob)
                with pytest.raises(OutcomeUnknown) as caught:
                    await waiting
                assert "peer_lost" == caught.value.attempts[-1].outcome
                assert runs == done(ann)
                bob.serving.runs._running.clear()
                for worker in workers(bob.home):
                    worker.kill()
    assert [] == workers()


async def test_a_drained_node_hands_back_what_waits(three: tuple[Node, Node, Node]) -> None:
    """One task runs and ends there; those behind it are done elsewhere; nothing new comes until it is resumed."""
    ann, bob, cat = three
    async with AsyncClient(ann.home) as client:
        for node in three:  # all know by now what such a task takes
            for _ in range(4):
                await client.infer("slow", long(100_000), node=node.keeper.id)
        running = client.submit("slow", long(3 * ROUNDS), node=bob.keeper.id)
        others = [client.submit("slow", long(3 * ROUNDS), node=node.keeper.id) for node in (ann, cat)]
        await until(lambda: all(busy(node) == 1 for node in three), "all are busy, so that tasks wait at each")
        runs = done(bob)
        rest = []
        while busy(bob) < 3:  # one after the other: each is sent where it is done first, so some come to bob
            rest.append(client.submit("slow", long(100_000)))
            await until(lambda: sum(busy(node) for node in three) == 3 + len(rest), "it waits at one of the three")
        answer = await ask(bob.home, "drain")
        assert 0 == busy(bob)
        assert 2 == answer["handed_back"]
        assert answer["paused"]
        assert bob.keeper.id == (await running).node
        results = await asyncio.gather(*rest)
        await asyncio.gather(*others)
        assert done(bob) - runs <= 1 + sum(result.node == bob.keeper.id for result in results)
        assert any("refused" in [attempt.outcome for attempt in result.attempts] for result in results)
        with pytest.raises(NoCapacity):
            await client.infer("slow", long(1), node=bob.keeper.id, timeout=0.5)
        await ask(bob.home, "resume")
        assert bob.keeper.id == (await client.infer("slow", long(1), node=bob.keeper.id)).node


@pytest.mark.parametrize("leave", ["task", "client"])
async def test_giving_up_reaches_the_worker_of_another_node(three: tuple[Node, Node, Node], leave: str) -> None:
    """A task that is cancelled, or whose client leaves, ends where it runs, and counts as no run."""
    ann, bob, _ = three
    runs = done(bob)
    client = AsyncClient(ann.home)
    waiting = client.submit("slow", long(50_000_000), node=bob.keeper.id)
    await until(lambda: busy(bob), "it runs")
    began = time.monotonic()
    if leave == "task":
        waiting.cancel()
    else:
        await client.close()
    await until(lambda: not busy(bob), "it ended", within_s=5.0)
    assert time.monotonic() - began < 2.0
    assert runs == done(bob)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await client.close()


async def test_an_exact_task_says_how_it_was_computed(three: tuple[Node, Node, Node]) -> None:
    """Provider and precision are in the result, and what was expected of it."""
    ann, bob, _ = three
    async with AsyncClient(ann.home) as client:
        result = await client.infer("slow", long(1), node=bob.keeper.id, exact=True)
    assert ("CPUExecutionProvider", "float") == (result.provider, result.precision)
    assert result.quoted_seconds is not None
    assert 1 == result.batch


async def test_every_task_may_be_verified(three: tuple[Node, Node, Node]) -> None:
    """Three honest workers agree bit for bit; each task ran twice, on two nodes."""
    ann, _, _ = three
    runs = sum(done(node) for node in three)
    async with AsyncClient(ann.home) as client:
        results = [await client.infer("slow", long(100), verify=1.0) for _ in range(10)]
    assert 20 == sum(done(node) for node in three) - runs
    assert all(2 == len({attempt.node for attempt in result.attempts}) for result in results)
    assert (10, 0) == (ann.dispatcher.counters.verified, ann.dispatcher.counters.disputed)


async def test_a_worker_that_lies_is_set_aside(three: tuple[Node, Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """One node's results are wrong: the client gets right ones, the events say who and why, and it is left out."""
    ann, bob, _ = three
    real = bob.execution.run

    async def lie(job: Any) -> Any:
        told = await real(job)
        body = bytearray(told.body)
        body[0] ^= 1
        return type(told)(told.specs, bytes(body), told.queue_s, told.run_s, told.provider)

    monkeypatch.setattr(bob.execution, "run", lie)
    async with AsyncClient(ann.home) as client:
        expected = (await client.infer("slow", long(100), node=ann.keeper.id))["y"]
        results = await asyncio.gather(
            *[client.infer("slow", long(100), verify=1.0) for _ in range(24)]
        )  # all are busy
        assert all(np.array_equal(expected, result["y"]) for result in results)
        assert 1 <= ann.dispatcher.counters.disputed
        told = [event for event in ann.events.after(0) if event["event"] == "set aside"]
        assert {bob.keeper.id} == {event["node"] for event in told}
        assert all("two other nodes agree" in event["why"] for event in told)
        assert ann.dispatcher.chooser.estimates.ejected(bob.keeper.id, time.monotonic())
        after = [await client.infer("slow", long(100), verify=1.0) for _ in range(5)]
    assert all(np.array_equal(expected, result["y"]) for result in after)
    assert bob.keeper.id not in {attempt.node for result in after for attempt in result.attempts}


async def test_an_agent_that_dies_leaves_its_tasks_to_the_next(tmp_path: Path) -> None:
    """A client that knows two agents on its machine: the same task id, one answer, over the one that is left."""
    async with founder(tmp_path / "ann") as ann:
        await ask(ann.node.home, "model.add", {"path": ECHO, "name": "echo"})
        await ask(ann.node.home, "model.add", {"path": str(MODELS / "slow" / "model.onnx"), "name": "slow"})
        client = AsyncClient([tmp_path / "bob", tmp_path / "ann"])
        async with joiner(tmp_path / "bob", ann.node) as bob:
            await until(lambda: len(bob.node.catalog.manifests()) == 2, "bob knows the models")
            await client.infer("slow", long(1), node=ann.node.keeper.id)
            assert tmp_path / "bob" == client.home
            runs = done(ann.node)
            waiting = client.submit("slow", long(), node=ann.node.keeper.id)
            await until(lambda: busy(ann.node), "it runs at ann")
            for link in list(bob._local._links):
                link.abort("killed")
            await bob._local.stop()
            cut(ann.node, bob.node)
            result = await waiting
        assert tmp_path / "ann" == client.home
        assert "ok" == result.attempts[-1].outcome
        await client.close()
        assert runs + 1 <= done(ann.node) <= runs + 2
    assert [] == workers()
