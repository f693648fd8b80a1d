"""The doctor: what is wrong is named, and each finding has its fix."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshnode.config import Discovery
from meshnode.edge.doctor import examine
from meshnode.edge.judging import BEHIND_S
from meshnode.edge.node import Node
from meshnode.execution.devices import Gpu
from meshnode.execution.supervisor import Execution
from meshnode.sandbox import Confinement, Lack
from tests.edge.living import ask, founder, joiner, workers
from tests.waiting import until

ORDER = ["worker", "sandbox", "gpu", "disk", "clock", "address", "multicast", "owner", "renewal"]
Look = Callable[[str], Awaitable[dict[str, Any]]]


async def rows_of(node: Node) -> dict[str, dict[str, Any]]:
    """The findings by name. What holds for all: they are JSON, and whoever finds a fault knows what to do."""
    found = await examine(node)
    assert found == json.loads(json.dumps(found, allow_nan=False))
    for row in found:
        assert {"check", "ok", "detail", "fix"} == row.keys()
        assert row["detail"]
        assert row["fix"] or row["ok"] is not False, f"no fix for {row}"
        assert not row["fix"] or row["ok"] is not True, f"a fix for what is well: {row}"
    return {row["check"]: row for row in found}


async def test_a_healthy_agent_has_no_fault(node: Node) -> None:
    """The checks come in the order in which they matter; what cannot be told is neither well nor ill."""
    await until(lambda: node.execution.providers, "the worker is up")
    rows = await rows_of(node)
    assert ORDER == list(rows)
    assert [] == [row for row in rows.values() if row["ok"] is False]
    assert True is rows["worker"]["ok"]
    assert "CPUExecutionProvider" in rows["worker"]["detail"]
    assert None is rows["gpu"]["ok"]
    assert None is rows["multicast"]["ok"]
    assert list(rows.values()) == await ask(node.home, "doctor")


async def test_how_models_are_confined_is_a_finding(node: Node) -> None:
    """The grade and what holds; when less than all does, why and what mends it."""
    await until(lambda: node.execution.confinement, "the worker is up")
    lack = Lack("kernel 4 has no Landlock", "a newer one")
    process = node.execution._own[0].process
    process.confined = Confinement("A", ("files", "system calls", "limits"))
    row = (await rows_of(node))["sandbox"]
    assert (True, "workers are confined with grade A: files, system calls, limits") == (row["ok"], row["detail"])
    process.confined = Confinement("B", ("system calls (seccomp)", "limits"), (lack,))
    row = (await rows_of(node))["sandbox"]
    assert (None, "a newer one") == (row["ok"], row["fix"])
    assert row["detail"].endswith("grade B: system calls (seccomp), limits; kernel 4 has no Landlock")


async def test_an_agent_that_nobody_can_reach_is_told_how_to_listen(node: Node) -> None:
    """Loopback is no fault on one machine; for a network the option is named."""
    row = (await rows_of(node))["address"]
    assert (None, True) == (row["ok"], "--listen" in row["fix"])
    node.address = ("10.0.0.7", 7433)
    node.discovery.survey(node.address)
    row = (await rows_of(node))["address"]
    assert (True, "") == (row["ok"], row["fix"])
    assert "10.0.0.7" in row["detail"]


async def test_a_worker_that_does_not_come_up_is_found(node: Node) -> None:
    """The reason is told, and where to read more."""
    await node.execution.ready()
    process = node.execution._own[0].process
    process._ready.clear()
    process.failure = "exit 1: libonnx is missing"
    row = (await rows_of(node))["worker"]
    assert False is row["ok"]
    assert "libonnx is missing" in row["detail"]
    assert "meshnode logs" in row["fix"]


async def test_what_became_of_each_accelerator_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that works, one that does not with why and what is missing, one that is being tried; and none."""
    assert "gpu = false" in (await rows_of(node))["gpu"]["detail"]
    node.settings = replace(node.settings, execution=replace(node.settings.execution, gpu=True))
    assert "no NVIDIA GPU" in (await rows_of(node))["gpu"]["detail"]
    node.devices.gpus.append(Gpu("H900", 2**37))
    row = (await rows_of(node))["gpu"]
    assert (False, "install onnxruntime-gpu instead of onnxruntime") == (row["ok"], row["fix"])
    for told, ok, detail, fix in (
        (("CUDAExecutionProvider", True, ""), True, "H900: a run on CUDA worked", ""),
        (("CUDAExecutionProvider", False, "no cuDNN"), False, "it is not advertised: no cuDNN", "pip install"),
        (("OtherExecutionProvider", False, ""), None, "Other is being tried", ""),
    ):
        monkeypatch.setattr(Execution, "tried", lambda _, told=told: [told])
        row = next(it for it in await ask(node.home, "doctor") if it["check"] == "gpu")
        assert ok is row["ok"]
        assert row["detail"].endswith(detail)
        assert fix in row["fix"]


