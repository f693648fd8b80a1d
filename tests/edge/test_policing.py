"""The policy between whole agents: the submitter hears the rule, and the executing node believes nobody."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshnode.client import AsyncClient
from meshnode.edge.node import Node
from meshnode.errors import ConfigError, InvalidInput, NoNodeInZone, PermissionDenied
from meshnode.tasks.permits import Permits
from meshnode.trust import office
from meshnode.trust.keeper import Keeper
from tests.edge.living import ask, founder, living, settings
from tests.edge.test_local import ECHO
from tests.waiting import until

X = {"x": np.ones((1, 4), np.float32)}


async def model_on(node: Node, *others: Node) -> str:
    digest: str = (await ask(node.home, "model.add", {"path": ECHO, "name": "echo"}))["digest"]
    for other in others:
        await until(lambda other=other: bool(other.catalog.manifests()), "the model is known")  # type: ignore[misc]
    return digest


async def signed(text: str, by: Node, *others: Node) -> Any:
    document = await ask(by.home, "policy.set", {"text": text})
    for other in others:
        await until(
            lambda other=other: other.policing.mesh.version == document["version"],  # type: ignore[misc]
            "the policy is known",
        )
    return document


def locally(node: Node, text: str) -> None:
    file = node.home / "policy.toml"
    file.write_text(text)
    os.utime(file, ns=(0, node.policing._seen[0] + 1))  # type: ignore[index]
    node.policing._look_at = 0.0


async def test_who_may_not_submit_hears_the_rule_at_home_and_away(pair: tuple[Node, Node]) -> None:
    """Bob is refused by his own agent; and by ann's when his does not ask."""
    ann, bob = pair
    await model_on(ann, bob)
    await signed("[submit]\nnodes = ['ann']", ann, bob)
    async with AsyncClient(ann.home) as client:
        await client.infer("echo", X)
    async with AsyncClient(bob.home) as client:
        with pytest.raises(PermissionDenied, match=r"bob may not submit tasks here: submit.nodes of the mesh's policy"):
            await client.infer("echo", X)
        bob.dispatcher.permits = Permits()
        with pytest.raises(PermissionDenied, match=r"submit.nodes of the mesh's policy, version 1"):
            await client.infer("echo", X, node=ann.keeper.id)
    await signed("", ann, bob)
    async with AsyncClient(bob.home) as client:
        assert ann.keeper.id == (await client.infer("echo", X, node=ann.keeper.id)).node


async def test_a_node_of_its_own_mind_is_passed_over(pair: tuple[Node, Node]) -> None:
    """Its file refuses what the mesh allows: others run it; asked by name, it tells its rule; then it is lifted."""
    ann, bob = pair
    await model_on(ann, bob)
    locally(bob, "[models]\nmax_bytes = 1")
    async with AsyncClient(ann.home) as client:
        assert ann.keeper.id == (await client.infer("echo", X)).node
        with pytest.raises(PermissionDenied, match=r"models.max_bytes = 1 of policy.toml") as refused:
            await client.infer("echo", X, node=bob.keeper.id)
        assert ["permission_denied"] == [it.outcome for it in refused.value.attempts]  # it is not asked again
        with pytest.raises(PermissionDenied, match=r"models.max_bytes = 1 of policy.toml"):
            await ask(bob.home, "model.load", {"model": "echo"})
        assert [] == bob.execution.loaded()
        locally(bob, "")
        assert bob.keeper.id == (await client.infer("echo", X, node=bob.keeper.id)).node


async def test_a_node_without_the_role_works_for_itself_alone(pair: tuple[Node, Node]) -> None:
    """`submitter` is about the mesh: others run nothing for bob and say so once, and his own machine is his."""
    ann, bob = pair
    await model_on(ann, bob)
    grant = ann.keeper.statements.grant(bob.keeper.id)
    assert grant is not None
    said = office.regrant(ann.keeper, grant, "take a role", roles=frozenset({"worker"}))
    ann.trust.publish([said.data])
    ann.trust.learnt([said])
    await until(lambda: bob.keeper.statements.get(said.id) is not None, "bob knows")
    async with AsyncClient(bob.home) as client:
        for _ in range(3):
            assert bob.keeper.id == (await client.infer("echo", X)).node
        with pytest.raises(PermissionDenied, match="may not submit tasks in this mesh") as refused:
            await client.infer("echo", X, node=ann.keeper.id)
    assert ["permission_denied"] == [it.outcome for it in refused.value.attempts]


