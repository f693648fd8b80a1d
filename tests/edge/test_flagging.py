"""A model that kills workers, in a mesh of whole agents: who ran it says so, and soon nobody runs it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshnode.catalog.verdict import Verdict
from meshnode.client import AsyncClient
from meshnode.edge import flagging
from meshnode.edge.node import Node
from meshnode.errors import InvalidInput, MeshError, ModelRefused, PermissionDenied
from meshnode.execution.control import TensorInfo
from meshnode.execution.job import ProbeReport
from meshnode.wire.messages import Digest
from tests.edge import living
from tests.edge.living import ask
from tests.execution.making import bomb, killer
from tests.waiting import until

X = {"x": np.ones(1, np.float32)}
INFO = (TensorInfo("x", "float", (1,)),)


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[tuple[Node, Node, Node]]:
    """A mesh whose founder has a model that kills who loads it, and did not try it before it published it."""
    async with living.trio(tmp_path) as nodes:

        async def untried(*_: Any) -> ProbeReport:
            return ProbeReport(INFO, (TensorInfo("y", "float", (1,)),), 1000, 0.001, {}, "CPU", "1")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nodes[0].execution, "probe", untried)
            await ask(nodes[0].home, "model.add", {"path": str(killer(tmp_path).path), "name": "killer"})
        await until(lambda: all(node.catalog.manifests() for node in nodes), "all know the model")
        yield nodes


def digest(node: Node) -> Digest:
    return node.catalog.manifests()[0].digest


async def given(node: Node, to: Node) -> MeshError:
    """What becomes of a task for the killer."""
    async with AsyncClient(node.home) as client:
        with pytest.raises(MeshError) as caught:
            await client.infer("killer", X, node=to.keeper.id, timeout=20)
    return caught.value


def reporters(node: Node) -> set[str]:
    flag = node.keeper.statements.flag(digest(node))
    return set() if flag is None else set(flag.reporters)


async def test_two_nodes_reports_keep_a_model_from_all(three: tuple[Node, Node, Node]) -> None:
    """The first node that it kills refuses it from then on; after the second every node does, with the reason; an
    admin, and nobody else, lets it run again."""
    ann, bob, cat = three
    await given(ann, bob)
    await until(lambda: all({bob.keeper.id} == reporters(it) for it in three), "all heard the first report")
    here = await given(ann, bob)
    assert "SIGFPE" in str(here)
    assert 1 == bob.execution._own[0].process.deaths, "it was not loaded again"

    await given(ann, cat)
    await until(lambda: all(len(reporters(it)) == 2 for it in three), "all heard the second report")
    for node in three:
        refused = await given(node, node)
        assert isinstance(refused, ModelRefused)
        assert "killer:1 runs on no node of this mesh" in str(refused)
        assert "SIGFPE" in str(refused)
        assert "meshnode model clear" in refused.hint
    assert [0, 1, 1] == [it.execution._own[0].process.deaths for it in three]

    shown = await ask(ann.home, "model.show", {"model": "killer"})
    assert shown["reported"]["flagged"]
    assert {bob.keeper.id, cat.keeper.id} == set(shown["reported"]["reporters"])
    assert 3 == shown["scan"]["nodes"]
    assert (await ask(cat.home, "models"))[0]["reported"]["flagged"]
    with pytest.raises(PermissionDenied, match="clear a model"):
        await ask(cat.home, "model.clear", {"model": "killer"})
    assert 2 == (await ask(ann.home, "model.clear", {"model": "killer"}))["cleared"]
    await until(lambda: not any(reporters(it) for it in three), "all heard that it is cleared")
    assert [0.0, 0.0] == [it.execution._quarantine.rests_s(time.monotonic(), digest(it)) for it in (bob, cat)]
    assert (await ask(cat.home, "models"))[0]["reported"] is None
    with pytest.raises(InvalidInput, match="nobody reported"):
        await ask(ann.home, "model.clear", {"model": "killer"})


async def test_a_report_outlives_its_node(three: tuple[Node, Node, Node]) -> None:
    """It is in the trust set on disk: a restart does not forget it, and tells it once."""
    ann, bob, _ = three
    await given(ann, bob)
    await until(lambda: {bob.keeper.id} == reporters(ann), "the report is known")
    flagging.report(bob, digest(bob), "again")
    flag = bob.keeper.statements.flag(digest(bob))
    assert flag is not None
    assert 1 == len(flag.statements)
    with pytest.raises(ModelRefused, match="this node does not run killer:1"):
        flagging.harmless(bob, bob.catalog.manifests()[0])
    assert flagging.unflagged(bob, bob.catalog.manifests()[0])


async def test_an_admins_word_is_enough(three: tuple[Node, Node, Node]) -> None:
    """It holds everywhere at once, and odd characters of a reason do not reach a terminal."""
    ann, _, cat = three
    with pytest.raises(PermissionDenied, match="flag a model"):
        await ask(cat.home, "model.flag", {"model": "killer"})
    await ask(ann.home, "model.flag", {"model": "killer", "reason": "leaks\x1b[2J data"})
    await until(lambda: cat.keeper.statements.flag(digest(cat)) is not None, "it is known")
    refused = await given(cat, cat)
    assert "leaks [2J data (says an admin)" in str(refused)


async def test_what_is_no_model_of_the_mesh_is_not_reported(node: Node) -> None:
    """A file that somebody only tried to add is nobody else's business."""
    flagging.report(node, Digest("a" * 64), "it fell over")
    assert node.keeper.statements.flag("a" * 64) is None


async def test_a_hostile_publisher_gets_nothing_past_the_others(
    pair: tuple[Node, Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither scans nor tries what it publishes. The node that is to run it fetches it, scans it before ONNX Runtime
    sees a byte, keeps nothing, and says why; the task is refused and nobody dies."""
    ann, bob = pair

    async def untried(*_: Any) -> ProbeReport:
        return ProbeReport(INFO, (TensorInfo("y", "float", (1,)),), 1000, 0.001, {}, "CPU", "1")

    monkeypatch.setattr(ann.execution, "probe", untried)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meshnode.catalog.judge.scan", lambda _: Verdict(0, 8, {}, (), 1, 1, 0, 1, 0, 0, {}))
        await ask(ann.home, "model.add", {"path": str(bomb(tmp_path).path), "name": "killer"})
    await until(lambda: bob.catalog.manifests(), "the model is known")
    for _ in range(2):
        refused = await given(ann, bob)
        assert "grow to" in str(refused)
    assert [] == bob.store.digests()
    assert [] == list(bob.store.folder.iterdir())
    assert 0 == bob.execution._own[0].process.deaths
    shown = await ask(bob.home, "model.show", {"model": "killer"})
    assert "grow to" in shown["refused"]
    assert shown["scan"] is None
