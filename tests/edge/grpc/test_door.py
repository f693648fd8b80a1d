"""The Open Inference Protocol over gRPC, with the clients that people have, unchanged, against real agents."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from meshnode.agent import Agent
from meshnode.doors import Grpc, Http
from meshnode.edge.grpc import messages
from meshnode.edge.grpc.door import GrpcServer
from meshnode.edge.http.certificate import CHAIN
from meshnode.errors import ConfigError, ListenError
from tests.edge.clients import EVERY, MODELS, NUMBERS, TEXTS, add, bearer, identities, same, sample
from tests.edge.living import founder, joiner, workers
from tests.waiting import until

OPEN = Grpc(listen="127.0.0.1:0")
TOLD = Http(tell_nodes=True)
EVERYTHING = {"numbers": NUMBERS, "texts": TEXTS}
INFER = f"/{messages.SERVICE}/ModelInfer"
TYPED = {"BOOL": "bool_contents", "INT64": "int64_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}


@pytest.fixture
async def ann(tmp_path: Path) -> AsyncIterator[Agent]:
    """An agent with its door open and the model `echo`."""
    async with founder(tmp_path / "ann", grpc=OPEN, http=Http(body_bytes_max=1024 * 1024)) as it:
        await add(it.node, MODELS / "echo" / "model.onnx", "echo")
        yield it
    assert [] == workers()


def door(agent: Agent) -> str:
    return str(agent.ready()["grpc"])


def token(agent: Agent) -> dict[str, str]:
    return {"authorization": bearer(agent.node)["Authorization"]}


def inputs(names: list[str]) -> list[Any]:
    made = []
    for name in names:
        array = sample(name)
        it = triton.InferInput(f"in_{name.lower()}", list(array.shape), name)
        it.set_data_from_numpy(array)
        made.append(it)
    return made


async def test_every_datatype_comes_back_through_both_nodes(tmp_path: Path) -> None:
    """tritonclient, blocking and asynchronous, to the node that has the model and through the one that has not."""
    async with (
        founder(tmp_path / "ann", grpc=OPEN, http=TOLD) as ann,
        joiner(tmp_path / "bob", ann.node, grpc=OPEN, http=TOLD) as bob,
    ):
        for model, names in EVERYTHING.items():
            await add(ann.node, identities(tmp_path, names), model, bob.node)
        for agent in (ann, bob):
            async with triton_aio.InferenceServerClient(door(agent)) as client:
                for at in ("ann", "bob"):
                    for model, names in EVERYTHING.items():
                        where = {"node": at}
                        answer = await client.infer(model, inputs(names), headers=token(agent), parameters=where)
                        assert at == answer.get_response().parameters["meshnode_node"].string_param
                        for name in names:
                            assert same(sample(name), answer.as_numpy(f"out_{name.lower()}")), name

        def blocking(model: str, names: list[str]) -> Any:
            with triton.InferenceServerClient(door(bob)) as client:
                outputs = [triton.InferRequestedOutput(f"out_{name.lower()}") for name in names]
                return client.infer(
                    model, inputs(names), "1", outputs, "an-id", priority=1, timeout=20_000_000, headers=token(bob)
                )

        for model, names in EVERYTHING.items():
            answer = await asyncio.to_thread(blocking, model, names)
            assert "an-id" == answer.get_response().id
            for name in names:
                assert same(sample(name), answer.as_numpy(f"out_{name.lower()}")), name
    assert [] == workers()


async def test_tensors_in_their_own_fields_are_taken_and_given(tmp_path: Path) -> None:
    """As KServe's clients write them: typed contents in, typed contents out."""
    async with founder(tmp_path / "ann", grpc=OPEN) as ann:
        await add(ann.node, identities(tmp_path, list(TYPED)), "typed")
        asked = service_pb2.ModelInferRequest(model_name="typed")
        for name, field in TYPED.items():
            row = asked.inputs.add(name=f"in_{name.lower()}", datatype=name, shape=[2, 3])
            flat = sample(name).reshape(-1).tolist()
            getattr(row.contents, field).extend([it.encode() for it in flat] if name == "BYTES" else flat)
        async with grpc.aio.insecure_channel(door(ann)) as channel:
            call = channel.unary_unary(INFER, service_pb2.ModelInferRequest.SerializeToString)
            answer = service_pb2.ModelInferResponse.FromString(await call(asked, metadata=tuple(token(ann).items())))
        assert not answer.raw_output_contents
        for row, wrote in zip(answer.outputs, asked.inputs, strict=True):
            assert (wrote.datatype, wrote.shape, wrote.contents) == (row.datatype, row.shape, row.contents)
    assert [] == workers()