async def test_a_broken_file_keeps_what_held_and_stops_a_start(pair: tuple[Node, Node], tmp_path: Path) -> None:
    """While the agent runs the old rules go on; a start with it is refused, with the file and the place."""
    ann, _ = pair
    locally(ann, "[models]\nmax_bytes = 1")
    assert 1 == ann.policing.rules.models[0][1].max_bytes
    locally(ann, "[modells]")
    assert 1 == ann.policing.rules.models[0][1].max_bytes
    home = tmp_path / "cat"
    keeper = Keeper.open(home)
    keeper.found("mesh", "cat")
    (home / "policy.toml").write_text("[modells]")
    try:
        with pytest.raises(ConfigError, match=r"policy.toml.*modells"):
            async with living(home, keeper, (), settings("cat")):
                pass
    finally:
        keeper.close()


async def test_who_may_not_publish_is_refused_and_not_believed(pair: tuple[Node, Node]) -> None:
    """His own agent says no; what it publishes all the same is no model for anybody."""
    ann, bob = pair
    await signed("[publish]\nnodes = ['ann']", ann, bob)
    with pytest.raises(PermissionDenied, match=r"bob may not publish models here: publish.nodes"):
        await ask(bob.home, "model.add", {"path": ECHO, "name": "echo"})
    bob.policing.check_publisher = lambda who: None  # type: ignore[method-assign]
    await ask(bob.home, "model.add", {"path": ECHO, "name": "echo"})
    await until(lambda: len(ann.keeper.statements.models()) == 1, "ann has heard of it")
    assert () == ann.catalog.manifests()


async def test_a_default_zone_binds_tasks_that_name_none(pair: tuple[Node, Node]) -> None:
    """Neither node is in it: nobody runs the task, also when the submitter forgets the rule."""
    ann, bob = pair
    await model_on(ann, bob)
    await signed("default_zone = 'eu'", ann, bob)
    async with AsyncClient(bob.home) as client:
        with pytest.raises(NoNodeInZone, match="'eu'"):
            await client.infer("echo", X)
        bob.dispatcher.permits = Permits()
        with pytest.raises(NoNodeInZone, match="'eu'"):
            await client.infer("echo", X)


async def test_show_check_and_set(pair: tuple[Node, Node]) -> None:
    """Each line with where it comes from; what a file would refuse, by name; only an admin signs."""
    ann, bob = pair
    await model_on(ann, bob)
    text = "[submit]\nnodes = ['ann']\n[models]\nmax_bytes = 1\n[quota]\nconcurrent = 4\n"
    would = await ask(bob.home, "policy.check", {"text": text})
    rule = "submit.nodes of the mesh's policy, version 1"
    assert {"ann": None, "bob": rule} == {row["name"]: row["submit"] for row in would["members"]}
    assert "models.max_bytes = 1 of the mesh's policy, version 1" == would["models"][0]["refused"]
    assert [] == (await ask(ann.home, "policy.show"))["rules"]
    with pytest.raises(PermissionDenied, match="only an admin may sign the policy"):
        await ask(bob.home, "policy.set", {"text": text})
    with pytest.raises(InvalidInput, match="no member could submit"):
        await ask(ann.home, "policy.set", {"text": "[submit]\nnodes = ['nobody']"})
    await signed(text, ann, bob)
    locally(bob, "[quota]\nconcurrent = 2\ntasks_s = 9")
    rows = {row["rule"]: (row["value"], row["from"]) for row in (await ask(bob.home, "policy.show"))["rules"]}
    mesh, own = "the mesh's policy, version 1", "policy.toml of this node"
    assert (["ann"], mesh) == rows["submit.nodes"]
    assert {(2, own), (9, own)} == {rows["quota.concurrent"], rows["quota.tasks_s"]}


async def test_an_agent_that_starts_follows_what_was_signed_before(tmp_path: Path) -> None:
    """The policy lies with the statements."""
    async with founder(tmp_path / "ann") as ann:
        await ask(ann.node.home, "policy.set", {"text": "[models]\nmax_bytes = 1"})
    keeper = Keeper.open(tmp_path / "ann")
    async with living(tmp_path / "ann", keeper, (), settings("ann")) as again:
        assert 1 == again.node.policing.mesh.version
        assert again.node.policing.rules.models
