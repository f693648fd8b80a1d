"""Several models as one task, through whole agents: real links, real workers, and tensors that go no detour."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import meshnode
from meshnode.blocking import Client
from meshnode.client import AsyncClient, Stage
from meshnode.edge.node import Node
from meshnode.errors import Cancelled, ExecutionFailed, InvalidInput, ModelNotFound, NoNodeInZone, PermissionDenied
from meshnode.tasks.outcomes import Served
from tests.edge.living import ask, founder, joiner, sees, workers
from tests.edge.test_policing import locally, signed
from tests.execution.making import MODELS, fragile, save, value_info
from tests.waiting import until

ROW = np.arange(8, dtype=np.float32).reshape(2, 4)


def _floats(name: str) -> Any:
    return value_info(name, TensorProto.FLOAT, ["b", 4])


def _models(folder: Path) -> dict[str, Path]:
    """double: x to y and half; plus: y, which is also what it is called, to z; other: an input of another name."""
    two = helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])
    double = [helper.make_node("Mul", ["x", "two"], ["y"]), helper.make_node("Div", ["x", "two"], ["half"])]
    plus = [helper.make_node("Add", ["y", "two"], ["z"])]
    total = [helper.make_node("ReduceSum", ["a"], ["s"], keepdims=0)]
    cast = [helper.make_node("Cast", ["z"], ["x"], to=TensorProto.INT32)]
    made = {
        "double": save(folder, double, [_floats("x")], [_floats("y"), _floats("half")], [two]),
        "plus": save(folder, plus, [_floats("y")], [_floats("z")], [two]),
        "total": save(folder, total, [_floats("a")], [value_info("s", TensorProto.FLOAT, [])]),
        "cast": save(folder, cast, [_floats("z")], [value_info("x", TensorProto.INT32, ["b", 4])]),
        "fragile": fragile(folder),
    }
    return {name: model.path for name, model in made.items()}


def note(node: Node) -> list[Served]:
    """What it ran, from now on."""
    ran: list[Served] = []
    node.serving.served = ran.append
    return ran


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[tuple[Node, Node, Node]]:
    """ann, bob in zone eu, cat in zone us who may only work; all know the models."""
    async with (
        founder(tmp_path / "ann") as ann,
        joiner(tmp_path / "bob", ann.node, zone="eu") as bob,
        joiner(tmp_path / "cat", ann.node, "cat", zone="us", role="worker") as cat,
    ):
        nodes = (ann.node, bob.node, cat.node)
        await until(lambda: sees(bob.node, cat.node) and sees(cat.node, bob.node), "all see each other")
        models = _models(tmp_path)
        for name, path in models.items():
            await ask(ann.node.home, "model.add", {"path": str(path), "name": name})
        await until(lambda: all(len(node.catalog.manifests()) == 5 for node in nodes), "all know the models")
        await until(lambda: all(_able(node) == 3 for node in nodes), "all have workers, and say so")
        yield nodes
    assert [] == workers()


def _able(node: Node) -> int:
    """How many nodes it knows that run models."""
    return sum(member.advert is not None and bool(member.advert.providers) for member in node.membership.view())


async def test_stages_meet_by_name_by_order_and_by_what_is_said(three: tuple[Node, Node, Node]) -> None:
    """Equal names; one output and one input, whatever they are called; and a mapping where neither tells. It is one
    task, and the result tells of each stage."""
    ann, _, _ = three
    async with AsyncClient(ann.home) as client:
        before = ann.dispatcher.counters.submitted
        result = await client.pipeline("double", "plus", "total")(ROW)
        assert float((ROW * 2 + 2).sum()) == float(result["s"])
        assert before + 1 == ann.dispatcher.counters.submitted
        assert ["ok"] * 3 == [attempt.outcome for attempt in result.attempts]
        assert [0, 1, 2] == [attempt.stage for attempt in result.attempts]
        digests = [(await client.ask("model.show", model=name))["digest"] for name in ("double", "plus", "total")]
        assert digests == [stage.model for stage in result.stages]
        assert (result.stages[-1].node, digests[-1]) == (result.node, result.model)
        halved = await client.pipeline(stages=["double", ("plus", {"y": "half"})]).infer({"x": ROW}, outputs=["z"])
        np.testing.assert_array_equal(ROW / 2 + 2, halved["z"])


async def test_stages_stay_together_where_the_tensors_are(three: tuple[Node, Node, Node]) -> None:
    """Bob ran the first and is as good as any: it runs the others too, as work of ann, and ann sees no tensor."""
    ann, bob, cat = three
    ran = note(bob), note(ann), note(cat)
    async with AsyncClient(ann.home) as client:
        result = await client.pipeline(Stage("double", node="bob"), "plus", "total")(ROW)
    assert [bob.keeper.id] * 3 == [stage.node for stage in result.stages]
    assert [ann.keeper.id] * 3 == [served.submitter for served in ran[0]]
    assert 1 == len({served.task[:22] for served in ran[0]})
    assert ([], []) == ran[1:]


async def test_tensors_go_straight_to_the_next_node(three: tuple[Node, Node, Node]) -> None:
    """Cat gets them from bob and from nobody else; ann gets the result."""
    ann, bob, cat = three
    ran = note(bob), note(cat), note(ann)
    x = np.ones((50_000, 4), np.float32)
    async with AsyncClient(ann.home) as client:
        pipeline = client.pipeline(Stage("double", node="bob"), Stage("plus", node="cat"), Stage("total", node="cat"))
        result = await pipeline(x)
    assert 800_000.0 == float(result["s"])
    assert ["bob", "cat", "cat"] == [stage.node_name for stage in result.stages]
    assert [(ann.keeper.id, x.nbytes)] == [(served.submitter, served.input_bytes) for served in ran[0]]
    assert [bob.keeper.id] * 2 == [served.submitter for served in ran[1]]
    assert [] == ran[2]


async def test_what_a_node_may_not_send_on_goes_back_to_who_may(three: tuple[Node, Node, Node]) -> None:
    """Cat may only work: what it is to run after its stage it runs, what others are to run ann sends to them."""
    ann, bob, cat = three
    ran = note(bob), note(cat)
    async with AsyncClient(ann.home) as client:
        await client.infer("plus", {"y": ROW}, node="cat")
        stages = Stage("double", node="cat"), "plus", Stage("total", node="bob")
        result = await client.pipeline(*stages)(ROW)
    assert float((ROW * 2 + 2).sum()) == float(result["s"])
    assert ["cat", "cat", "bob"] == [stage.node_name for stage in result.stages]
    assert [ann.keeper.id] * 3 == [served.submitter for served in ran[1]]
    assert [ann.keeper.id] == [served.submitter for served in ran[0]]


async def test_every_stage_keeps_to_the_zone(three: tuple[Node, Node, Node]) -> None:
    """The second stage is pinned outside of it: it does not run there, and the error says which stage it was."""
    ann, bob, cat = three
    ran = note(cat)
    async with AsyncClient(ann.home) as client:
        result = await client.pipeline("double", "plus").infer({"x": ROW}, zone="eu")
        assert {bob.keeper.id} == {stage.node for stage in result.stages}
        with pytest.raises(NoNodeInZone, match="stage 2 of 2, 'plus'") as told:
            await client.pipeline("double", Stage("plus", node="cat")).infer({"x": ROW}, zone="eu")
    assert 1 == told.value.stage
    assert [] == ran


async def test_every_stage_keeps_to_the_policy(three: tuple[Node, Node, Node]) -> None:
    """Cat's own file refuses the second model: it says so when it is asked for by name, and else others run it."""
    ann, _, cat = three
    ran = note(cat)
    locally(cat, "[models]\nmax_bytes = 1")
    async with AsyncClient(ann.home) as client:
        with pytest.raises(PermissionDenied, match=r"stage 2 of 2, 'plus'.*policy.toml of this node") as told:
            await client.pipeline("double", Stage("plus", node="cat"))(ROW)
        assert 1 == told.value.stage
        await client.pipeline("double", "plus")(ROW)
    assert ["permission_denied"] * len(ran) == [served.outcome for served in ran]


