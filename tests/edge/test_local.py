"""The local door through its socket: every verb, what it refuses, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from meshnode.catalog.manifest import File, Manifest
from meshnode.edge import local
from meshnode.edge.local import VERBS
from meshnode.edge.node import Node
from meshnode.errors import (
    InvalidInput,
    MeshError,
    ModelNotFound,
    ModelRefused,
    NoNodeInZone,
    PermissionDenied,
    ProtocolError,
    Refused,
    TokenRefused,
)
from meshnode.links.link import Link
from meshnode.links.local import connect
from meshnode.wire import tensors
from meshnode.wire.messages import Ask, Plan, StreamPing, Submit
from tests.edge.living import SMALL, ask, founder, joiner, workers
from tests.waiting import until

MODELS = Path(__file__).parent.parent.parent / "models"
ECHO = str(MODELS / "echo" / "model.onnx")
PLAIN = [verb for verb, (shape, _) in VERBS.items() if not shape.__struct_fields__]


async def run(home: Path, x: Any, **fields: Any) -> Any:
    """One task through the socket."""
    specs, parts = tensors.encode({"x": x})
    given: dict[str, Any] = {"task": os.urandom(16).hex(), "model": "echo", "deadline_s": 20.0}
    link = await connect(home, SMALL.links)
    try:
        received = await link.call(Submit(inputs=specs, **(given | fields)), parts, timeout_s=30.0)
        message: Any = received.message
        return tensors.decode(message.outputs, received.body)["y"], message
    finally:
        await link.close()


# --- what makes no sense ---


@pytest.mark.parametrize(
    ("verb", "args", "reason"),
    [
        ("nonsense", {}, "no verb 'nonsense'"),
        ("", {}, "no verb ''"),
        ("STATUS", {}, "no verb 'STATUS'"),
        ("model.show", {}, "model"),
        ("model.show", {"model": 3}, "Expected `str`"),
        ("model.show", {"model": None}, "Expected `str`"),
        ("model.remove", {"model": ["echo"]}, "Expected `str`"),
        ("model.remove", {"name": "echo"}, "unknown field `name`"),
        ("model.add", {}, "path"),
        ("model.add", {"path": b"/x.onnx"}, "Expected `str`"),
        ("model.add", {"path": "/x.onnx", "name": 1}, "Expected `str"),
        ("model.add", {"path": "/x.onnx", "version": "2"}, "Expected `int"),
        ("model.add", {"path": "/x.onnx", "force": True}, "unknown field `force`"),
        ("model.add", {"path": "x.onnx"}, "absolute"),
        ("invite", {"expires_s": "soon"}, "Expected `float"),
        ("invite", {"role": ["worker"]}, "Expected `str"),
        ("invite", {"zone": 3}, "Expected `str"),
        ("invite", {"expires_s": 0}, "lasts 1 s to"),
        ("invite", {"expires_s": -5.0}, "lasts 1 s to"),
        ("invite", {"expires_s": float("nan")}, "lasts 1 s to"),
        ("invite", {"expires_s": float("inf")}, "lasts 1 s to"),
        ("invite", {"role": "worker,king"}, "unknown role 'king'"),
        ("invite", {"role": ","}, "unknown role ''"),
        ("invite", {"role": "worker,operator"}, "the role 'operator' allows nothing"),
        ("invite", {"zone": "z" * 1000}, "zone's name"),
        ("join", {}, "token"),
        ("join", {"token": 7}, "Expected `str`"),
        ("revoke", {}, "node"),
        ("revoke", {"node": 7}, "Expected `str`"),
        ("revoke", {"node": "bob", "reason": None}, "Expected `str`"),
        ("revoke", {"node": ""}, "no node ''"),
        ("revoke", {"node": "dora"}, "no node 'dora'"),
        ("ping", {}, "node"),
        ("ping", {"node": "ann", "count": "4"}, "Expected `int`"),
        ("ping", {"node": "ann", "count": 1.5}, "Expected `int`"),
        ("ping", {"node": "dora"}, "no node 'dora'"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(node: Node, verb: str, args: dict[str, Any], reason: str) -> None:
    """An unknown verb, a missing, wrong or unknown argument: InvalidInput that names it, and nothing has happened."""
    with pytest.raises(InvalidInput, match=reason) as caught:
        await ask(node.home, verb, args)
    assert verb in str(caught.value) or caught.value.hint or "invite" in verb
    assert (await ask(node.home, "version"))["id"] == node.keeper.id
    assert [] == await ask(node.home, "models")
    assert 1 == len(await ask(node.home, "members"))


def test_the_list_of_verbs_is_whole() -> None:
    """Who writes a client reads it at the top of the module; `a.b/c` is two of them."""
    told = set()
    for words in re.findall(r"([a-z][\w./]*) \{", local.__doc__ or ""):
        first, *others = words.split("/")
        stem = first.rpartition(".")[0]
        told |= {first, *(f"{stem}.{it}" for it in others)}
    assert VERBS.keys() == told


async def test_verbs_without_arguments_take_none(node: Node) -> None:
    """`stop` with an argument that it does not know stops nothing, and `leave` leaves nothing."""
    assert {"status", "stop", "leave", "ps", "version"} <= set(PLAIN)
    for verb in PLAIN:
        with pytest.raises(InvalidInput, match="unknown field `when`"):
            await ask(node.home, verb, {"when": "now"})
    assert node.keeper.belongs


async def test_a_program_may_note_what_happened(node: Node) -> None:
    """It stands among the events; who says too much is told when to come again, and no line breaks out of its place."""
    await ask(node.home, "note", {"event": "camera yard", "why": "2 person"})
    (noted,) = [it for it in await ask(node.home, "events") if it["event"] == "camera yard"]
    assert (node.keeper.id, "2 person") == (noted["node"], noted["why"])

    async def flood() -> None:
        for _ in range(100):
            await ask(node.home, "note", {"event": "camera yard"})

    with pytest.raises(Refused):
        await flood()
    for args in ({"event": "a\nb"}, {"event": ""}, {"event": "a", "why": "\x1b[2J"}, {"event": "x" * 65}):
        with pytest.raises(InvalidInput):
            await ask(node.home, "note", args)


async def test_bytes_that_are_no_request_are_refused_and_the_door_stays_open(node: Node) -> None:
    """Messages of other doors, arguments that are no map: ProtocolError on a link that goes on."""
    link = await connect(node.home, SMALL.links)
    odd = msgspec.msgpack.encode({"t": "ask", "verb": "status", "args": [1]})
    for request in (StreamPing(), msgspec.Raw(odd), Ask(verb="v" * 65)):
        with pytest.raises(ProtocolError):
            await link.call(request)  # type: ignore[arg-type]
    assert node.keeper.id == msgspec.json.decode(bytes((await link.call(Ask(verb="version"))).body))["id"]
    await link.close()


# --- models ---


async def test_a_model_is_added_shown_run_and_removed(node: Node) -> None:
    """What `model.add` answers is what `models` and `model.show` then say, by name, version and digest."""
    added = await ask(node.home, "model.add", {"path": ECHO, "name": "echo"})
    assert ("echo", 1, [node.keeper.id], []) == (added["name"], added["version"], added["on_disk"], added["loaded"])
    assert node.keeper.id == added["publisher"]
    await until(lambda: node.membership.view()[0].advert.models, "the model is advertised")  # type: ignore[union-attr]
    for wanted in ("echo", "echo:1", added["digest"]):
        assert added == await ask(node.home, "model.show", {"model": wanted})

    y, message = await run(node.home, np.float32([[1, 2]]))
    assert [[1.0, 2.0]] == y.tolist()
    assert (node.keeper.id, added["digest"]) == (message.node, message.model)
    (row,) = await ask(node.home, "ps")
    assert ("echo", 1, added["digest"], 0) == (row["name"], row["version"], row["digest"], row["in_flight"])

    removed = await ask(node.home, "model.remove", {"model": "echo"})
    assert {"name": "echo", "version": 1, "digest": added["digest"]} == removed
    assert [] == await ask(node.home, "models")
    with pytest.raises(ModelNotFound):
        await run(node.home, np.float32([[1]]))
    (row,) = await ask(node.home, "ps")
    assert (None, added["digest"]) == (row["name"], row["digest"])


async def test_the_same_file_again_is_the_same_model(node: Node) -> None:
    """Adding twice makes no second version; another file under the name does."""
    first = await ask(node.home, "model.add", {"path": ECHO, "name": "echo"})
    assert first == await ask(node.home, "model.add", {"path": ECHO, "name": "echo"})
    slow = str(MODELS / "slow" / "model.onnx")
    assert 2 == (await ask(node.home, "model.add", {"path": slow, "name": "echo"}))["version"]
    assert [1, 2] == [model["version"] for model in await ask(node.home, "models")]


async def test_one_file_under_two_names_is_two_models(node: Node) -> None:
    """Each is shown under the name that was asked for, and removing one leaves the other."""
    for name in ("echo", "mirror"):
        await ask(node.home, "model.add", {"path": ECHO, "name": name})
    for name in ("echo", "mirror"):
        assert name == (await ask(node.home, "model.show", {"model": name}))["name"]
    await ask(node.home, "model.remove", {"model": "echo"})
    assert ["mirror"] == [model["name"] for model in await ask(node.home, "models")]
    y, _ = await run(node.home, np.float32([[7]]), model="mirror")
    assert [[7.0]] == y.tolist()


async def test_a_name_and_version_mean_one_model(node: Node) -> None:
    """Another file cannot take a version that is there; nothing of it stays on the disk."""
    await ask(node.home, "model.add", {"path": ECHO, "name": "echo"})
    held = node.store.digests()
    with pytest.raises(InvalidInput, match="echo:1 is another model") as caught:
        await ask(node.home, "model.add", {"path": str(MODELS / "slow" / "model.onnx"), "name": "echo", "version": 1})
    assert "--version" in caught.value.hint
    assert held == node.store.digests()


async def test_a_file_that_is_no_model_leaves_nothing(node: Node, tmp_path: Path) -> None:
    """Missing, a folder, empty, garbage, a name that is none: a typed error, and the store is as it was."""
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("not a model")
    shutil.copy(ECHO, tmp_path / "ünïcödé.onnx")
    for name in ("absent.onnx", ".", "empty.onnx", "text.onnx", "a\0b.onnx", "x" * 5000):
        with pytest.raises(ModelRefused):
            await ask(node.home, "model.add", {"path": f"{tmp_path}/{name}", "name": "m"})
    for name in ("../m", "0" * 64, "-", "m" * 65):
        if name != "../m":
            with pytest.raises(InvalidInput, match="cannot be a model's name"):
                await ask(node.home, "model.add", {"path": ECHO, "name": name})
    with pytest.raises(ModelRefused, match="version"):
        await ask(node.home, "model.add", {"path": ECHO, "version": -1})
    assert [] == node.store.digests() + await ask(node.home, "models")
    assert "echo" in (await ask(node.home, "model.add", {"path": ECHO, "name": "../echo"}))["name"]


async def test_an_unknown_model_is_named_with_what_there_is(node: Node) -> None:
    """ModelNotFound for show, remove, run and plan alike."""
    await ask(node.home, "model.add", {"path": ECHO, "name": "echo"})
    for verb in ("model.show", "model.remove"):
        with pytest.raises(ModelNotFound, match="ekho") as caught:
            await ask(node.home, verb, {"model": "ekho"})
        assert "echo" in caught.value.hint
    with pytest.raises(ModelNotFound):
        await run(node.home, np.float32([[1]]), model="ekho")


def elsewhere(node: Node, name: str, mark: int) -> Manifest:
    """A model of some other node's, as a manifest."""
    files = (File("m.onnx", 10, bytes([mark]) * 32, bytes(32)),)
    return Manifest(name, 1, files, (), (), 4096, publisher=node.keeper.id)