async def test_a_disk_that_is_nearly_full_is_found(node: Node) -> None:
    """The reserve is named, and the folder."""
    node.settings = replace(node.settings, catalog=replace(node.settings.catalog, disk_reserve_bytes=2**60))
    row = (await rows_of(node))["disk"]
    assert False is row["ok"]
    assert str(node.home) in row["detail"]
    assert "make room" in row["fix"]


async def test_a_clock_that_is_behind_the_mesh_is_found(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements from a day ahead mean that this clock is wrong."""
    granted = node.keeper.statements.members()[0].granted_at
    for behind_s, ok in ((BEHIND_S + 60, False), (60, True)):
        with monkeypatch.context() as clock:
            clock.setattr("meshnode.edge.looking.time.time", lambda behind_s=behind_s: granted - behind_s)
            row = (await rows_of(node))["clock"]
        assert ok == row["ok"]
        assert ok != ("set the clock" in row["fix"])


async def test_multicast_that_does_not_work_has_a_way_round(node: Node) -> None:
    """Seeds and tokens need none, and are named."""
    node.settings = replace(node.settings, discovery=Discovery(mdns=True))
    assert None is (await rows_of(node))["multicast"]["ok"], "nobody was found by it, which may be right"
    node.discovery.multicast_error = "no interface does multicast"
    row = (await rows_of(node))["multicast"]
    assert (False, "no interface does multicast") == (row["ok"], row["detail"])
    assert "--seed" in row["fix"]


async def test_each_peer_is_tried(pair: tuple[Node, Node]) -> None:
    """One row a peer, with the time of its answer and how it was found."""
    ann, bob = pair
    for node, name in ((ann, "peer bob"), (bob, "peer ann")):
        row = (await rows_of(node))[name]
        assert True is row["ok"]
        assert "ms" in row["detail"]


async def test_a_peer_that_is_gone_is_found(tmp_path: Path) -> None:
    """One that left says so; one that vanished is a fault with its address."""
    async with founder(tmp_path / "ann") as first, joiner(tmp_path / "bob", first.node) as second:
        node, bob = first.node, second.node
        port = bob.address[1]
        second._leaving = True  # it does not dial again by itself
        await bob.membership.stop(None)  # and says no goodbye: it is only gone
        await bob.pool.stop()
        await until(lambda: node.pool.get(bob.keeper.id) is None, "the link is down")
        row = (await rows_of(node))["peer bob"]
        assert False is row["ok"]
        assert f"127.0.0.1 port {port} is closed" in row["detail"]
        assert f"port {port} in" in row["fix"]
        assert "firewall" in row["fix"]
    assert [] == workers()


async def test_a_peer_that_left_is_no_fault(tmp_path: Path) -> None:
    """Its goodbye is the detail."""
    async with founder(tmp_path / "ann") as first:
        async with joiner(tmp_path / "bob", first.node) as second:
            bob = second.node.keeper.id
        await until(lambda: first.node.membership.member(bob).state == "left", "the goodbye came")  # type: ignore[union-attr]
        row = (await rows_of(first.node))["peer bob"]
        assert None is row["ok"]
        assert "left" in row["detail"]
