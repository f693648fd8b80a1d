"""The Open Inference Protocol over HTTP, with the clients that people have, unchanged, against real agents."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from meshnode.agent import Agent
from meshnode.audit import book
from meshnode.doors import Http
from tests.edge.clients import MODELS, NUMBERS, TEXTS, add, bearer, identities, same, sample
from tests.edge.living import founder, joiner, workers
from tests.waiting import until

OPEN = Http(listen="127.0.0.1:0", tell_nodes=True)
UNSAID = {"FP16", "BF16"}
"""Datatypes that JSON has no form for."""
EVERYTHING = {"numbers": NUMBERS, "texts": TEXTS}


@pytest.fixture
async def ann(tmp_path: Path) -> AsyncIterator[Agent]:
    """An agent with its door open and the model `echo`."""
    async with founder(tmp_path / "ann", http=Http(listen="127.0.0.1:0", body_bytes_max=1024 * 1024)) as it:
        await add(it.node, MODELS / "echo" / "model.onnx", "echo")
        yield it
    assert [] == workers()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Agent, Agent]]:
    """Two agents with doors; both know models of every datatype, and the first has them."""
    async with (
        founder(tmp_path / "ann", http=OPEN) as ann,
        joiner(tmp_path / "bob", ann.node, http=OPEN) as bob,
    ):
        for name, datatypes in EVERYTHING.items():
            await add(ann.node, identities(tmp_path, datatypes), name, bob.node)
        yield ann, bob
    assert [] == workers()


def door(agent: Agent) -> str:
    return str(agent.ready()["http"])


def inputs(names: list[str], *, binary: bool = True) -> list[Any]:
    made = []
    for name in names:
        array = sample(name)
        it = triton.InferInput(f"in_{name.lower()}", list(array.shape), name)
        it.set_data_from_numpy(array, binary_data=binary or name in UNSAID)
        made.append(it)
    return made


def wanted(names: list[str], *, binary: bool) -> list[Any]:
    return [triton.InferRequestedOutput(f"out_{name.lower()}", binary_data=binary or name in UNSAID) for name in names]


@pytest.mark.parametrize("binary", [True, False])
async def test_every_datatype_comes_back_through_both_nodes(two: tuple[Agent, Agent], binary: bool) -> None:
    """tritonclient, blocking and asynchronous, to the node that has the model and through the one that has not."""
    for agent in two:
        async with triton_aio.InferenceServerClient(door(agent)) as client:
            for at in ("ann", "bob"):
                for model, names in EVERYTHING.items():
                    answer = await client.infer(
                        model,
                        inputs(names, binary=binary),
                        outputs=wanted(names, binary=binary),
                        headers=bearer(agent.node),
                        parameters={"node": at},
                    )
                    assert at == answer.get_response()["parameters"]["meshnode_node"]
                    for name in names:
                        assert same(sample(name), answer.as_numpy(f"out_{name.lower()}")), name

    def blocking(model: str, names: list[str]) -> Any:
        given, headers = inputs(names, binary=binary), bearer(two[1].node)
        outputs = wanted(names, binary=binary)
        with triton.InferenceServerClient(door(two[1])) as client:
            first = client.infer(model, given, headers=headers, request_id="a-1")
            packed = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"}
            return first, client.async_infer(model, given, outputs=outputs, headers=headers, **packed).get_result()

    for model, names in EVERYTHING.items():
        for answer in await asyncio.to_thread(blocking, model, names):
            for name in names:
                assert same(sample(name), answer.as_numpy(f"out_{name.lower()}")), name


async def test_the_server_and_its_models_are_described(ann: Agent) -> None:
    """As clients ask before they send anything."""
    headers = bearer(ann.node)
    async with aiohttp.ClientSession(headers=headers) as web, web.get(f"http://{door(ann)}/v2/models/stats") as answer:
        assert ["echo"] == [row["name"] for row in (await answer.json())["model_stats"]]
    async with triton_aio.InferenceServerClient(door(ann)) as client:
        assert await client.is_server_live(headers=headers)
        assert await client.is_server_ready(headers=headers)
        about = await client.get_server_metadata(headers=headers)
        assert ("meshnode", True) == (about["name"], "binary_tensor_data" in about["extensions"])
        about = await client.get_model_metadata("echo", "1", headers=headers)
        assert ("onnxruntime_onnx", ["1"]) == (about["platform"], about["versions"])
        assert [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}] == about["inputs"]
        assert [{"name": "y", "datatype": "FP32", "shape": [-1, -1]}] == about["outputs"]
        config = await client.get_model_config("echo", headers=headers)
        assert "TYPE_FP32" == config["input"][0]["data_type"]
        assert not await client.is_model_ready("echo", "2", headers=headers)
        assert not await client.is_model_ready("no-such", headers=headers)
        with pytest.raises(InferenceServerException, match="no model 'no-such' in this mesh"):
            await client.get_model_metadata("no-such", headers=headers)


async def test_models_are_loaded_and_unloaded(ann: Agent) -> None:
    """As the repository extension says; a task loads it again by itself, and the record has who asked."""
    headers, node = bearer(ann.node), ann.node
    async with triton_aio.InferenceServerClient(door(ann)) as client:
        await client.load_model("echo", headers=headers)
        assert 1 == len(node.execution.loaded())
        assert await client.is_model_ready("echo", headers=headers)
        await client.unload_model("echo", headers=headers)
        await until(lambda: not node.execution.loaded(), "it is gone")
        assert not await client.is_model_ready("echo", headers=headers)
        row = {"name": "echo", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        assert [row] == await client.get_model_repository_index(headers=headers)
        x = triton.InferInput("x", [1, 2], "FP32")
        x.set_data_from_numpy(np.ones((1, 2), np.float32))
        await client.infer("echo", [x], headers=headers)
        assert await client.is_model_ready("echo", headers=headers)
        with pytest.raises(InferenceServerException, match="do not come by this protocol"):
            await client.load_model("echo", headers=headers, config="{}")
        with pytest.raises(InferenceServerException, match="no model"):
            await client.unload_model("no-such", headers=headers)
        for _ in range(3):
            await client.infer("echo", [x], headers=headers)
        z = triton.InferInput("z", [1], "FP32").set_data_from_numpy(np.ones(1, np.float32))
        with pytest.raises(InferenceServerException, match="the model has no input 'z'"):
            await client.infer("echo", [z], headers=headers)
        (stats,) = (await client.get_inference_statistics("echo", headers=headers))["model_stats"]
        assert (4, 1) == (stats["inference_stats"]["success"]["count"], stats["inference_stats"]["fail"]["count"])
        assert stats["last_inference"] > 0
    await until(lambda: recorded(ann) == [("model.load", "ok"), ("model.unload", "ok")], "it is in the record")


def recorded(agent: Agent) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in book.lines(agent.node.home / "audit")]
    return [(it["verb"], it["outcome"]) for it in lines if it["event"] == "asked" and it["verb"] != "model.add"]


async def test_a_request_says_how_long_and_where(two: tuple[Agent, Agent]) -> None:
    """Priority, time, zone and node are the task's; what cannot be is an error of the protocol's shape."""
    ann, _ = two
    headers = bearer(ann.node)
    async with triton_aio.InferenceServerClient(door(ann)) as client:
        given = inputs(TEXTS)
        for parameters, status, why in (
            ({"node": "nobody"}, "400", "no node 'nobody'"),
            ({"zone": "moon"}, "403", "no live node in zone 'moon'"),
        ):
            with pytest.raises(InferenceServerException, match=why) as caught:
                await client.infer("texts", given, headers=headers, parameters=parameters)
            assert status == caught.value.status().strip("[]")
        here = {"node": "ann"}  # else a second copy may run on the other, and be quicker
        answer = await client.infer("texts", given, headers=headers, priority=1, timeout=20_000_000, parameters=here)
        assert "ann" == answer.get_response()["parameters"]["meshnode_node"]
        assert "ok" == ann.node.dispatcher.chooser.explaining.why("")["decisions"][-1]["outcome"]
        assert "high" == ann.node.dispatcher.chooser.explaining.why("")["priority"]
        assert answer.get_response()["model_version"] == "1"


async def test_another_node_loads_and_unloads(two: tuple[Agent, Agent]) -> None:
    """The one that is named; and a model goes out of the memory of all that have it. The headers say who ran it."""
    ann, bob = two
    repository, where = f"http://{door(ann)}/v2/repository/models/texts", {"parameters": {"node": "bob"}}
    digest = ann.node.catalog.resolve("texts").digest
    async with aiohttp.ClientSession(headers=bearer(ann.node)) as web:
        async with web.post(f"{repository}/load", json={"parameters": {"node": "nobody"}}) as answer:
            assert 400 == answer.status
        async with web.post(f"{repository}/load", json=where) as answer:
            assert 200 == answer.status, await answer.text()
        assert [digest] == [it.digest for it in bob.node.execution.loaded()]
        assert [] == ann.node.execution.loaded()
        rows = [
            {"name": "in_fp32", "datatype": "FP32", "shape": [1, 1], "data": [1]},
            {"name": "in_bytes", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]},
        ]
        async with web.post(f"http://{door(ann)}/v2/models/texts/infer", json={"inputs": rows} | where) as answer:
            assert ("bob", "1") == (answer.headers["Meshnode-Node"], answer.headers["Meshnode-Attempts"])
        await until(lambda: held(ann, bob, digest), "the first knows that the second has it")
        async with web.post(f"{repository}/unload") as answer:
            assert 200 == answer.status, await answer.text()
        await until(lambda: not bob.node.execution.loaded(), "it is gone")


def held(agent: Agent, other: Agent, digest: str) -> bool:
    member = agent.node.membership.member(other.node.keeper.id)
    return member is not None and member.advert is not None and any(it.digest == digest for it in member.advert.models)


# --- what programs of other kinds send ---


async def said(agent: Agent, sent: bytes) -> bytes:
    """What a socket is answered until it is closed."""
    host, _, port = door(agent).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


def infer_head(agent: Agent, *lines: str) -> bytes:
    rows = (
        "POST /v2/models/echo/infer HTTP/1.1",
        f"Host: {door(agent)}",
        f"Authorization: {bearer(agent.node)['Authorization']}",
        "Connection: close",
        *lines,
    )
    return ("\r\n".join(rows) + "\r\n\r\n").encode()


GOOD = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}).encode()
CHUNKED = "Transfer-Encoding: chunked"


async def test_bodies_in_pieces_are_taken_and_tricks_are_not(ann: Agent) -> None:
    """A length and pieces at once, lengths that differ, and pieces that are none are how requests are smuggled."""
    pieces = b"".join(b"%x\r\n%s\r\n" % (1, GOOD[i : i + 1]) for i in range(len(GOOD))) + b"0\r\n\r\n"
    answer = await said(ann, infer_head(ann, CHUNKED) + pieces)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    for lines, body in (
        ((CHUNKED, f"Content-Length: {len(GOOD)}"), pieces),
        ((f"Content-Length: {len(GOOD)}", f"Content-Length: {len(GOOD) + 1}"), GOOD),
        ((f"Content-Length: -{len(GOOD)}",), GOOD),
        ((f"Content-Length: +{len(GOOD)}",), GOOD),
        ((CHUNKED,), b"zz\r\n{}\r\n0\r\n\r\n"),
        ((CHUNKED,), b"-1\r\n{}\r\n0\r\n\r\n"),
        ((CHUNKED,), b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        (("Transfer-Encoding: gzip, chunked, identity",), pieces),
        ((f"X: {'x' * 20_000}", f"Content-Length: {len(GOOD)}"), GOOD),
        (("Content-Length: 10", "A B: 1"), b"0123456789"),
        (("Content-Encoding: gzip", "Content-Length: 10"), b"0123456789"),
    ):
        answer = await said(ann, infer_head(ann, *lines) + body)
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), (lines, answer)
    assert (await said(ann, b"\x16\x03\x01\x02\0\x01\0")).startswith(b"HTTP/1.0 400")
    assert (await said(ann, b"GET\r\n\r\n")).startswith(b"HTTP/1.0 400")


async def test_bodies_that_make_no_sense_are_refused_with_their_reason(ann: Agent) -> None:
    """In the protocol's shape; the agent goes on."""
    deep = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}]}"
    big = b"[" + b"1," * 600_000 + b"1]"
    async with aiohttp.ClientSession(headers=bearer(ann.node)) as web:
        url = f"http://{door(ann)}/v2/models/echo/infer"
        for body, headers, status in (
            (b"", {}, 400),
            (deep, {}, 400),
            (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[NaN]}]}', {}, 400),
            (GOOD, {"Inference-Header-Content-Length": "9999"}, 400),
            (GOOD, {"Inference-Header-Content-Length": "-1"}, 400),
            (GOOD, {"Inference-Header-Content-Length": "3"}, 400),
            (big, {}, 413),
            (gzip.compress(bytes(50_000_000)), {"Content-Encoding": "gzip"}, 413),
            (zlib.compress(bytes(50_000_000)), {"Content-Encoding": "deflate"}, 413),
            (GOOD.replace(b"FP32", b"FP64").replace(b"[1]", b"[1.0]"), {}, 400),
            (GOOD.replace(b"[1, 1]", b"[1]"), {}, 400),
            (GOOD.replace(b'"x"', b'"q"'), {}, 400),
            (GOOD[:-1] + b', "outputs": [{"name": "nope"}]}', {}, 400),
            (GOOD[:-1] + b', "parameters": {"node": "nobody"}}', {}, 400),
        ):
            async with web.post(url, data=body, headers=headers) as answer:
                text = await answer.text()
                assert status == answer.status, (body[:80], text)
                assert isinstance(json.loads(text)["error"], str)

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield bytes(65536)

        async with web.post(url, data=endless()) as answer:
            assert 413 == answer.status
        for method, path, status in (
            ("GET", "/v2/models/echo/infer", 405),
            ("POST", "/v2/models/no-such/infer", 404),
            ("POST", "/v2/models/echo/versions/7/infer", 404),
            ("POST", "/v2/models/echo/versions/x/infer", 404),
            ("POST", "/v2/models/%2e%2e%2fetc/infer", 404),
            ("POST", "/v2/repository/models/no-such/load", 404),
            ("GET", "/v2/models/no-such/ready", 404),
            ("GET", "/v2/models/no-such/stats", 404),
        ):
            async with web.request(method, f"http://{door(ann)}{path}", data=GOOD) as answer:
                assert (status, {"error"}) == (answer.status, {"error"} & set(await answer.json())), path
        async with web.post(f"http://{door(ann)}/v2/repository/index", data=b"[[[") as answer:
            assert 400 == answer.status
        async with web.post(f"http://{door(ann)}/v2/repository/index", data=b'{"ready": true}') as answer:
            assert [("echo", "READY")] == [(row["name"], row["state"]) for row in await answer.json()]
        async with web.post(url, data=GOOD) as answer:
            assert 200 == answer.status
            assert "Meshnode-Node" not in answer.headers
            assert "parameters" not in await answer.json()