async def test_of_two_models_with_one_name_each_can_be_shown_and_removed(node: Node) -> None:
    """Two nodes added different files as `m:1` at once: the digest tells them apart, and only that one is removed."""
    for mark in (1, 2):
        node.trust.learnt([node.keeper.publish_model(elsewhere(node, "m", mark).to_map())])
    named = (await ask(node.home, "model.show", {"model": "m"}))["digest"]
    (other,) = {elsewhere(node, "m", mark).digest for mark in (1, 2)} - {named}
    assert other == (await ask(node.home, "model.show", {"model": other}))["digest"]
    assert other == (await ask(node.home, "model.remove", {"model": other}))["digest"]
    assert [named] == [model["digest"] for model in await ask(node.home, "models")]
    with pytest.raises(ModelNotFound):
        await ask(node.home, "model.show", {"model": other})


# --- tasks ---


async def test_a_task_for_another_zone_is_refused(node: Node) -> None:
    """The only node has no zone: a task that names one is not run."""
    await ask(node.home, "model.add", {"path": ECHO, "name": "echo"})
    with pytest.raises(NoNodeInZone, match="'eu'"):
        await run(node.home, np.float32([[1]]), zone="eu")


async def test_a_plan_runs_nothing(node: Node) -> None:
    """The choice with its candidates, as a document; the counters stand still."""
    await ask(node.home, "model.add", {"path": ECHO, "name": "echo"})
    await until(lambda: node.membership.view()[0].advert.providers, "its worker is advertised")  # type: ignore[union-attr]
    link = await connect(node.home, SMALL.links)
    received = await link.call(Plan(model="echo", inputs=(), deadline_s=5.0))
    await link.close()
    plan = msgspec.json.decode(bytes(received.body))
    assert {"node": node.keeper.id, "name": "ann"} == plan["choice"]
    assert [] == await ask(node.home, "ps")
    assert 0 == node.dispatcher.counters.submitted


