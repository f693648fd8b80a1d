"""What a peer may ask of this node's execution: real models in a real worker, and everything that is refused first."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from meshnode.catalog.index import Catalog
from meshnode.catalog.manifest import Manifest
from meshnode.config import LAN, MIB, Execution
from meshnode.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    NoNodeInZone,
    PermissionDenied,
    ProtocolError,
    Refused,
    TransferFailed,
)
from meshnode.execution import supervisor
from meshnode.execution.devices import Devices
from meshnode.links.link import Reply
from meshnode.tasks.outcomes import Served
from meshnode.tasks.serving import HOLD_MIN_S, Serving
from meshnode.wire import tensors
from meshnode.wire.messages import Digest, Infer, Inferred, NodeId, Quote, QuoteAsk, Stage
from tests.catalog.making import plain, weights
from tests.tasks.around import ANN, BOB, ME, MODEL

COUNT = 8


class Heard:
    """Notes what is asked of models here."""

    def __init__(self) -> None:
        self.asked_of: list[int] = []
        self.tasks = 0

    def asked(self, model: Digest, warm: int) -> None:
        self.asked_of.append(warm)

    def came(self, model: Digest) -> None:
        self.tasks += 1


async def _nowhere(_message: Infer, reply: Reply, _of: NodeId, _deadline: float, _stay: bool) -> Reply:
    return reply


class Bench:
    """A serving with a worker, one model on disk, and a note of every fetch."""

    def __init__(self, folder: Path) -> None:
        self.path = plain(folder / "model.onnx", COUNT)
        self.fetched: list[str] = []
        self.held = True
        self.unwilling = ""
        self.lost = False
        self.execution = supervisor.Execution(
            Execution(concurrency=1, arena_bytes=8 * MIB, gpu=False),
            Devices(cores=1, memory_total=psutil.virtual_memory().total),
            folder=folder / "worker",
            models=(folder,),
            changed=lambda: None,
        )
        roles = {ANN: frozenset({"submitter"}), BOB: frozenset({"worker"})}
        self.warming = Heard()
        self.serving = Serving(
            self_id=ME,
            zone=lambda: "eu/berlin",
            hold_s=LAN.routing.hold_s,
            execution=self.execution,
            roles_of=lambda node: roles.get(node, frozenset()),
            manifest=self._manifest,
            on_disk=lambda _: self.held,
            needs=lambda _: 0,
            ensure=self._ensure,
            willing=lambda: self.unwilling,
            onward=_nowhere,
            warming=self.warming,  # type: ignore[arg-type]
        )

    async def infer(self, submitter: NodeId = ANN, inputs: Any = None, body: bytes | None = None, **more: Any) -> Reply:
        x = {"x": np.ones(COUNT, np.float32)} if inputs is None else inputs
        specs, parts = tensors.encode(x)
        given: dict[str, Any] = {"task": "1" * 32, "attempt": 1, "model": MODEL.digest, "deadline_s": 30.0}
        data = b"".join(parts) if body is None else body
        return await self.serving.infer(Infer(inputs=specs, **(given | more)), memoryview(data), submitter)

    def quote(self, submitter: NodeId = ANN, rtt_s: float | None = None, **more: Any) -> Quote:
        given: dict[str, Any] = {"task": "1" * 32, "model": MODEL.digest, "deadline_s": 30.0}
        message = self.serving.quote(QuoteAsk(**(given | more)), submitter, rtt_s).message
        assert isinstance(message, Quote)
        return message

    def _manifest(self, digest: str) -> Manifest:
        if digest != MODEL.digest:
            return Catalog().of_digest(MODEL.digest)
        return MODEL

    async def _ensure(self, manifest: Manifest) -> Path:
        self.fetched.append(manifest.digest)
        if self.lost:
            raise TransferFailed("no node that is up has it")
        return self.path


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Its worker is ready, and gone afterwards."""
    it = Bench(tmp_path)
    await it.execution.start()
    try:
        await it.execution.ready()
        yield it
    finally:
        await it.execution.stop()


def outputs(reply: Reply) -> Any:
    assert isinstance(reply.message, Inferred)
    return tensors.decode(reply.message.outputs, b"".join(reply.body))["y"]


