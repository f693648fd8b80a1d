"""Contexts of traces as other programs say them, and spans of real agents at a collector that reads what is sent."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from meshnode.client import AsyncClient
from meshnode.doors import Grpc, Http
from meshnode.edge.http.server import token
from meshnode.edge.submitting import infer
from meshnode.edge.tracing import parent, parse, written
from meshnode.errors import ConfigError, InvalidInput
from meshnode.telling import Traces
from tests.edge.living import founder, joiner, workers
from tests.mesh.rig import MODELS
from tests.waiting import until

GIVEN = f"00-{'4bf92f3577b34da6a3ce929d0e0e4736'}-00f067aa0ba902b7-01"
X = {"x": np.ones((1, 4), np.float32)}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (GIVEN, GIVEN),
        (f" {GIVEN} ", GIVEN),
        (GIVEN.replace("-01", "-00"), GIVEN.replace("-01", "-00")),
        (GIVEN.replace("-01", "-ff"), GIVEN),
        (f"cc{GIVEN[2:]}-what-will-be", GIVEN),
        (f"{GIVEN}-more", ""),
        (f"ff{GIVEN[2:]}", ""),
        (GIVEN.upper(), ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-{'a' * 32}-{'0' * 16}-01", ""),
        (GIVEN[:-1], ""),
        ("", ""),
    ],
)
def test_a_context_is_read_as_the_standard_says(text: str, kept: str) -> None:
    """W3C Trace Context, 2.2: later versions by their first four fields, anything else is none."""
    assert kept == parent({"Traceparent": text})


def test_headers_metadata_and_properties_are_read_alike() -> None:
    """Maps and pairs, text and bytes; the name in any case; two are none."""
    assert GIVEN == parent([("content-type", "application/grpc"), ("traceparent", GIVEN)])
    assert GIVEN == parent([("traceparent", GIVEN.encode())])
    assert "" == parent([("traceparent", GIVEN), ("TraceParent", GIVEN)])
    assert "" == parent([("traceparent", b"\xff\xfe")])
    assert "" == parent({})


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"))
def test_no_text_is_an_error_and_none_is_longer_than_the_wire_takes(text: str) -> None:
    """What is kept is well-formed."""
    kept = parent({"traceparent": text})
    assert kept == "" or (len(kept) == 55 and written(*(parse(kept) or (0, 0, False))) == kept)


class Collector:
    """Takes OTLP over HTTP and keeps the spans with the node that sent them."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    async def take(self, request: web.Request) -> web.Response:
        data = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        for group in ExportTraceServiceRequest.FromString(data).resource_spans:
            (node,) = [it.value.string_value for it in group.resource.attributes if it.key == "service.instance.id"]
            self.spans += [(node, span) for scope in group.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    def named(self, name: str) -> list[tuple[str, Any]]:
        return [(node, span) for node, span in self.spans if span.name == name]


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    """One, and where it is."""
    it = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", it.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield it, f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    finally:
        await runner.cleanup()


def facts(span: Any) -> dict[str, Any]:
    return {it.key: it.value.string_value or it.value.int_value for it in span.attributes}


async def test_a_task_that_ran_elsewhere_is_one_trace(tmp_path: Path) -> None:
    """Begun by the program that asked for it; the spans of both nodes hang together, and lie within each other."""
    async with collector() as (seen, url):
        traces = Traces(endpoint=url)
        async with (
            founder(tmp_path / "ann", traces=traces) as ann,
            joiner(tmp_path / "bob", ann.node, traces=traces) as bob,
        ):
            async with AsyncClient(ann.node.home) as client:
                await client.add_model(MODELS / "echo" / "model.onnx", name="echo")
            me, other = ann.node.keeper.id, bob.node.keeper.id
            trace = parent({"traceparent": GIVEN})
            before = time.time_ns()
            await infer(ann.node, "echo", X, timeout_s=30, node=other, trace=trace)
            after = time.time_ns()
            await until(lambda: len(seen.spans) >= 6, "the collector has them", within_s=20)

    assert {GIVEN[3:35]} == {span.trace_id.hex() for _, span in seen.spans}
    where = {span.name: node for node, span in seen.spans}
    assert {"submit": me, "route": me, "attempt": me, "serve": other, "queue": other, "run": other} == where
    of = {span.name: span for _, span in seen.spans}
    assert GIVEN[36:52] == of["submit"].parent_span_id.hex()
    for child, above in (("route", "submit"), ("attempt", "submit"), ("serve", "attempt"), ("queue", "serve")):
        assert of[above].span_id == of[child].parent_span_id, child
    assert of["serve"].span_id == of["run"].parent_span_id
    for span in of.values():
        assert before <= span.start_time_unix_nano <= span.end_time_unix_nano <= after + 1_000_000
    assert of["attempt"].start_time_unix_nano <= of["serve"].start_time_unix_nano
    assert other == facts(of["submit"])["meshnode.node"] == facts(of["route"])["meshnode.node"]
    assert "ok" == facts(of["serve"])["meshnode.outcome"] == facts(of["submit"])["meshnode.outcome"]
    assert facts(of["submit"])["meshnode.task"] == facts(of["serve"])["meshnode.task"]


async def test_http_and_grpc_take_a_context_over(tmp_path: Path) -> None:
    """As tritonclient sends it, in a header and in metadata."""
    outside = {"http": Http(listen="127.0.0.1:0"), "grpc": Grpc(listen="127.0.0.1:0")}
    async with collector() as (seen, url), founder(tmp_path / "ann", traces=Traces(endpoint=url), **outside) as ann:
        async with AsyncClient(ann.node.home) as client:
            await client.add_model(MODELS / "echo" / "model.onnx", name="echo")
        headers = {"Authorization": f"Bearer {token(ann.node.home)}", "traceparent": GIVEN}
        for door, lower in ((tritonclient.http.aio, False), (tritonclient.grpc.aio, True)):
            given = door.InferInput("x", [1, 4], "FP32")
            given.set_data_from_numpy(X["x"])
            address = str(ann.ready()["grpc" if lower else "http"])
            async with door.InferenceServerClient(address) as triton:
                await triton.infer("echo", [given], headers={k.lower() if lower else k: v for k, v in headers.items()})
        await until(lambda: len(seen.named("submit")) >= 2, "the collector has them", within_s=20)
    assert [GIVEN[36:52]] * 2 == [span.parent_span_id.hex() for _, span in seen.named("submit")]


async def test_what_fails_says_why_and_what_is_not_to_be_recorded_is_not(tmp_path: Path) -> None:
    """An error's code is the status; a context that is not sampled is passed on and recorded nowhere."""
    async with collector() as (seen, url), founder(tmp_path / "ann", traces=Traces(endpoint=url, share=0.0)) as ann:
        async with AsyncClient(ann.node.home) as client:
            await client.add_model(MODELS / "echo" / "model.onnx", name="echo")
            await client.infer("echo", X)  # begins none: the share is nothing
        await infer(ann.node, "echo", X, timeout_s=30, trace=GIVEN.replace("-01", "-00"))
        with pytest.raises(InvalidInput):
            await infer(ann.node, "echo", {"y": X["x"]}, timeout_s=30, trace=GIVEN)
        await until(lambda: bool(seen.named("submit")), "the collector has it", within_s=20)
    assert {GIVEN[3:35]} == {span.trace_id.hex() for _, span in seen.spans}
    assert {"submit", "route", "attempt", "serve"} == {span.name for _, span in seen.spans}
    ((_, submit),) = seen.named("submit")
    assert ("invalid_input", Status.STATUS_CODE_ERROR) == (submit.status.message, submit.status.code)
    assert "invalid_input" == facts(submit)["meshnode.outcome"]


async def test_who_does_not_trace_hands_the_context_on(tmp_path: Path) -> None:
    """The node that runs it hangs its spans on the program's own; a worker that died meanwhile is started again."""
    async with (
        collector() as (seen, url),
        founder(tmp_path / "ann") as ann,
        joiner(tmp_path / "bob", ann.node, traces=Traces(url)) as bob,
    ):
        async with AsyncClient(ann.node.home) as client:
            await client.add_model(MODELS / "echo" / "model.onnx", name="echo")
        await infer(ann.node, "echo", X, timeout_s=30, node=bob.node.keeper.id, trace=GIVEN)
        for worker in workers(bob.node.home):
            worker.kill()
        await infer(ann.node, "echo", X, timeout_s=30, node=bob.node.keeper.id, trace=GIVEN)
        await until(lambda: len(seen.named("serve")) >= 2, "the collector has them", within_s=20)
    assert {"serve", "queue", "run"} == {span.name for _, span in seen.spans}
    assert {GIVEN[36:52]} == {span.parent_span_id.hex() for _, span in seen.named("serve")}


async def test_a_collector_that_is_not_there_costs_no_task(tmp_path: Path) -> None:
    """And the agent ends in time."""
    async with founder(tmp_path / "ann", traces=Traces(endpoint="http://127.0.0.1:9/v1/traces")) as ann:
        async with AsyncClient(ann.node.home) as client:
            await client.add_model(MODELS / "echo" / "model.onnx", name="echo")
            for _ in range(20):
                await client.infer("echo", X)
        began = time.monotonic()
    assert time.monotonic() - began < 20


async def test_an_endpoint_that_is_none_is_said(tmp_path: Path) -> None:
    """Before anything starts to work."""
    with pytest.raises(ConfigError, match="is no URL"):
        async with founder(tmp_path / "ann", traces=Traces(endpoint="localhost:4318")):
            await asyncio.sleep(0)