async def test_a_client_that_hangs_up_takes_its_tasks_with_it(node: Node) -> None:
    """No task runs for nobody."""
    await ask(node.home, "model.add", {"path": str(MODELS / "slow" / "model.onnx"), "name": "slow"})
    link = await connect(node.home, SMALL.links)
    specs, parts = tensors.encode({"x": np.ones((1, 64), np.float32), "rounds": np.array([2**40])})
    inputs = node.catalog.resolve("slow").inputs
    specs, parts = tensors.encode({t.name: _long(t) for t in inputs})
    task = Submit(task="3" * 32, model="slow", inputs=specs, deadline_s=60.0)
    call = asyncio.ensure_future(link.call(task, parts))
    await until(lambda: node.execution.vitals()[0] or call.done(), "it runs")
    assert not call.done()
    link.abort("the client is gone")
    with pytest.raises(MeshError):
        await call
    await until(lambda: not node.dispatcher.open and not node.execution.vitals()[0], "it was given up")


def _long(tensor: Any) -> Any:
    """An input of the slow model that keeps it busy for long."""
    if tensor.dtype == "int64":
        return np.full([d if isinstance(d, int) else 1 for d in tensor.shape], 2**40, np.int64)
    return np.ones([d if isinstance(d, int) else 1 for d in tensor.shape], np.float32)