async def test_a_peers_task_is_run_and_its_answer_can_be_checked(bench: Bench) -> None:
    """The tensors, who ran which model on what, and a checksum over the bytes."""
    reply = await bench.infer()
    assert np.array_equal(1 + weights(COUNT), outputs(reply))
    message: Any = reply.message
    assert (ME, MODEL.digest, "CPUExecutionProvider") == (message.node, message.model, message.provider)
    assert zlib.crc32(b"".join(reply.body)) == message.checksum
    assert message.run_s > 0


async def test_only_submitters_get_work_done(bench: Bench) -> None:
    """A member that may only work, and a node that is none: refused with the way out, and nothing is fetched."""
    for stranger in (BOB, NodeId("z" * 52)):
        with pytest.raises(PermissionDenied, match=stranger[:8]) as caught:
            await bench.infer(stranger)
        assert "--role submitter" in caught.value.hint
        with pytest.raises(PermissionDenied):
            bench.quote(stranger)
    assert [] == bench.fetched


@pytest.mark.parametrize("zone", ["us", "eu/paris", "eu/berlin/store-12", "eu/ber", ""])
async def test_what_is_bound_to_another_zone_is_not_run_here(bench: Bench, zone: str) -> None:
    """The submitter has checked that already and is not believed: no quote, no fetch, no run; nor for this node."""
    for submitter in (ANN, ME):
        with pytest.raises(NoNodeInZone, match="eu/berlin"):
            bench.quote(submitter, zone=zone)
        with pytest.raises(NoNodeInZone, match="eu/berlin"):
            await bench.infer(submitter, zone=zone)
    assert [] == bench.fetched
    assert 0 == bench.execution.vitals()[2]


@pytest.mark.parametrize("zone", ["eu", "eu/berlin", None])
async def test_what_is_bound_to_this_zone_is_run_here(bench: Bench, zone: str | None) -> None:
    """This node's own zone, one that contains it, and none."""
    assert bench.quote(zone=zone).slots == 1
    assert np.array_equal(1 + weights(COUNT), outputs(await bench.infer(zone=zone)))


async def test_an_unwilling_node_takes_no_work_of_others_and_does_its_own(bench: Bench) -> None:
    """The refusal says why and when to ask again."""
    bench.unwilling = "it is stopping"
    with pytest.raises(Refused, match="it is stopping"):
        bench.quote()
    with pytest.raises(Refused, match="it is stopping") as caught:
        await bench.infer()
    assert caught.value.retry_after_s is not None
    assert np.array_equal(1 + weights(COUNT), outputs(await bench.infer(ME)))


async def test_a_quote_tells_what_is_still_to_be_fetched(bench: Bench) -> None:
    """A model that is missing costs its bytes; one on disk is only loaded; one in memory costs neither."""
    bench.held = False
    assert MODEL.size == bench.quote().fetch_bytes
    bench.held = True
    assert 0 == bench.quote().fetch_bytes
    assert bench.quote().load_s > 0
    await bench.infer()
    after = bench.quote()
    assert (0, 0.0) == (after.fetch_bytes, after.load_s)
    assert after.service_s < LAN.execution.service_prior_s


async def test_a_place_is_kept_for_two_round_trips(bench: Bench) -> None:
    """Never longer than the setting, never shorter than a moment."""
    held_s = [bench.quote(rtt_s=rtt_s).hold_s for rtt_s in (None, 0.0, 0.01, 9.0)]
    assert [LAN.routing.hold_s, HOLD_MIN_S, 0.02, LAN.routing.hold_s] == held_s


async def test_a_task_whose_time_is_over_is_not_run(bench: Bench) -> None:
    """DeadlineExceeded, and the worker saw nothing of it."""
    with pytest.raises(DeadlineExceeded, match="not run"):
        await bench.infer(deadline_s=0.0)
    assert (0, 0) == (bench.execution.vitals()[0], bench.execution.vitals()[2])


async def test_a_fetch_counts_against_the_tasks_time(bench: Bench) -> None:
    """What was left when the task came is all there is: a fetch that used it up is no new beginning."""
    fetch = bench.serving.ensure

    async def slow(manifest: Manifest) -> Path:
        await asyncio.sleep(0.05)  # how long the model is on its way
        return await fetch(manifest)

    bench.serving.ensure = slow
    with pytest.raises(DeadlineExceeded):
        await bench.infer(deadline_s=0.01)