async def test_whose_tasks_the_policy_refuses_sends_nothing_on(three: tuple[Node, Node, Node]) -> None:
    """Bob runs what he is asked to and what stays with him; ann sends the rest to cat herself."""
    ann, bob, cat = three
    ran = note(bob), note(cat)
    await signed("[submit]\nnodes = ['ann']", ann, bob, cat)
    stages = Stage("double", node="bob"), Stage("plus", node="bob"), Stage("total", node="cat")
    async with AsyncClient(ann.home) as client:
        await client.infer("plus", {"y": ROW}, node="bob")  # what a node has on its disk it may go on with
        ran[0].clear()
        result = await client.pipeline(*stages)(ROW)
    assert ["bob", "bob", "cat"] == [stage.node_name for stage in result.stages]
    assert {ann.keeper.id} == {served.submitter for served in (*ran[0], *ran[1])}
    assert (["ok", "ok"], ["ok"]) == tuple([served.outcome for served in one] for one in ran)


async def test_a_pipeline_is_one_task_at_a_time_to_a_quota(three: tuple[Node, Node, Node]) -> None:
    """A stage gives its place back before the next is admitted: with one place, no stage waits for the one before."""
    ann, bob, cat = three
    ran = note(bob)
    await signed("[quota]\nconcurrent = 1", ann, bob, cat)
    async with AsyncClient(ann.home) as client:
        result = await client.pipeline(*(Stage(name, node="bob") for name in ("double", "plus", "total")))(ROW)
    assert ["ok"] * 3 == [attempt.outcome for attempt in result.attempts] == [served.outcome for served in ran]
    assert [0] == [account.open for account in bob.serving.quotas._accounts.values()]


