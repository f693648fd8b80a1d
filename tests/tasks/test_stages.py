"""A pipeline's way through the mesh: who runs what, what is run again and what is not, and what it is told as."""

from __future__ import annotations

import asyncio
import random
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from meshnode.catalog.manifest import File, Manifest, Tensor
from meshnode.errors import (
    ExecutionFailed,
    InvalidInput,
    MeshError,
    ModelNotFound,
    NoCapacity,
    OutcomeUnknown,
    PoisonTask,
    Refused,
    WorkerCrashed,
    from_wire,
)
from meshnode.links.link import Reply
from meshnode.tasks.binding import bind
from meshnode.tasks.dispatcher import Dispatcher
from meshnode.tasks.pursuit import Means
from meshnode.tasks.stages import Stages, feed, stage_task
from meshnode.wire import tensors
from meshnode.wire.messages import Infer, Inferred, NodeId, Quote, Stage, StageDone, Submit, Submitted
from tests.tasks.around import ANN, BOB, CAT, ME, Around, Far, hang
from tests.tasks.test_dispatcher import SETTINGS, fails, preferred
from tests.waiting import until


def manifest(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Manifest:
    files = (File("m.onnx", 1000, name.encode().ljust(32), bytes(32)),)
    declared = [tuple(Tensor(it, "tensor(float)", (None,)) for it in names) for names in (inputs, outputs)]
    return Manifest(name, 1, files, declared[0], declared[1], 4096, publisher=ME)


MODELS = {it.name: it for it in (manifest("one", ("x",), ("y",)), manifest("two", ("y",), ("z",)))}
MODELS["three"] = manifest("three", ("z",), ("w",))
BY_DIGEST = {it.digest: it for it in MODELS.values()}
SPECS, PARTS = tensors.encode({"x": np.arange(3, dtype=np.float32)})
BODY = memoryview(b"".join(PARTS))


def plus_one(message: Infer, body: memoryview, node: NodeId, **more: Any) -> Reply:
    """What a model of these brings: its only output is its input and one."""
    (array,) = tensors.decode(message.inputs, body).values()
    (output,) = BY_DIGEST[message.model].outputs  # type: ignore[index]
    specs, parts = tensors.encode({output.name: array + 1})
    data = b"".join(parts)
    given: dict[str, Any] = {"outputs": specs, "model": message.model, "node": node, "queue_s": 0.0, "run_s": 0.01}
    return Reply(Inferred(**(given | {"checksum": zlib.crc32(data)} | more)), (data,))


class Town:
    """This node among peers that run the models, one stage each, as versions do that know no pipelines."""

    def __init__(self, around: Around) -> None:
        self.around = around
        around.no_workers.add(ME)
        self.on_behalf: list[NodeId] = []
        means = Means(ME, around.chooser(SETTINGS.routing), around.link, self._here, lambda *_: None)
        rng = random.Random(3)
        self.stages = Stages(means, SETTINGS, rng, self._manifest, lambda digest: self._manifest(digest).bound)
        self.dispatcher = Dispatcher(means, self.stages, SETTINGS, rng, self._resolve, lambda *_: None)

    async def submit(self, *then: Stage, **fields: Any) -> Submitted:
        given: dict[str, Any] = {"task": "1" * 32, "model": "one", "inputs": SPECS, "deadline_s": 20.0, "then": then}
        reply = await self.dispatcher.submit(Submit(**(given | fields)), BODY)
        assert isinstance(reply.message, Submitted)
        (array,) = tensors.decode(reply.message.outputs, b"".join(reply.body)).values()
        np.testing.assert_array_equal(np.arange(3) + 1 + len(then), array)
        return reply.message

    async def onward(self, submitter: NodeId, *names: str, stay: bool = False, **fields: Any) -> Inferred:
        """Go on with a pipeline whose first stage this node has just run."""
        bound = bind(Submit(task="1" * 32, model="one", inputs=SPECS, deadline_s=1.0, then=stages(*names)), *self._bind)
        digest = MODELS["one"].digest
        given: dict[str, Any] = {"task": "1" * 32, "attempt": 1, "model": digest, "deadline_s": 5.0, "inputs": SPECS}
        message = Infer(**(given | {"then": bound.then} | fields))
        first = plus_one(message, BODY, ME)
        deadline = self.stages.means.now() + message.deadline_s
        reply = await self.stages.onward(message, first, submitter, deadline, stay=stay)
        assert isinstance(reply.message, Inferred)
        return reply.message

    @property
    def _bind(self) -> tuple[Any, ...]:
        return MODELS["one"], self._resolve, NodeId

    def _manifest(self, digest: str) -> Manifest:
        if digest not in BY_DIGEST:
            raise ModelNotFound(f"no model {digest}")
        return BY_DIGEST[digest]  # type: ignore[index]

    def _resolve(self, name: str) -> Manifest:
        if name not in MODELS:
            raise ModelNotFound(f"no model {name!r}")
        return MODELS[name]

    async def _here(self, message: Infer, body: memoryview, submitter: NodeId) -> Reply:
        self.on_behalf.append(submitter)
        return plus_one(message, body, ME)


def stages(*names: str) -> tuple[Stage, ...]:
    return tuple(Stage(name) for name in names)


async def peers(around: Around, *nodes: NodeId) -> list[Far]:
    """The first has the shortest queue."""
    found = await preferred(around, *nodes)
    for far in found:
        far.run = lambda message, body, far=far: _answer(message, body, far)  # type: ignore[misc]
    return found


async def _answer(message: Infer, body: memoryview, far: Far) -> Reply:
    return plus_one(message, body, far.id)


@pytest.fixture
def town(around: Around) -> Town:
    """An agent that has no worker of its own."""
    return Town(around)


# --- the submitter ---


async def test_a_version_that_knows_no_pipelines_runs_its_stage_and_the_rest_goes_on(
    around: Around, town: Town
) -> None:
    """It answers with what the one stage brought; the next is submitted from here, with the tensors renamed."""
    (ann,) = await peers(around, ANN)
    done = await town.submit(*stages("two", "three"))
    assert ["one", "two", "three"] == [BY_DIGEST[it.model].name for it in ann.ran]  # type: ignore[index]
    assert [2, 1, 0] == [len(it.then) for it in ann.ran]
    assert [0, 1, 2] == [it.stage for it in ann.ran]
    assert [("y",), ("z",), ()] == [it.outputs for it in ann.ran]
    assert 1 == len({it.task[:22] for it in ann.ran})
    assert 3 == len({it.task for it in ann.ran})
    assert [ANN] * 3 == [it.node for it in done.stages]
    assert MODELS["three"].digest == done.model


async def test_one_that_dies_with_the_tensors_costs_its_stages_and_no_task(around: Around, town: Town) -> None:
    """Where the only copy of what a stage brought is gone, that stage is run again on another node."""
    ann, bob = await peers(around, ANN, BOB)
    ann.run = hang
    task = asyncio.ensure_future(town.submit(*stages("two")))
    await until(lambda: ann.ran, "ann has it")
    around.cut(ANN)
    done = await task
    assert ["bob", "bob"] == [it.name for it in done.stages]
    assert ["one", "two"] == [BY_DIGEST[it.model].name for it in bob.ran]  # type: ignore[index]
    assert [("ann", "peer_lost"), ("bob", "ok")] == [(row[1], row[2]) for row in done.stages[0].attempts if row[2]][-2:]


async def test_an_error_of_a_later_stage_is_final(around: Around, town: Town) -> None:
    """The node that ran the first stage has tried the second: it is not begun anew elsewhere, and all attempts tell."""
    ann, bob = await peers(around, ANN, BOB)
    told = {"code": "worker_crashed", "message": "stage 2 of 2, 'two': it died", "stage": 1}
    ann.run = fails(from_wire({**told, "attempts": [[CAT, "cat", "worker_crashed", 0.1, "", 1]]}))
    with pytest.raises(WorkerCrashed) as ended:
        await town.submit(*stages("two"))
    assert 1 == ended.value.stage
    assert [("ann", "ok", 0), ("cat", "worker_crashed", 1)] == [
        (it.name, it.outcome, it.stage) for it in ended.value.attempts
    ]
    assert [] == bob.ran


async def test_stages_that_were_not_asked_for_are_no_answer(around: Around, town: Town) -> None:
    """Who says that it ran another model, or more than there are, is not believed; the task goes elsewhere."""
    ann, bob = await peers(around, ANN, BOB)
    wrong = (StageDone(MODELS["three"].digest, ANN, "ann", 0.1),)

    async def lie(message: Infer, body: memoryview) -> Reply:
        return plus_one(message, body, ANN, stages=wrong)

    ann.run = lie
    done = await town.submit(*stages("two"))
    assert ["protocol_error", "ok"] == [row[2] for row in done.stages[0].attempts]
    assert 2 == len(bob.ran)


async def test_hedging_and_comparing_are_refused(around: Around, town: Town) -> None:
    """Both would run a whole chain twice: they are for single models."""
    for more in ({"hedge": True}, {"verify": 1.0}):
        with pytest.raises(InvalidInput, match="cannot be hedged or verified"):
            await town.submit(*stages("two"), **more)


# --- whoever ran a stage ---


async def test_a_stage_that_is_lost_is_tried_again_from_where_its_inputs_are(around: Around, town: Town) -> None:
    """Ann dies with the second stage: bob gets it from here, and the first is not run again."""
    ann, bob = await peers(around, ANN, BOB)
    ann.run = hang
    going = asyncio.ensure_future(town.onward(CAT, "two", "three", zone=None, once=False, priority="high"))
    await until(lambda: ann.ran, "ann has it")
    around.cut(ANN)
    reply = await going
    assert ["two", "three"] == [BY_DIGEST[it.model].name for it in bob.ran]  # type: ignore[index]
    assert {"high"} == {it.priority for it in bob.ran}
    assert ["bob", "bob"] == [it.name for it in reply.stages]
    assert (ME, MODELS["one"].digest) == (reply.node, reply.model)
    assert reply.rest_s > 0


async def test_what_must_not_run_twice_does_not_in_any_stage(around: Around, town: Town) -> None:
    """Ann had the second stage and is gone: nobody can tell whether it ran, and nobody runs it again."""
    ann, bob = await peers(around, ANN, BOB)
    ann.run = hang
    going = asyncio.ensure_future(town.onward(CAT, "two", once=True))
    await until(lambda: ann.ran, "ann has it")
    around.cut(ANN)
    with pytest.raises(OutcomeUnknown, match="stage 2 of 2") as told:
        await going
    assert 1 == told.value.stage
    assert ([True], []) == ([it.once for it in ann.ran], bob.ran)


async def test_what_nobody_takes_goes_back_at_once(around: Around, town: Town) -> None:
    """Nothing of the stage was begun: the tensors are answered, and whoever sent the first stage goes on."""
    ann, bob = await peers(around, ANN, BOB)
    for far in (ann, bob):
        far.quote = Refused("full")
    reply = await town.onward(CAT, "two")
    assert () == reply.stages
    assert ["y"] == [spec.name for spec in reply.outputs]
    assert 1 == len(ann.asked)


async def test_our_own_pipeline_waits_for_a_node(around: Around, town: Town) -> None:
    """There is nobody to give it back to: the stage has the patience of any task."""
    (ann,) = await peers(around, ANN)
    answers = [fails(Refused("full", retry_after_s=0.01))] * 3

    async def full_at_first(message: Infer, body: memoryview) -> Reply:
        return await answers.pop()(message, body) if answers else plus_one(message, body, ANN)

    ann.run = full_at_first
    reply = await town.onward(ME, "two")
    assert ["refused"] * 3 + ["ok"] == [row[2] for row in reply.stages[0].attempts]


async def test_what_was_begun_and_failed_does_not_go_back(around: Around, town: Town) -> None:
    """A worker died of it twice: it is poison, and nobody tries it a third time from another node."""
    ann, bob = await peers(around, ANN, BOB)
    for far in (ann, bob):
        far.run = fails(WorkerCrashed("signal 11"))
    with pytest.raises(PoisonTask, match="stage 2 of 2, 'two'") as told:
        await town.onward(CAT, "two")
    assert 1 == told.value.stage
    assert [1, 1] == [it.stage for it in told.value.attempts]
    assert (1, 1) == (len(ann.ran), len(bob.ran))


async def test_attempts_of_the_stages_before_stay_with_an_error(around: Around, town: Town) -> None:
    """The second ran, the third failed: both are told, each with its number, over the wire too."""
    (ann,) = await peers(around, ANN)

    async def third_fails(message: Infer, body: memoryview) -> Reply:
        if message.stage == 2:
            raise ExecutionFailed("no")
        return plus_one(message, body, ANN)

    ann.run = third_fails
    with pytest.raises(ExecutionFailed) as told:
        await town.onward(CAT, "two", "three")
    error = from_wire(told.value.to_wire())
    assert [(1, "ok"), (2, "execution_failed")] == [(it.stage, it.outcome) for it in error.attempts]
    assert 2 == error.stage


async def test_it_is_work_of_its_submitter_when_it_stays(around: Around, town: Town) -> None:
    """This node runs the next stage for cat, who sent the first: as foreign work, with the rules of foreign work."""
    around.no_workers.clear()
    reply = await town.onward(CAT, "two")
    assert [CAT] == town.on_behalf
    assert [ME] == [it.node for it in reply.stages]


async def test_it_moves_when_waiting_here_would_take_longer(around: Around, town: Town) -> None:
    """The same estimates decide as for any task: a line of five seconds here, none at ann."""
    (ann,) = await peers(around, ANN)
    around.no_workers.clear()
    around.own = Quote(backlog_s=5.0, service_s=0.01, slots=1)
    assert [ANN] == [it.node for it in (await town.onward(CAT, "two", deadline_s=20.0)).stages]
    around.own = Quote(backlog_s=0.0, service_s=0.01, slots=1)
    ann.quote = Quote(backlog_s=5.0, service_s=0.01, slots=1)
    assert [ME] == [it.node for it in (await town.onward(CAT, "two", deadline_s=20.0)).stages]


async def test_who_may_not_submit_sends_nothing(around: Around, town: Town) -> None:
    """A node that may only work runs the rest itself or gives it back, whatever others would take."""
    (ann,) = await peers(around, ANN)
    around.own = NoCapacity("full")
    around.no_workers.clear()
    assert () == (await town.onward(CAT, "two", stay=True)).stages
    assert [] == ann.asked


# --- values ---


def test_a_stage_has_a_new_id_each_time() -> None:
    """Its inputs may be others after a second run, and an id stands for one task; the first digits stay the task's."""
    task = "0123456789abcdef" * 2
    ids = {stage_task(task, stage, chance) for stage in (1, 15) for chance in (0.1, 0.2)}
    assert 4 == len(ids)
    assert {(task[:22], 32)} == {(it[:22], len(it)) for it in ids}


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.data())
def test_outputs_become_inputs_whatever_their_order(sizes: list[int], data: st.DataObject) -> None:
    """Renamed, left out, in another order, or taken twice: each input is the output that it was promised."""
    arrays = {f"o{i}": np.full(size, i, np.int16) for i, size in enumerate(sizes)}
    specs, parts = tensors.encode(arrays)
    taken = data.draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, max_size=6))
    pairs = tuple((f"i{n}", output) for n, output in enumerate(taken))
    named, body = feed(Stage("m", pairs), specs, (b"".join(parts),))
    for (name, output), array in zip(pairs, tensors.decode(named, body).values(), strict=True):
        np.testing.assert_array_equal(arrays[output], array, name)


def test_an_output_that_is_missing_is_an_error_of_its_sender() -> None:
    """It was asked for and did not come."""
    with pytest.raises(MeshError, match="brought no 'y'"):
        feed(Stage("m", (("x", "y"),)), SPECS, (bytes(BODY),))


def test_binding_says_what_it_chose() -> None:
    """Digests for names, every pair, and of each stage the outputs that the next takes."""
    request = Submit(task="1" * 32, model="one", inputs=(), deadline_s=1.0, outputs=("w",), then=stages("two", "three"))
    bound = bind(request, MODELS["one"], MODELS.__getitem__, NodeId)
    assert ("y",) == bound.outputs
    assert (
        Stage(MODELS["two"].digest, (("y", "y"),), ("z",)),
        Stage(MODELS["three"].digest, (("z", "z"),), ("w",)),
    ) == bound.then
    alone = structs.replace(request, then=stages("three"))
    assert (("z", "y"),) == bind(alone, MODELS["one"], MODELS.__getitem__, NodeId).then[0].inputs