async def test_a_model_that_cannot_be_had_is_not_run(bench: Bench) -> None:
    """The transfer's error goes to the submitter, who may try another node."""
    bench.lost = True
    with pytest.raises(TransferFailed) as caught:
        await bench.infer()
    assert caught.value.retry_elsewhere


async def test_a_model_that_the_mesh_does_not_know_is_refused(bench: Bench) -> None:
    """No fetch for a digest that nobody published."""
    with pytest.raises(ModelNotFound):
        await bench.infer(model="f" * 64)
    assert [] == bench.fetched


async def test_bytes_that_do_not_fit_their_description_are_refused(bench: Bench) -> None:
    """Too few, too many, and of another type: a typed error that says what was wrong, and the next task runs."""
    for body in (b"", bytes(4 * COUNT - 1), bytes(4 * COUNT + 1000)):
        with pytest.raises(ProtocolError, match=f"the body has {len(body)}"):
            await bench.infer(body=body)
    with pytest.raises(InvalidInput, match="'x'"):
        await bench.infer(inputs={"x": np.ones(COUNT, np.int64)})
    with pytest.raises(InvalidInput, match="no output 'z'"):
        await bench.infer(outputs=("z",))
    assert np.array_equal(1 + weights(COUNT), outputs(await bench.infer()))


async def test_demand_is_counted_once_for_each_task(bench: Bench) -> None:
    """Questions with what they say, tasks only when no question came before them, or when they are this node's own."""
    bench.quote(warm=3)
    bench.quote(warm=0)
    await bench.infer()
    assert ([3, 0], 0) == (bench.warming.asked_of, bench.warming.tasks)
    await bench.infer(task="2" * 32, max_wait_s=5.0)
    await bench.infer(ME, task="3" * 32)
    assert 2 == bench.warming.tasks


async def test_a_model_is_loaded_for_others_that_have_too_much(bench: Bench) -> None:
    """For any member that works or submits, unless this machine is its owner's; the model is fetched first."""
    bench.held = False
    await bench.serving.warm(MODEL.digest, BOB)
    assert [MODEL.digest] == [it.digest for it in bench.execution.loaded()]
    assert 1 == len(bench.fetched)
    await bench.serving.warm(MODEL.digest, ANN)
    assert 1 == len(bench.fetched)
    with pytest.raises(PermissionDenied):
        await bench.serving.warm(MODEL.digest, NodeId("c" * 52))
    bench.unwilling = "paused"
    with pytest.raises(Refused):
        await bench.serving.warm(MODEL.digest, BOB)


async def test_no_place_is_kept_for_who_takes_none(bench: Bench) -> None:
    """Its quotes go on, and tell how long it would wait; others' are not made worse by them."""
    assert bench.quote(task=f"{1:032x}").hold_s > 0
    holds = [bench.quote(task=f"{i:032x}").hold_s for i in range(2, 200)]
    assert {0.0} == set(holds[60:])


# --- pipelines ---


async def test_a_stage_is_answered_when_foreign_work_is_not_taken_any_more(bench: Bench) -> None:
    """The owner came back while the stage ran: what it brought is answered, with its checksum, and goes no further.
    Without that the rest is gone on with, as the submitter's."""
    gone_on: list[tuple[NodeId, bool]] = []

    async def onward(_message: Infer, reply: Reply, of: NodeId, _deadline: float, stay: bool) -> Reply:
        gone_on.append((of, stay))
        return reply

    bench.serving.onward = onward
    specs, parts = tensors.encode({"x": np.ones(COUNT, np.float32)})
    then = (Stage(MODEL.digest, (("x", "y"),)),)

    async def run(task: str) -> None:
        message = Infer(task=task * 32, attempt=1, model=MODEL.digest, deadline_s=30.0, inputs=specs, then=then)
        reply = await bench.serving.infer_for(message, memoryview(b"".join(parts)), ANN, lambda: False)
        assert isinstance(reply.message, Inferred)
        assert zlib.crc32(b"".join(reply.body)) == reply.message.checksum

    await run("2")
    assert [(ANN, True)] == gone_on, "this node may only work, and has the next model itself"
    bench.held = False
    await run("3")
    bench.held = True

    def comes_back(_served: Served) -> None:
        bench.unwilling = "the owner is at the keyboard"

    bench.serving.served = comes_back
    await run("4")
    assert 1 == len(gone_on)