async def test_the_other_calls(ann: Agent) -> None:
    """What clients ask before and after, and the repository."""
    headers = token(ann)
    async with triton_aio.InferenceServerClient(door(ann)) as client:
        assert await client.is_server_live(headers=headers)
        assert await client.is_server_ready(headers=headers)
        assert "meshnode" == (await client.get_server_metadata(headers=headers)).name
        about = await client.get_model_metadata("echo", headers=headers)
        assert ("onnxruntime_onnx", [-1, -1]) == (about.platform, list(about.inputs[0].shape))
        config = await client.get_model_config("echo", headers=headers)
        assert model_config_pb2.DataType.TYPE_FP32 == config.config.input[0].data_type
        await client.load_model("echo", headers=headers)
        assert 1 == len(ann.node.execution.loaded())
        await client.unload_model("echo", headers=headers)
        await until(lambda: not ann.node.execution.loaded(), "it is gone")
        assert not await client.is_model_ready("echo", headers=headers)
        (row,) = (await client.get_model_repository_index(headers=headers)).models
        assert ("echo", "1", "UNAVAILABLE", "unloaded") == (row.name, row.version, row.state, row.reason)
        x = triton.InferInput("x", [1, 2], "FP32").set_data_from_numpy(np.ones((1, 2), np.float32))
        answer = await client.infer("echo", [x], headers=headers)
        assert not answer.get_response().parameters
        (stats,) = (await client.get_inference_statistics("echo", headers=headers)).model_stats
        assert 1 == stats.inference_stats.success.count


