"""What people and programs read: true, and plain JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from meshnode import sandbox
from meshnode.edge import documents
from meshnode.edge.node import Node
from meshnode.membership.advert import Gpu
from tests.edge.living import ask, founder, joiner, workers
from tests.edge.test_local import ECHO, run
from tests.waiting import until

NODE_KEYS = {
    "id",
    "name",
    "self",
    "state",
    "zone",
    "labels",
    "address",
    "version",
    "uptime_s",
    "cpu",
    "memory",
    "gpus",
    "providers",
    "power",
    "in_flight",
    "backlog_s",
    "tasks_done",
    "rtt_ms",
    "models",
}
MODEL_KEYS = {"name", "version", "digest", "size", "inputs", "outputs", "on_disk", "loaded"}


def plain(document: Any) -> Any:
    """Through strict JSON and back, unchanged."""
    again = json.loads(json.dumps(document, allow_nan=False))
    assert document == again
    return again


async def status(node: Node) -> Any:
    return plain(await documents.status(node))


async def test_the_status_of_one_node_alone(node: Node) -> None:
    """Every field that is promised is there, and what can be checked is true."""
    await node.execution.ready()
    await until(lambda: node.membership.view()[0].advert.providers, "its worker is advertised")  # type: ignore[union-attr]
    document = await status(node)
    assert (1, node.keeper.id) == (document["schema"], document["self"])
    assert {"id": node.keeper.statements.mesh_id, "name": "mesh", "nodes": document["mesh"]["nodes"]} == document[
        "mesh"
    ]
    assert {"alive": 1, "suspect": 0, "dead": 0, "left": 0} == document["mesh"]["nodes"]
    assert [] == document["models"]
    (row,) = document["nodes"]
    assert NODE_KEYS <= row.keys()
    assert (node.keeper.id, "ann", True, "alive", None) == tuple(
        row[k] for k in ("id", "name", "self", "state", "zone")
    )
    assert f"127.0.0.1:{node.address[1]}" == row["address"]
    assert ["CPUExecutionProvider"] == row["providers"]
    assert (0, 0, 0.0) == (row["in_flight"], row["tasks_done"], row["backlog_s"])
    assert 0 < row["memory"]["available"] <= row["memory"]["total"]
    assert 0 < row["uptime_s"]
    assert None is row["rtt_ms"]
    grade = node.execution.grade
    assert grade in sandbox.GRADES
    assert grade == row["sandbox"]
    (worker,) = document["sandbox"]["workers"]
    assert (grade, grade, "CPUExecutionProvider") == (document["sandbox"]["grade"], worker["grade"], worker["provider"])
    assert "limits" in worker["holds"]


async def test_the_status_of_two_is_true_on_both(tmp_path: Path) -> None:
    """Names, zones, labels, who has the model on disk, who loaded it, and how many tasks each has done."""
    labels = {"room": "A 1", "läuft": "ja\u2028"}
    async with (
        founder(tmp_path / "ann", zone="eu/berlin", labels=labels) as first,
        joiner(tmp_path / "bob", first.node, zone="us") as second,
    ):
        ann, bob = first.node, second.node
        added = await ask(ann.home, "model.add", {"path": ECHO, "name": "echo"})
        await until(lambda: bob.catalog.manifests(), "bob knows the model")
        for _ in range(2):
            await run(ann.home, np.float32([[1]]), node="bob")
        await until(lambda: _loads(ann, bob), "ann knows that bob has loaded it")

        seen = {}
        for node in (ann, bob):
            document = await status(node)
            assert document == json.loads(json.dumps(document))
            rows = {row["id"]: row for row in document["nodes"]}
            seen[node.keeper.id] = rows
            assert [node.keeper.id] == [row["id"] for row in document["nodes"] if row["self"]]
            assert {"eu/berlin", "us"} == {row["zone"] for row in document["nodes"]}
            assert labels == rows[ann.keeper.id]["labels"]
            assert 2 == rows[bob.keeper.id]["tasks_done"]
            assert 0 == rows[ann.keeper.id]["tasks_done"]
        (model,) = (await status(ann))["models"]
        assert MODEL_KEYS <= model.keys()
        assert {ann.keeper.id, bob.keeper.id} == set(model["on_disk"])
        assert [bob.keeper.id] == model["loaded"]
        assert added["inputs"] == model["inputs"]
        (held,) = seen[ann.keeper.id][bob.keeper.id]["models"]
        assert {"name": "echo", "version": 1, "digest": added["digest"], "loaded": True} == held
        assert seen[ann.keeper.id][bob.keeper.id]["path"] == "direct"
    assert [] == workers()


def _loads(node: Node, other: Node) -> bool:
    member = node.membership.member(other.keeper.id)
    assert member is not None
    assert member.advert is not None
    return any(model.loaded for model in member.advert.models)


async def test_a_node_that_left_is_shown_and_not_counted_alive(tmp_path: Path) -> None:
    """Its row stays with the reason; what only it knew is unknown, and its copies do not count."""
    async with founder(tmp_path / "ann") as first:
        async with joiner(tmp_path / "bob", first.node) as second:
            bob = second.node.keeper.id
            await ask(second.node.home, "model.add", {"path": ECHO, "name": "echo"})
            await until(lambda: first.node.catalog.manifests(), "ann knows the model")
        await until(lambda: _state(first.node, bob) == "left", "ann has heard the goodbye")
        document = await status(first.node)
        assert {"alive": 1, "suspect": 0, "dead": 0, "left": 1} == document["mesh"]["nodes"]
        (row,) = [row for row in document["nodes"] if row["id"] == bob]
        assert ("left", False) == (row["state"], row["usable"])
        assert "left" in row["reason"]
        assert (None, None, None) == (row["uptime_s"], row["in_flight"], row["cpu"]["load"])
        (model,) = document["models"]
        assert [] == model["on_disk"]


def _state(node: Node, other: str) -> str | None:
    return next((m.state for m in node.membership.view() if m.id == other), None)


async def test_members_says_who_is_in_by_whom_and_who_is_out(pair: tuple[Node, Node]) -> None:
    """Roles, who granted them, until when; a revoked member stays on the list with the reason."""
    ann, bob = pair
    rows = {row["name"]: row for row in plain(documents.members(ann))}
    assert {"ann", "bob"} == rows.keys()
    assert ["admin", "publisher", "submitter", "worker"] == rows["ann"]["roles"]
    assert "admin" not in rows["bob"]["roles"]
    assert rows["ann"]["granted_by"] == rows["bob"]["granted_by"]
    assert ["ann", "ann"] == [row["granted_by_name"] for row in rows.values()], "who holds that admin key"
    assert rows["bob"]["granted_at"] < rows["bob"]["expires_at"]
    assert [False, False] == [row["revoked"] for row in rows.values()]
    assert ["alive", "alive"] == [row["state"] for row in rows.values()]

    await ask(ann.home, "revoke", {"node": "bob", "reason": "stolen"})
    await until(lambda: bob.keeper.statements.revoked(bob.keeper.id), "bob knows")
    for node in pair:
        (row,) = [row for row in plain(documents.members(node)) if row["name"] == "bob"]
        assert (True, "stolen") == (row["revoked"], row["reason"])


@pytest.mark.parametrize(
    ("address", "shown"),
    [(("10.0.0.7", 7433), "10.0.0.7:7433"), (("fd00::7", 7433), "[fd00::7]:7433"), (None, None)],
)
async def test_an_address_can_be_typed_in_again(node: Node, address: Any, shown: str | None) -> None:
    """IPv6 stands in brackets, and no address is null."""

    member = replace(node.membership.view()[0], address=address)
    assert shown == plain(documents._node(node, member, None, {}))["address"]


async def test_a_node_of_which_nothing_is_known_yet_has_a_row(node: Node) -> None:
    """Without an advert and without an answer: the same keys, with nulls."""

    member = replace(node.membership.view()[0], id="z" * 52, advert=None)  # type: ignore[arg-type]
    row = plain(documents._node(node, member, None, {}))
    assert NODE_KEYS <= row.keys()
    assert (None, None, [], []) == (row["cpu"], row["in_flight"], row["providers"], row["models"])


async def test_gpus_are_shown_with_the_memory_that_is_free(node: Node) -> None:
    """Total from the advert, free from the node's own answer; null when it gave none."""

    member = node.membership.view()[0]
    assert member.advert is not None
    with_gpus = msgspec.structs.replace(member.advert, gpus=(Gpu("one", 100), Gpu("two", 200)))
    vitals = msgspec.structs.replace(node.vitals(), gpu_free_bytes=(60,))
    row = plain(documents._node(node, replace(member, advert=with_gpus), vitals, {}))
    assert [
        {"name": "one", "memory_total": 100, "memory_free": 60},
        {"name": "two", "memory_total": 200, "memory_free": None},
    ] == row["gpus"]


async def test_files_that_have_two_names_are_shown_under_both(node: Node) -> None:
    """On the node that has them, in the list of models, and each by itself."""
    for name in ("first", "second"):
        await ask(node.home, "model.add", {"path": ECHO, "name": name})
        assert name == (await ask(node.home, "model.show", {"model": name}))["name"]
    await until(lambda: node.membership.view()[0].advert.models, "it is advertised")  # type: ignore[union-attr]
    status = await ask(node.home, "status")
    assert ["first", "second"] == [model["name"] for model in status["nodes"][0]["models"]]
    assert ["first", "second"] == [model["name"] for model in status["models"]]