# --- the mesh ---


async def test_joining_is_refused_while_others_are_there(pair: tuple[Node, Node]) -> None:
    """A member leaves first: the error says so, and it stays where it is."""
    ann, bob = pair
    token = (await ask(ann.home, "invite"))["token"]
    with pytest.raises(PermissionDenied, match="already in a mesh with 1 other") as caught:
        await ask(bob.home, "join", {"token": token})
    assert "meshnode leave" in caught.value.hint
    assert ann.keeper.statements.mesh_id == bob.keeper.statements.mesh_id


async def test_joining_with_ones_own_token_is_refused(node: Node) -> None:
    """The token was meant for another machine: the founder keeps its admin key, and the token stays good."""
    token = (await ask(node.home, "invite"))["token"]
    with pytest.raises(PermissionDenied, match="made the token itself"):
        await ask(node.home, "join", {"token": token})
    assert (node.home / "admin.key").exists()
    assert 1 == len(await ask(node.home, "members"))
    assert (await ask(node.home, "invite"))["token"]


async def test_a_bad_token_changes_nothing(node: Node) -> None:
    """Damaged, and no token at all: TokenRefused, and the mesh of one goes on."""
    mesh = node.keeper.statements.mesh_id
    good = (await ask(node.home, "invite"))["token"]
    for token in ("", "hello", good[:-9], good[:20] + ("a" if good[20] != "a" else "b") + good[21:]):
        with pytest.raises(TokenRefused):
            await ask(node.home, "join", {"token": token})
    assert mesh == node.keeper.statements.mesh_id