async def test_an_error_names_its_stage_and_carries_all_attempts(three: tuple[Node, Node, Node]) -> None:
    """The first stage was run and is not run again; the one that fails on its input is not tried elsewhere."""
    ann, bob, _ = three
    zeros = np.full((2, 4), -1, np.float32)  # twice that and two more are zeros
    ran = note(bob)
    async with AsyncClient(ann.home) as client:
        with pytest.raises(ExecutionFailed, match="stage 4 of 4, 'fragile'") as told:
            await client.pipeline(Stage("double", node="bob"), "plus", "cast", "fragile")(zeros)
    assert [(0, "ok"), (1, "ok"), (2, "ok"), (3, "execution_failed")] == [
        (attempt.stage, attempt.outcome) for attempt in told.value.attempts
    ]
    assert ["ok", "ok", "ok", "execution_failed"] == [served.outcome for served in ran]


async def test_what_does_not_fit_is_refused_before_anything_runs(three: tuple[Node, Node, Node]) -> None:
    """An unknown model, a name that is none, an input that nothing feeds, element types that differ."""
    ann, _, _ = three
    ran = note(ann)
    wrong: list[tuple[type[Exception], str, tuple[Any, ...]]] = [
        (ModelNotFound, "nosuch", ("double", "nosuch")),
        (InvalidInput, "has no input 'q'", ("double", ("plus", {"q": "y"}))),
        (InvalidInput, "has no output 'q'", ("double", ("plus", {"y": "q"}))),
        (InvalidInput, "feeds the input 'a'", ("double", "total")),
        (InvalidInput, "does not fit input 'x'", ("plus", "fragile")),
    ]
    async with AsyncClient(ann.home) as client:
        for error, text, stages in wrong:
            with pytest.raises(error, match=text):
                await client.pipeline(*stages).infer({"x": ROW, "y": ROW})
        with pytest.raises(InvalidInput, match="'plus' has no output 'y'"):
            await client.pipeline("double", "plus").infer({"x": ROW}, outputs=["y"])
        for given in ((), ("a",) * 17, (("a", {"x": "y"}), "b"), (7,)):
            with pytest.raises(InvalidInput):
                client.pipeline(*given)  # type: ignore[arg-type]
    assert [] == ran


async def test_cancelling_reaches_the_stage_that_runs(three: tuple[Node, Node, Node], tmp_path: Path) -> None:
    """The second stage runs for ever on cat, sent there by bob: cancelled by the client, nobody works any more."""
    ann, bob, cat = three
    many = helper.make_tensor("many", TensorProto.INT64, [], [2**40])
    wide = value_info("x", TensorProto.FLOAT, [1, 64])
    rounds = helper.make_node("Identity", ["many"], ["rounds"])
    feeder = save(tmp_path, [rounds], [wide], [wide, value_info("rounds", TensorProto.INT64, [])], [many])
    for name, path in (("feeder", feeder.path), ("slow", MODELS / "slow" / "model.onnx")):
        await ask(ann.home, "model.add", {"path": str(path), "name": name})
    await until(lambda: all(len(node.catalog.manifests()) == 7 for node in three), "all know the models")
    async with AsyncClient(ann.home) as client:
        pipeline = client.pipeline(Stage("feeder", node="bob"), Stage("slow", node="cat"))
        task = pipeline.submit({"x": np.ones((1, 64), np.float32)})
        await until(lambda: cat.execution.vitals()[0], "it runs on cat")
        task.cancel()
        await until(lambda: not cat.execution.vitals()[0], "cat works no more")
        await until(lambda: not (bob.serving.runs.tasks or ann.dispatcher.open), "nobody waits for it")


def test_the_blocking_client_has_pipelines_too(tmp_path: Path) -> None:
    """The same names, without await; a mistake in a stage is told before an agent is asked."""
    with pytest.raises(InvalidInput, match="a stage is"):
        Client(tmp_path).pipeline("a", 7)  # type: ignore[arg-type]
    assert ("a", "b") == tuple(stage.model for stage in Client(tmp_path).pipeline("a", ("b", {"x": "y"})).stages)
    assert meshnode.Stage is Stage
    assert Cancelled.code == "cancelled"
