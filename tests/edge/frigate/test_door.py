"""The Frigate door of a real agent, driven by what Frigate's plugin does: real sockets, a real worker, a real model."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zmq
import zmq.asyncio

from meshnode.agent import Agent
from meshnode.doors import Frigate, Layout
from meshnode.edge.frigate.alarm import MISSES
from meshnode.edge.frigate.door import OPEN_MAX, FrigateDoor
from meshnode.edge.frigate.listening import KEY
from meshnode.edge.node import Node
from meshnode.errors import ConfigError, ListenError, ToolMissing
from meshnode.trust.keeper import Keeper
from tests.edge.frigate.plugin import SIDE, Plugin, coloured, ready, yolo
from tests.edge.living import ask, founder, joiner, living, sees, settings, workers
from tests.waiting import WITHIN_S, hold, until

PATIENT_S = 20.0


def patient(model: str = "eyes", **fields: Any) -> Frigate:
    """For tests of what is answered, not of when: the machine may be loaded."""
    return Frigate(**{"listen": "tcp://127.0.0.1:0", "model": model, "answer_s": 10.0, **fields})


def endpoint(agent: Agent) -> str:
    return str(agent.ready()["frigate"])


def blind(node: Node, after: int = 0) -> list[str]:
    """The events about cameras, oldest first."""
    return [it["event"] for it in node.events.after(after) if it["event"].startswith("cameras")]


def why_blind(node: Node) -> str:
    return str(next(it["why"] for it in reversed(node.events.after(0)) if it["event"] == "cameras blind"))


@asynccontextmanager
async def plugin(
    agent: Agent, model: Path, timeout_ms: int = 20_000, where: str = "", **more: Any
) -> AsyncIterator[Plugin]:
    """In threads: it is another program."""
    it = await asyncio.to_thread(lambda: Plugin(where or endpoint(agent), model, timeout_ms=timeout_ms, **more))
    try:
        yield it
    finally:
        await asyncio.to_thread(it.close)


async def detect(it: Plugin, frame: np.ndarray) -> np.ndarray | None:
    return await asyncio.to_thread(it.detect, frame)


async def with_model(agent: Agent, made: Path, name: str = "eyes") -> Path:
    await ask(agent.node.home, "model.add", {"path": str(made), "name": name})
    return made


async def test_a_frame_is_answered_with_what_the_detector_sees(tmp_path: Path) -> None:
    """Twenty rows of class, score, y1, x1, y2, x2; what was not found is zeros; an empty scene is twenty of them."""
    async with founder(tmp_path / "ann", frigate=patient()) as agent:
        model = await with_model(agent, yolo(tmp_path / "yolo.onnx"))
        async with plugin(agent, model) as frigate:
            assert frigate.ready
            assert [{"model_available": True, "model_loaded": True}] == frigate.said
            found = await detect(frigate, coloured(0.9, 0.5, 0.0))
            assert found is not None
            assert ((20, 6), np.float32) == (found.shape, found.dtype)
            np.testing.assert_allclose([0, 0.9, 0, 0, 1, 0.5], found[0], atol=1e-5)
            np.testing.assert_allclose([0, 0.5, 0, 0, 0.5, 1], found[1], atol=1e-5)
            assert not found[2:].any()
            nothing = await detect(frigate, coloured(0, 0, 0))
            assert nothing is not None
            assert not nothing.any()
        assert [] == blind(agent.node)


async def test_a_detector_that_speaks_frigates_language_is_passed_on(tmp_path: Path) -> None:
    """With pictures of bytes, height and width first."""
    async with founder(tmp_path / "ann", frigate=patient(layout=Layout.FRIGATE)) as agent:
        model = await with_model(agent, ready(tmp_path / "ready.onnx"))
        async with plugin(agent, model) as frigate:
            found = await detect(frigate, np.full((1, SIDE, SIDE, 3), 204, np.uint8))
            assert found is not None
            np.testing.assert_allclose([7, 0.8, 0.25, 0.125, 0.75, 0.5], found[0], atol=1e-5)
            assert not found[1:].any()


async def test_a_hundred_frames_one_after_the_other(tmp_path: Path) -> None:
    """Each gets its own answer, by way of a peer; none is missed."""
    async with founder(tmp_path / "ann") as ann:
        model = await with_model(ann, yolo(tmp_path / "yolo.onnx"))
        async with joiner(tmp_path / "bob", ann.node, role="submitter", frigate=patient()) as bob:
            await until(lambda: knows(bob.node, "eyes"), "bob knows the model")
            async with plugin(bob, model) as frigate:
                scores = np.linspace(0.45, 0.99, 100)
                for score in scores:
                    found = await detect(frigate, coloured(0, float(score), 0))
                    assert found is not None
                    np.testing.assert_allclose([0, score, 0, 0, 0.5, 1], found[0], atol=1e-5)
            assert [] == blind(bob.node)


def knows(node: Node, model: str) -> bool:
    return any(it.name == model for it in node.catalog.manifests())


async def test_an_outage_is_no_answer_and_an_alarm_until_somebody_can_see_again(tmp_path: Path) -> None:
    """The only node that can run the detector goes: frames get no answer, never zeros; it comes back, and they do."""
    async with AsyncExitStack() as bobs:
        async with founder(tmp_path / "ann") as ann:
            model = await with_model(ann, yolo(tmp_path / "yolo.onnx"))
            door = patient(answer_s=0.2)
            bob = await bobs.enter_async_context(joiner(tmp_path / "bob", ann.node, role="submitter", frigate=door))
            await until(lambda: knows(bob.node, "eyes"), "bob knows the model")
            async with plugin(bob, model, timeout_ms=200) as frigate:
                await answered(frigate)
        events = max((it["number"] for it in bob.node.events.after(0)), default=0)
        async with plugin(bob, model, timeout_ms=200) as frigate:
            assert frigate.ready, "a plugin that is told otherwise at its start never asks again"
            for _ in range(4):
                assert await detect(frigate, coloured(0.9, 0, 0)) is None
            assert ["cameras blind"] == blind(bob.node, events)
            assert "eyes: " == why_blind(bob.node)[:6]
            peers = ((bob.node.keeper.id, (bob.node.address,)),)
            async with living(tmp_path / "ann", Keeper.open(tmp_path / "ann"), peers, settings("ann")) as again:
                await until(lambda: sees(bob.node, again.node), "bob sees ann again")
                await answered(frigate)
                assert ["cameras blind", "cameras see"] == blind(bob.node, events)[:2]
    assert [] == workers()


async def answered(frigate: Plugin) -> None:
    """Frames are sent until one is answered."""
    end = time.monotonic() + WITHIN_S
    while await detect(frigate, coloured(0.9, 0, 0)) is None:
        assert time.monotonic() < end, "a frame is answered"


async def test_a_worker_that_hangs_is_no_answer_and_nothing_comes_late(tmp_path: Path) -> None:
    """A frame is answered in time or never: what was late is not sent when the worker goes on."""
    async with founder(tmp_path / "ann", frigate=patient(answer_s=0.3)) as agent:
        model = await with_model(agent, yolo(tmp_path / "yolo.onnx"))
        async with plugin(agent, model, timeout_ms=300) as frigate:
            await answered(frigate)
        (worker,) = workers(tmp_path / "ann")
        async with dealing(agent) as raw:
            try:
                await hold(worker.pid)
                for _ in range(MISSES):
                    await raw.send_multipart([b"", *frame(coloured(0.9, 0, 0))])
                await until(lambda: blind(agent.node), "the frames are given up")
            finally:
                with suppress(psutil.NoSuchProcess):
                    worker.resume()
            async with plugin(agent, model, timeout_ms=300) as frigate:
                await answered(frigate)
            assert not await raw.poll(200), "no late answer"


@asynccontextmanager
async def dealing(agent: Agent) -> AsyncIterator[zmq.asyncio.Socket]:
    """A socket that may send anything."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(endpoint(agent))
    try:
        yield socket
    finally:
        socket.close()
        context.term()