async def test_a_page_of_another_site_runs_nothing(ann: Agent) -> None:
    """Nor a program without the token."""
    url = f"http://{door(ann)}/v2/models/echo/infer"
    before = ann.node.dispatcher.means.counters.submitted
    async with aiohttp.ClientSession() as web:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer x"}, 401),
            (bearer(ann.node) | {"Origin": "http://evil.example"}, 403),
            (bearer(ann.node) | {"Host": "evil.example"}, 403),
            (bearer(ann.node) | {"Sec-Fetch-Site": "cross-site"}, 403),
        ):
            async with web.post(url, data=GOOD, headers=headers) as answer:
                assert status == answer.status
            async with web.options(url, headers=headers | {"Access-Control-Request-Method": "POST"}) as answer:
                assert answer.status in (401, 403, 405)
                assert not [it for it in answer.headers if it.lower().startswith("access-control")]
    assert before == ann.node.dispatcher.means.counters.submitted


async def test_large_tensors_in_json_come_back(tmp_path: Path) -> None:
    """Of a megabyte, which is read beside the rest of the agent."""
    async with founder(tmp_path / "ann", http=OPEN) as agent:
        await add(agent.node, MODELS / "echo" / "model.onnx", "echo")
        data = [it / 7 for it in range(100_000)]
        row = {"name": "x", "datatype": "FP32", "shape": [10, 10_000], "data": data}
        url = f"http://{door(agent)}/v2/models/echo/infer"
        headers = bearer(agent.node)
        async with aiohttp.ClientSession(headers=headers) as web, web.post(url, json={"inputs": [row]}) as answer:
            (came,) = (await answer.json())["outputs"]
    assert np.array(data, np.float32).tolist() == came["data"]
    assert [] == workers()


# --- clients that leave ---


async def test_a_client_that_leaves_stops_the_worker(tmp_path: Path) -> None:
    """A minute of work ends when the connection does, and the next task runs at once."""
    async with founder(tmp_path / "ann", http=OPEN) as agent:
        await add(agent.node, MODELS / "slow" / "model.onnx", "slow")
        rows = [
            {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [1.0] * 64},
            {"name": "rounds", "datatype": "INT64", "shape": [], "data": [100_000_000]},
        ]
        url = f"http://{door(agent)}/v2/models/slow/infer"
        async with aiohttp.ClientSession(headers=bearer(agent.node)) as web:
            asking = asyncio.ensure_future(web.post(url, json={"inputs": rows, "parameters": {"timeout": 300_000_000}}))
            await until(lambda: agent.node.execution.vitals()[0] == 1, "it runs")
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await until(lambda: agent.node.execution.vitals()[0] == 0, "the worker stops")
            assert 0 == agent.node.dispatcher.open
            rows[1]["data"] = [1]
            async with web.post(url, json={"inputs": rows}) as answer:
                assert 200 == answer.status
    assert [] == workers()