async def test_who_may_not_is_told_who_may(pair: tuple[Node, Node]) -> None:
    """A member without the admin key cannot invite or revoke; the hint names the node that can."""
    ann, bob = pair
    for verb, args in (("invite", {}), ("revoke", {"node": "ann"})):
        with pytest.raises(PermissionDenied, match="admin") as caught:
            await ask(bob.home, verb, args)
        assert ann.keeper.id[:8] in caught.value.hint


async def test_a_submitter_adds_no_models(tmp_path: Path) -> None:
    """Without the role `publisher` the file is not even read; the others' models it may still use."""
    async with founder(tmp_path / "ann") as ann, joiner(tmp_path / "bob", ann.node, role="submitter") as bob:
        with pytest.raises(PermissionDenied, match="may not add models") as caught:
            await ask(bob.node.home, "model.add", {"path": ECHO})
        assert "publisher" in caught.value.hint
        await ask(ann.node.home, "model.add", {"path": ECHO, "name": "echo"})
        await until(lambda: bob.node.catalog.manifests(), "bob knows the model")
        y, message = await run(bob.node.home, np.float32([[4]]))
        assert ([[4.0]], ann.node.keeper.id) == (y.tolist(), message.node)
        with pytest.raises(PermissionDenied, match="admin"):
            await ask(bob.node.home, "model.remove", {"model": "echo"})
        assert bob.node.catalog.manifests()
    assert [] == workers()


async def test_nobody_revokes_itself(node: Node) -> None:
    """The hint says what was meant."""
    for wanted in ("ann", node.keeper.id, node.keeper.id[:8]):
        with pytest.raises(InvalidInput, match="the node itself") as caught:
            await ask(node.home, "revoke", {"node": wanted})
        assert "meshnode leave" in caught.value.hint


async def test_pings_go_over_the_link(pair: tuple[Node, Node]) -> None:
    """As many rows as asked for, at least one; this node itself answers at once; the path and address are told."""
    ann, bob = pair
    rows = await ask(ann.home, "ping", {"node": "bob", "count": 2})
    assert [1, 2] == [row["seq"] for row in rows]
    assert {"direct"} == {row["path"] for row in rows}
    assert all(row["rtt_ms"] > 0 and row["address"].startswith("127.0.0.1:") for row in rows)
    for count in (0, -3):
        assert 1 == len(await ask(ann.home, "ping", {"node": bob.keeper.id[:8], "count": count}))
    assert ["self"] == [row["path"] for row in await ask(ann.home, "ping", {"node": "ann"})]


async def test_a_revoked_node_takes_no_more_tasks_of_its_own_clients(pair: tuple[Node, Node]) -> None:
    """Its clients are told that it was revoked and why, instead of waiting for peers that will not answer."""
    ann, bob = pair
    await ask(ann.home, "model.add", {"path": ECHO, "name": "echo"})
    await until(lambda: bob.catalog.manifests(), "bob knows the model")
    assert {"id": bob.keeper.id} == await ask(ann.home, "revoke", {"node": "bob", "reason": "stolen"})
    await until(lambda: bob.keeper.statements.revoked(bob.keeper.id), "bob knows")
    with pytest.raises(PermissionDenied, match="stolen") as caught:
        await run(bob.home, np.float32([[1]]))
    assert "meshnode up TOKEN" in caught.value.hint
    assert (await ask(bob.home, "version"))["id"] == bob.keeper.id


async def test_stop_is_heard(node: Node) -> None:
    """The agent's owner sees it; the answer still comes."""
    stopped = asyncio.Event()
    node.control.stop = stopped.set
    assert {} == await ask(node.home, "stop")
    assert stopped.is_set()


async def test_the_door_answers_many_at_once(node: Node) -> None:
    """A hundred requests on one connection, each with its own answer."""
    link: Link = await connect(node.home, SMALL.links)
    verbs = ["version", "members", "ps", "models"] * 25
    answers = await asyncio.gather(*(link.call(Ask(verb=verb)) for verb in verbs))
    await link.close()
    kinds = {verb: type(msgspec.json.decode(bytes(a.body))) for verb, a in zip(verbs, answers, strict=True)}
    assert {"version": dict, "members": list, "ps": list, "models": list} == kinds