async def test_errors_have_their_codes(ann: Agent) -> None:
    """Of gRPC, with the reason; the agent goes on."""
    good = service_pb2.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(4)])
    good.inputs.add(name="x", datatype="FP32", shape=[1, 1])

    def but(**changed: Any) -> bytes:
        asked = service_pb2.ModelInferRequest()
        asked.CopyFrom(good)
        for key, value in changed.items():
            asked.ClearField(key)
            if isinstance(value, list):
                getattr(asked, key).extend(value)
            else:
                setattr(asked, key, value)
        return bytes(asked.SerializeToString())

    tensor = service_pb2.ModelInferRequest.InferInputTensor
    output = service_pb2.ModelInferRequest.InferRequestedOutputTensor
    bad = grpc.StatusCode.INVALID_ARGUMENT
    async with grpc.aio.insecure_channel(door(ann)) as channel:
        call = channel.unary_unary(INFER)
        for data, headers, code in (
            (but(), {}, grpc.StatusCode.UNAUTHENTICATED),
            (but(), {"authorization": "Bearer x"}, grpc.StatusCode.UNAUTHENTICATED),
            (bytes(2 * 1024 * 1024), {}, grpc.StatusCode.UNAUTHENTICATED),  # its message is not read
            (b"\xff\xff\xff", token(ann), bad),
            (but(model_name="no-such"), token(ann), grpc.StatusCode.NOT_FOUND),
            (but(model_version="9"), token(ann), grpc.StatusCode.NOT_FOUND),
            (but(raw_input_contents=[]), token(ann), bad),
            (but(raw_input_contents=[bytes(4), bytes(4)]), token(ann), bad),
            (but(raw_input_contents=[bytes(5)]), token(ann), bad),
            (but(inputs=[tensor(name="x", datatype="FP32", shape=[-1])]), token(ann), bad),
            (but(inputs=[tensor(name="x", datatype="FP64", shape=[1])]), token(ann), bad),
            (but(inputs=[tensor(name="q", datatype="FP32", shape=[1])]), token(ann), bad),
            (but(outputs=[output(name="y"), output(name="y")]), token(ann), bad),
            (bytes(2 * 1024 * 1024), token(ann), grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(data, metadata=tuple(headers.items()))
            assert code == caught.value.code(), caught.value.details()
        assert await call(but(), metadata=tuple(token(ann).items()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{messages.SERVICE}/ModelReady")(b"\xff", metadata=tuple(token(ann).items()))
        assert bad == caught.value.code()


async def test_a_client_that_leaves_stops_the_worker(tmp_path: Path) -> None:
    """A minute of work ends when its call is cancelled, or when its own deadline is over."""
    async with founder(tmp_path / "ann", grpc=OPEN) as agent:
        await add(agent.node, MODELS / "slow" / "model.onnx", "slow")
        x = triton.InferInput("x", [1, 64], "FP32").set_data_from_numpy(np.ones((1, 64), np.float32))
        rounds = triton.InferInput("rounds", [], "INT64").set_data_from_numpy(np.array(100_000_000))
        async with triton_aio.InferenceServerClient(door(agent)) as client:
            given = {"headers": token(agent), "timeout": 300_000_000}
            asking = asyncio.ensure_future(client.infer("slow", [x, rounds], **given))
            await until(lambda: agent.node.execution.vitals()[0] == 1, "it runs")
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await until(lambda: agent.node.execution.vitals()[0] == 0, "the worker stops")
            with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
                await client.infer("slow", [x, rounds], headers=token(agent), client_timeout=1.0)
            await until(lambda: agent.node.execution.vitals()[0] == 0, "the worker stops")
            assert 0 == agent.node.dispatcher.open
    assert [] == workers()


async def test_other_machines_are_spoken_to_in_tls(tmp_path: Path) -> None:
    """With the certificate of the HTTP door."""
    async with founder(tmp_path / "ann", grpc=Grpc(listen="0.0.0.0:0")) as agent:
        at = f"127.0.0.1:{door(agent).rpartition(':')[2]}"
        trusted = grpc.ssl_channel_credentials((agent.node.home / CHAIN).read_bytes())
        live = f"/{messages.SERVICE}/ServerLive"
        async with grpc.aio.secure_channel(at, trusted) as channel:
            assert await channel.unary_unary(live)(b"", metadata=tuple(token(agent).items()))
        async with grpc.aio.insecure_channel(at) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(live)(b"", metadata=tuple(token(agent).items()), timeout=5)


async def test_a_door_that_cannot_be_opened_is_an_error_with_its_reason(ann: Agent) -> None:
    """A port that is taken, and a certificate that is none."""
    node = ann.node
    for listen, http, error in (
        (door(ann), Http(), ListenError),
        ("192.0.2.1:0", Http(certificate="/no/such", key="/no/such"), ConfigError),
    ):
        node.settings = replace(node.settings, grpc=Grpc(listen=listen), http=http)
        server = GrpcServer(node)
        with pytest.raises(error):
            await server.start()
        await server.stop()


# --- the messages ---


def fields(descriptor: Any) -> dict[str, tuple[int, int, bool]]:
    return {it.name: (it.number, it.type, it.is_repeated) for it in descriptor.fields}


def test_messages_have_the_numbers_of_the_published_protocol() -> None:
    """As tritonclient has them; a field that the mesh does not know is one that it does not use."""
    theirs: dict[str, Any] = {}

    def collect(prefix: str, found: Any) -> None:
        for it in found:
            theirs[f"{prefix}{it.name}"] = it
            collect(f"{prefix}{it.name}.", it.nested_types)

    for file in (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR):
        collect("", file.message_types_by_name.values())
    for name, ours in _ours():
        known = fields(theirs[name])
        for field, what in fields(ours).items():
            assert known[field] == what, (name, field)
    ours_enum = messages.of("ModelInput").DESCRIPTOR.fields_by_name["data_type"].enum_type
    assert dict(model_config_pb2.DataType.items()) == {it.name: it.number for it in ours_enum.values}
    for name, method in messages.METHODS.items():
        other = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[name]
        assert (other.input_type.name, other.output_type.name) == (method.input_type.name, method.output_type.name)


def test_the_page_says_what_the_classes_are_made_of() -> None:
    """`protocols/openinference.proto` has each field of each message, with its number."""
    text = (Path(__file__).parents[3] / "protocols" / "openinference.proto").read_text()
    for name, ours in _ours():
        block = text[re.search(rf"message {name.rpartition('.')[2]} {{", text).start() :]  # type: ignore[union-attr]
        for field in ours.fields:
            assert re.search(rf"\b{field.name} = {field.number};", block[:1500]), (name, field.name)


def _ours() -> list[tuple[str, Any]]:
    found = []
    for file in messages._files.file:
        for message in file.message_type:
            stack = [(message.name, messages.of(message.name).DESCRIPTOR)]
            while stack:
                name, descriptor = stack.pop()
                if not descriptor.GetOptions().map_entry:
                    found.append((name, descriptor))
                stack += [(f"{name}.{it.name}", it) for it in descriptor.nested_types]
    assert len(EVERY) < len(found)
    return found
