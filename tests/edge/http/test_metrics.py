"""`/metrics` of real agents, as Prometheus reads it, and the dashboard that is drawn of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as families

from meshnode.agent import Agent
from meshnode.client import AsyncClient
from meshnode.doors import Http
from meshnode.edge.measures import OUTCOMES_MAX, SECONDS, Histogram, Measures
from meshnode.errors import ModelNotFound
from meshnode.tasks.outcomes import Ended
from meshnode.wire.messages import Digest, TaskId
from tests.edge.http.test_server import address, bearer
from tests.edge.living import founder, joiner
from tests.mesh.rig import MODELS

DASHBOARD = Path(__file__).parent.parent.parent.parent / "deploy" / "grafana.json"
OPEN = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    """With the door open and the echo model."""
    async with founder(tmp_path / "ann", http=Http(listen="127.0.0.1:0")) as it:
        async with AsyncClient(it.node.home) as client:
            await client.add_model(MODELS / "echo" / "model.onnx", name="echo")
        yield it


async def scraped(agent: Agent, accept: str = "text/plain") -> str:
    headers = bearer(agent.node.home) | {"Accept": accept}
    async with aiohttp.ClientSession(headers=headers) as web, web.get(f"http://{address(agent)}/metrics") as answer:
        assert 200 == answer.status
        return await answer.text()


def values(text: str) -> dict[tuple[str, ...], float]:
    """By name and the values of the labels."""
    return {(it.name, *it.labels.values()): it.value for family in families(text) for it in family.samples}


async def test_what_is_counted_is_what_happened(agent: Agent, tmp_path: Path) -> None:
    """Tasks by outcome and reason, here and at the node that ran them; quotes, links, bytes, the mesh."""
    async with joiner(tmp_path / "bob", agent.node, http=Http(listen="127.0.0.1:0"), zone="z") as bob:
        async with AsyncClient(agent.node.home) as client:
            x = {"x": np.ones((1, 4), np.float32)}
            for _ in range(3):
                await client.infer("echo", x)
            await client.infer("echo", x, node=bob.node.keeper.id)
            with pytest.raises(ModelNotFound):
                await client.infer("nothing", x)
            slow = asyncio.ensure_future(client.infer("echo", x, node="nobody-of-this-name"))
            await asyncio.gather(slow, return_exceptions=True)
        here, there = values(await scraped(agent)), values(await scraped(bob))

    assert 4 == here["meshnode_tasks_total", "ok", ""]
    assert 1 == sum(value for key, value in here.items() if key[:2] == ("meshnode_tasks_total", "failed"))
    assert 4 == here[("meshnode_task_seconds_count",)]
    assert 4 == here["meshnode_task_seconds_bucket", "+Inf"]
    assert 0 < here[("meshnode_task_seconds_sum",)]
    ran_here = here.get(("meshnode_served_tasks_total", "ok", "", "self"), 0)
    ran_there = there["meshnode_served_tasks_total", "ok", "", "other"]
    assert 4 == ran_here + ran_there
    assert 16 * ran_there == there[("meshnode_served_input_bytes_total",)]
    assert ran_there == there["meshnode_model_runs_total", "echo:1", "ok"]
    assert (2, 1, 0) == (here["meshnode_nodes", "alive"], here["meshnode_links", "direct"], here["meshnode_paused",])
    assert there[("meshnode_quotes_asked_total",)] >= there[("meshnode_quotes_given_total",)] >= 0
    size = (MODELS / "echo" / "model.onnx").stat().st_size
    assert size == here[("meshnode_transfer_sent_bytes_total",)] == there[("meshnode_transfer_received_bytes_total",)]
    assert size < here[("meshnode_link_sent_bytes_total",)] <= 2 * there[("meshnode_link_received_bytes_total",)]
    assert 1 == here["meshnode_workers", "CPUExecutionProvider", "any"]
    assert 0 < here[("process_resident_memory_bytes",)]


async def test_both_formats_are_read_by_prometheus_own_parsers(agent: Agent) -> None:
    """Every family has a type and a sentence; the names follow the conventions."""
    assert {"counter", "gauge", "histogram", "info"} <= {it.type for it in open_families(await scraped(agent, OPEN))}
    ours = [it for it in families(await scraped(agent)) if it.name.startswith("meshnode")]
    assert len(ours) > 30
    for family in ours:
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"_(ms|milliseconds|mb|kb|percent)\b", family.name)
        assert re.fullmatch(r"[a-z_]+", family.name)


async def test_without_the_token_there_are_no_metrics(agent: Agent) -> None:
    """As everywhere on the door."""
    async with aiohttp.ClientSession() as web, web.get(f"http://{address(agent)}/metrics") as answer:
        assert 401 == answer.status


def expressions(value: object) -> list[str]:
    """Every query in the dashboard."""
    if isinstance(value, dict):
        own = [value["expr"]] if isinstance(value.get("expr"), str) else []
        return own + [it for inner in value.values() for it in expressions(inner)]
    return [it for inner in value for it in expressions(inner)] if isinstance(value, list) else []


async def test_the_dashboard_asks_for_what_there_is(agent: Agent) -> None:
    """Each name and label in each of its queries is one that `/metrics` gives."""
    async with AsyncClient(agent.node.home) as client:
        await client.infer("echo", {"x": np.ones((1, 4), np.float32)})
    labels: dict[str, set[str]] = {}
    for family in families(await scraped(agent)):
        for sample in family.samples:
            labels.setdefault(sample.name, {"instance"}).update(sample.labels)
    found = expressions(json.loads(DASHBOARD.read_text()))
    assert len(found) > 25
    asked = {
        (name, inside)
        for it in found
        for name, inside in re.findall(r"\b((?:meshnode|process)_\w+)(?:\{([^}]*)\})?", it)
    }
    assert set() == {name for name, _ in asked} - set(labels)
    for name, inside in asked:
        assert set(re.findall(r"(\w+)=~?\"", inside)) <= labels[name], name
    for it in found:
        names = set(re.findall(r"\b(?:meshnode|process)_\w+", it))
        grouped = {label.strip() for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", it) for label in group.split(",")}
        assert grouped <= set().union(*(labels[name] for name in names)) | {"le"}, it
        assert it.count("(") == it.count(")")
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name, _ in asked}
    assert {"meshnode_tasks_total", "meshnode_task_seconds", "meshnode_backlog_seconds", "meshnode_nodes"} <= shown


def test_a_histogram_adds_up() -> None:
    """A value on a bound belongs to it, as Prometheus says (`le`)."""
    it = Histogram()
    for value in (0.0, SECONDS[0], SECONDS[0] * 1.01, 1e9):
        it.note(value)
    rows = dict(it.buckets())
    assert (2.0, 3.0, 4.0) == (rows[str(SECONDS[0])], rows[str(SECONDS[1])], rows["+Inf"])
    assert SECONDS[0] * 2.01 + 1e9 == pytest.approx(it.sum)


def test_codes_that_peers_make_up_do_not_fill_the_memory() -> None:
    """From some number on they are one."""
    it = Measures()
    for number in range(1000):
        it._ended(Ended(TaskId(""), Digest(""), None, None, f"made up {number}", 1, 0.1, 0))
    assert OUTCOMES_MAX + 1 == len(it.ended)
    assert 1000 == sum(it.ended.values())
