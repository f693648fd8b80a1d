"""Models that are in no memory yet, at the doors: who has time waits, who has not is told how far it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import service_pb2

from meshnode.agent import Agent
from meshnode.doors import Grpc, Http
from tests.edge.clients import add, bearer
from tests.edge.living import SMALL, founder, joiner, workers
from tests.execution.making import save
from tests.waiting import until

ROWS, COLUMNS = 1000, 3000
BYTES_S = 2_000_000
"""What the second node takes of a model: it needs six seconds for the 12 MB."""


def large(folder: Path) -> Path:
    weights = np.random.default_rng(1).random((ROWS, COLUMNS), np.float32)
    return save(
        folder,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, ROWS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, COLUMNS])],
        [numpy_helper.from_array(weights, "w")],
    ).path


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Agent, Agent]]:
    """The first has the model, the second fetches slowly and has the doors."""
    slowly = replace(SMALL.catalog, download_bytes_s=BYTES_S)
    doors: dict[str, Any] = {"http": Http(listen="127.0.0.1:0"), "grpc": Grpc(listen="127.0.0.1:0")}
    async with (
        founder(tmp_path / "ann") as ann,
        joiner(tmp_path / "bob", ann.node, catalog=slowly, **doors) as bob,
    ):
        await add(ann.node, large(tmp_path), "large", bob.node)
        yield ann, bob
    assert [] == workers()


def asked(within_s: float) -> dict[str, Any]:
    row = {"name": "x", "datatype": "FP32", "shape": [1, ROWS], "data": [1.0] * ROWS}
    return {"inputs": [row], "parameters": {"node": "bob", "timeout": round(within_s * 1e6)}}


async def test_who_has_no_time_is_told_how_far_it_is_and_who_has_waits(two: tuple[Agent, Agent]) -> None:
    """503 with `Retry-After` and progress that grows, while the model comes all the same; then it is there."""
    _, bob = two
    url = f"http://{bob.ready()['http']}/v2/models/large/infer"
    async with aiohttp.ClientSession(headers=bearer(bob.node)) as web:
        seen = []
        for within_s in (0.3, 0.5, 0.5):
            async with web.post(url, json=asked(within_s)) as answer:
                body = await answer.json()
                assert 503 == answer.status, body
                assert int(answer.headers["Retry-After"]) >= 1
                assert body["state"] in ("fetching", "loading")
                assert body["eta_s"] > 0
                assert "on its way" in body["error"]
                seen.append(body["percent"])
            await until(lambda: bob.node.fetcher.progress(_digest(bob))[0] > 3e5 * len(seen), "it moves")
        assert sorted(seen) == seen
        assert seen[-1] > 0
        async with web.post(f"http://{bob.ready()['http']}/v2/repository/index", json={}) as answer:
            (row,) = await answer.json()
            assert ("LOADING", "it is on its way into memory") == (row["state"], row["reason"])

        asking = service_pb2.ModelInferRequest(model_name="large", raw_input_contents=[bytes(4 * ROWS)])
        asking.inputs.add(name="x", datatype="FP32", shape=[1, ROWS])
        asking.parameters["node"].string_param = "bob"
        asking.parameters["timeout"].int64_param = 100_000
        async with grpc.aio.insecure_channel(bob.ready()["grpc"]) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            token = (("authorization", bearer(bob.node)["Authorization"]),)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(asking.SerializeToString(), metadata=token)
            assert grpc.StatusCode.UNAVAILABLE == caught.value.code()
            behind = dict(caught.value.trailing_metadata())
            assert {"retry-after", "meshnode-state", "meshnode-percent", "meshnode-eta-s"} <= set(behind)

        began = time.monotonic()
        async with web.post(url, json=asked(120)) as answer:
            assert 200 == answer.status, await answer.text()
        assert time.monotonic() - began > 0.2, "it waited"
        async with web.post(url, json=asked(1)) as answer:
            assert 200 == answer.status, await answer.text()


async def test_it_comes_though_nobody_waits(two: tuple[Agent, Agent]) -> None:
    """One impatient request is enough: the model is in memory some seconds later."""
    _, bob = two
    url = f"http://{bob.ready()['http']}/v2/models/large/infer"
    async with aiohttp.ClientSession(headers=bearer(bob.node)) as web:
        async with web.post(url, json=asked(0.2)) as answer:
            assert 503 == answer.status, await answer.text()
        await until(lambda: bob.node.execution.loaded(), "it is in memory")
        await until(lambda: not _cold(bob).warming(_digest(bob)), "the way is over")
        async with web.post(url, json=asked(5)) as answer:
            assert 200 == answer.status, await answer.text()


async def test_a_load_goes_on_when_its_client_leaves(two: tuple[Agent, Agent]) -> None:
    """Of the repository, on the node that is named; a second one waits for the same."""
    _, bob = two
    url = f"http://{bob.ready()['http']}/v2/repository/models/large/load"
    where = {"parameters": {"node": "bob"}}
    async with aiohttp.ClientSession(headers=bearer(bob.node)) as web:
        first = asyncio.ensure_future(web.post(url, json=where))
        await until(lambda: bob.node.fetcher.under_way, "it comes")
        first.cancel()
        async with web.post(url, json=where) as answer:
            assert 200 == answer.status, await answer.text()
    assert [_digest(bob)] == [it.digest for it in bob.node.execution.loaded()]


async def test_the_agent_stops_while_a_model_is_on_its_way(tmp_path: Path) -> None:
    """Nothing of it is left behind."""
    slowly = replace(SMALL.catalog, download_bytes_s=BYTES_S // 10)
    async with (
        founder(tmp_path / "ann") as ann,
        joiner(tmp_path / "bob", ann.node, catalog=slowly, http=Http(listen="127.0.0.1:0")) as bob,
    ):
        await add(ann.node, large(tmp_path), "large", bob.node)
        async with aiohttp.ClientSession(headers=bearer(bob.node)) as web:
            url = f"http://{bob.ready()['http']}/v2/models/large/infer"
            async with web.post(url, json=asked(0.2)) as answer:
                assert 503 == answer.status
                assert "on its way" in (await answer.json())["error"]
        assert _cold(bob).warming(_digest(bob))
    assert [] == workers()


def _digest(agent: Agent) -> Any:
    return agent.node.catalog.resolve("large").digest


def _cold(agent: Agent) -> Any:
    assert agent.node.inference is not None
    return agent.node.inference._cold