def frame(tensor: np.ndarray) -> list[bytes]:
    header = {"shape": list(tensor.shape), "dtype": tensor.dtype.name, "model_type": "yologeneric"}
    return [json.dumps(header).encode(), tensor.tobytes()]


async def test_nonsense_gets_no_answer_and_harms_nobody(tmp_path: Path) -> None:
    """Wrong sizes, pickles, other protocols, too many parts, a message beyond the limit: the next frame is answered."""
    async with founder(tmp_path / "ann", frigate=patient(frame_bytes_max=100_000)) as agent:
        model = await with_model(agent, yolo(tmp_path / "yolo.onnx"))
        good = frame(coloured(0.9, 0, 0))
        async with dealing(agent) as raw:
            for parts in (
                [b""],
                [b"x"],
                good,
                [b"", good[0], good[1][:-1]],
                [b"", pickle.dumps({"shape": [1]}), b"x"],
                [b"", *good, b"more"],
                [b"", good[0].replace(b"float32", b"object")],
                [b""] * 2000,
            ):
                await raw.send_multipart(parts)
            await until(lambda: frigate_door(agent).refused == 8, "all are refused")
            assert not await raw.poll(50)
        async with dealing(agent) as huge:
            await huge.send_multipart([b"", good[0], bytes(100_001)])  # its connection is closed in the middle
            async with plugin(agent, model) as frigate:
                assert await detect(frigate, coloured(0.9, 0, 0)) is not None
            assert not await huge.poll(50)
        host, _, port = endpoint(agent).removeprefix("tcp://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        async with plugin(agent, model) as frigate:
            assert await detect(frigate, coloured(0.9, 0, 0)) is not None
        writer.close()
        assert b"HTTP" not in await reader.read()
        assert [] == blind(agent.node)


def frigate_door(agent: Agent) -> FrigateDoor:
    (it,) = (it for it in agent._doors._open if isinstance(it, FrigateDoor))
    return it


async def test_a_flood_takes_nobody_elses_turn(tmp_path: Path) -> None:
    """Of one connection so many messages are answered at once, the rest is dropped; another's frames get through."""
    async with founder(tmp_path / "ann", frigate=patient()) as agent:
        model = await with_model(agent, yolo(tmp_path / "yolo.onnx"))
        async with plugin(agent, model) as frigate, dealing(agent) as raw:
            for _ in range(20):
                for _ in range(OPEN_MAX):
                    await raw.send_multipart([b"", *frame(coloured(0.9, 0, 0))])
                assert await detect(frigate, coloured(0.9, 0, 0)) is not None
        assert frigate_door(agent).refused


async def test_frames_that_do_not_fit_the_model_are_an_outage_with_its_reason(tmp_path: Path) -> None:
    """The recorder is set up for another size: cameras are blind, and the alarm says why."""
    async with founder(tmp_path / "ann", frigate=patient()) as agent:
        model = await with_model(agent, yolo(tmp_path / "yolo.onnx"))
        async with plugin(agent, model, timeout_ms=200) as frigate:
            for _ in range(4):
                assert await detect(frigate, coloured(0.9, 0, 0, side=32)) is None
            await until(lambda: blind(agent.node), "the alarm")
            assert "32" in why_blind(agent.node)
            await answered(frigate)
            assert ["cameras blind", "cameras see"] == blind(agent.node)


async def test_a_fault_of_ours_is_an_outage_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cameras are as blind when the fault is in the door itself, and somebody has to hear of it."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    async with founder(tmp_path / "ann", frigate=patient()) as agent:
        model = await with_model(agent, yolo(tmp_path / "yolo.onnx"))
        async with plugin(agent, model, timeout_ms=200) as frigate:
            monkeypatch.setattr("meshnode.edge.frigate.door.detections.read", broken)
            for _ in range(4):
                assert await detect(frigate, coloured(0.9, 0, 0)) is None
            await until(lambda: blind(agent.node), "the alarm")
            assert "planted" in why_blind(agent.node)


async def test_a_model_that_the_mesh_lacks_is_told_and_refused(tmp_path: Path) -> None:
    """Nothing is taken from the recorder unless the settings allow it: its protocol does not say who brings it."""
    async with founder(tmp_path / "ann", frigate=patient(), name="ann") as agent:
        async with plugin(agent, yolo(tmp_path / "yolo.onnx")) as frigate:
            assert not frigate.ready
            no = {"model_loaded": False}
            assert [{"model_available": False, **no}, {"model_saved": False, **no}] == frigate.said
        assert () == agent.node.catalog.manifests()
        assert ["cameras blind"] == blind(agent.node)
        assert "no model 'eyes'" in why_blind(agent.node)


async def test_a_model_may_be_brought_where_that_is_allowed_and_never_replaced(tmp_path: Path) -> None:
    """It is scanned and tried like any other, and in the record; what is none is refused."""
    async with founder(tmp_path / "ann", frigate=patient(upload_bytes_max=100_000)) as agent:
        (tmp_path / "bad.onnx").write_bytes(b"no model at all")
        async with plugin(agent, tmp_path / "bad.onnx") as frigate:
            assert not frigate.ready
        async with plugin(agent, yolo(tmp_path / "yolo.onnx")) as frigate:
            assert frigate.ready
            assert {"model_saved": True, "model_loaded": True} == frigate.said[-1]
            assert await detect(frigate, coloured(0.9, 0, 0)) is not None
        assert ["eyes"] == [it.name for it in agent.node.catalog.manifests()]
        first = agent.node.catalog.resolve("eyes").digest
        async with dealing(agent) as raw:
            other = yolo(tmp_path / "other.onnx", side=32).read_bytes()
            await raw.send_multipart([b"", b'{"model_data": true, "model_name": "yolo.onnx"}', other])
            _, said = await asyncio.wait_for(raw.recv_multipart(), PATIENT_S)
            assert {"model_saved": False, "model_loaded": False} == json.loads(said)
        assert first == agent.node.catalog.resolve("eyes").digest
        assert [] == list((agent.node.home / "frigate").iterdir())


async def test_only_those_with_a_known_key_come_in_where_keys_are_named(tmp_path: Path) -> None:
    """With CURVE: a client without a key, and one with a stranger's, are not answered."""
    public, secret = zmq.curve_keypair()
    stranger = zmq.curve_keypair()
    door = patient(listen="tcp://0.0.0.0:0", curve_clients=(public.decode(),))
    async with founder(tmp_path / "ann", frigate=door) as agent:
        model = await with_model(agent, yolo(tmp_path / "yolo.onnx"))
        secret_file = agent.node.home / KEY
        assert 0o600 == secret_file.stat().st_mode & 0o777
        server = zmq.curve_public(secret_file.read_bytes().strip())
        where = endpoint(agent).replace("0.0.0.0", "127.0.0.1")
        for curve in (None, (server, *stranger)):
            it = await asyncio.to_thread(lambda curve=curve: Plugin(where, model, asking_ms=1000, curve=curve))
            assert not it.ready
            await asyncio.to_thread(it.close)
        async with plugin(agent, model, where=where, curve=(server, public, secret)) as frigate:
            assert await detect(frigate, coloured(0.9, 0, 0)) is not None


async def test_a_socket_in_the_file_system_is_its_owners(tmp_path: Path) -> None:
    """`ipc://`: nobody else on the machine can open it; it is bound again over one that was left."""
    path = tmp_path / "s"
    for _ in range(2):
        async with founder(tmp_path / "ann", frigate=patient(listen=f"ipc://{path}")) as agent:
            assert 0o600 == path.stat().st_mode & 0o777
            if not agent.node.catalog.manifests():
                await with_model(agent, yolo(tmp_path / "yolo.onnx"))
            async with plugin(agent, tmp_path / "yolo.onnx") as frigate:
                assert await detect(frigate, coloured(0.9, 0, 0)) is not None
        await asyncio.to_thread(leave_socket, path)


def leave_socket(path: Path) -> None:
    """What an agent leaves that was killed."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as it:
        it.bind(str(path))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Frigate(listen="tcp://127.0.0.1:0"), "frigate.model is not"),
        (Frigate(listen="tcp://0.0.0.0:0", model="m"), "reached by other machines"),
        (Frigate(listen="tcp://[::]:0", model="m"), "reached by other machines"),
        (Frigate(listen="tcp://*:0", model="m"), "reached by other machines"),
        (Frigate(listen="tcp://localhost.example:5555", model="m"), "reached by other machines"),
        (Frigate(listen="udp://127.0.0.1:0", model="m"), "no address"),
        (Frigate(listen="127.0.0.1:5555", model="m"), "no address"),
        (Frigate(listen="ipc://relative", model="m"), "no absolute path"),
        (Frigate(listen="ipc:///dev/null", model="m"), "is a file"),
        (Frigate(listen="tcp://127.0.0.1:0", model="m", curve_clients=("short",)), "40 characters"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_listens(tmp_path: Path, given: Frigate, says: str) -> None:
    """With what is wrong."""
    with pytest.raises(ConfigError, match=says):
        async with founder(tmp_path / "ann", frigate=given):
            pass


async def test_an_address_that_is_taken_is_told(tmp_path: Path) -> None:
    """And the agent does not start without the door that it was asked for."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = patient(listen=f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ListenError, match="cannot listen"):
            async with founder(tmp_path / "ann", frigate=given):
                pass


async def test_without_the_extra_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pyzmq is not there."""
    for name in [it for it in sys.modules if it.startswith(("zmq", "meshnode.edge.frigate"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "zmq", None)
    monkeypatch.delattr("meshnode.edge.frigate", raising=False)
    with pytest.raises(ToolMissing) as caught:
        async with founder(tmp_path / "ann", frigate=patient()):
            pass
    assert 'pip install "meshnode[frigate]"' in caught.value.hint
