"""This software beside the release before it: what is new is not sent to the old one, and what is sent it survives.

The suites with every other agent of it are `scripts/mixed`; the update of a mesh under load is promise P25.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import meshnode
from meshnode.errors import MeshError
from meshnode.trust.keeper import Keeper
from meshnode.trust.redeeming import redeem
from meshnode.version import __version__
from meshnode.wire.messages import AdminKeyAsk, NodeId, RenewAsk, RotateAsk, StreamPing
from tests.edge.living import living, settings
from tests.mesh.rig import MODELS, Agent, Rig, rig, wait_for
from tests.mixed import previous
from tests.waiting import until

pytestmark = pytest.mark.skipif(bool(previous.unavailable()), reason=previous.unavailable() or "it can run here")


def test_the_release_that_is_built_is_the_one_that_is_named() -> None:
    """The wheel of the commit says the version that stands beside it, and is not of this checkout."""
    done = subprocess.run([*previous.command(), "--version"], capture_output=True, text=True)
    assert f"meshnode {previous.VERSION}\n" == done.stdout
    where = "import meshnode; print(meshnode.__file__)"
    done = subprocess.run([previous.python(), "-P", "-c", where], capture_output=True, text=True)
    assert "previous" in done.stdout
    assert previous.VERSION != __version__


@pytest.fixture(scope="module")
def old_founder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, Agent, Agent]]:
    """A founder of the old release with the echo model, and a member of this one."""
    with rig(tmp_path_factory.mktemp("old")) as it:
        it.programs = {"n0": previous.command()}
        founder, member = it.mesh(2)
        founder.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
        wait_for(member.status, within_s=10, why="it answers")
        yield it, founder, member


@pytest.fixture(scope="module")
def new_founder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Agent, Agent, Agent]]:
    """A founder and a member of this release, and one of the old."""
    with rig(tmp_path_factory.mktemp("new")) as it:
        it.programs = {"n2": previous.command()}
        first, second, third = it.mesh(3)
        first.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
        yield first, second, third


def test_an_admin_of_the_old_release_is_asked_for_no_renewal(old_founder: tuple[Rig, Agent, Agent]) -> None:
    """Who is due hears that the admin's software renews nobody and has to be updated; the link is whole."""
    _, founder, member = old_founder
    said = " ".join(member.command("renew", check=None).stderr.split())
    assert f"runs meshnode {previous.VERSION}, which renews nobody's membership" in said
    assert "update n0" in said
    assert "not a valid request" not in founder.log() + member.log()


async def test_what_an_old_node_does_not_know_it_refuses_and_nothing_else(
    old_founder: tuple[Rig, Agent, Agent], tmp_path: Path
) -> None:
    """Each of the new requests is answered by an error, and the link on which it came lives on."""
    _, old, _ = old_founder
    keeper = Keeper.open(tmp_path / "raw")
    token = (await asyncio.to_thread(old.json, "invite"))["token"]
    joined = await redeem(keeper, token, "raw")
    keeper.adopt(joined.membership)
    async with living(tmp_path / "raw", keeper, joined.peers, settings("raw")) as agent:
        await until(lambda: (m := agent.node.membership.member(NodeId(old.id))) and m.usable, "it is seen")
        link = agent.node.pool.get(NodeId(old.id))
        assert link is not None
        assert f"meshnode/{previous.VERSION}" == link.peer.software
        for request in (
            RenewAsk(key=keeper.spki),
            RotateAsk(key=keeper.spki, new=keeper.spki, by_old=bytes(64), by_new=bytes(64)),
            AdminKeyAsk(),
        ):
            with pytest.raises(MeshError, match="not a valid request"):
                await link.call(request, timeout_s=10.0)
        await link.call(StreamPing(), timeout_s=10.0)
        assert link is agent.node.pool.get(NodeId(old.id))


def test_no_admin_is_removed_past_a_node_that_would_misread_it(new_founder: tuple[Agent, Agent, Agent]) -> None:
    """It drops what a removed admin had signed: removing and replacing a key waits for it, or is done anyway."""
    first, second, third = new_founder
    refused = first.command("admin", "add", third.home.name, check=None)
    assert "can hold no admin key but a founder's" in " ".join(refused.stderr.split())
    first.command("admin", "add", second.home.name)
    wait_for(lambda: len(second.json("admin", "list")["admins"]) == 2 or None, within_s=20, why="two admins")
    for words in (("admin", "remove", second.home.name, "--yes"), ("admin", "rotate", "--yes")):
        refused = first.command(*words, check=None)
        assert refused.returncode != 0
        said = " ".join(refused.stderr.split())
        assert f"{third.home.name} (meshnode {previous.VERSION}): drops all that a removed admin had signed" in said
        assert "--anyway" in said
    first.command("admin", "remove", second.home.name, "--yes", "--anyway")
    assert 1 == len(first.json("admin", "list")["admins"])
    for agent in new_founder:
        wait_for(lambda agent=agent: len(alive(agent)) == 3, within_s=20, why="all see all")  # type: ignore[misc]


def alive(agent: Agent) -> list[str]:
    """Whom it holds alive."""
    return [node for node, state in agent.states().items() if state == "alive"]


def test_grants_of_the_new_release_hold_for_the_old_one(new_founder: tuple[Agent, Agent, Agent]) -> None:
    """One with an end that is not put off, and one of a node that goes on with another key: tasks pass both ways."""
    first, second, third = new_founder
    first.command("renew", third.home.name, "--for", "90d")
    was = second.id
    now = second.json("rotate", "--yes")["id"]
    wait_for(lambda: now in alive(third), within_s=30, why="the old one sees the node under its new id")
    rows = {row["id"]: row for row in third.json("members")}
    assert rows[was]["revoked"]
    assert not rows[now]["revoked"]
    assert not rows[third.id]["revoked"]
    values = first.home / "x.json"
    values.write_text("[[1, 2, 3]]")
    for asked, node in ((third, now), (second, third.id), (third, first.id)):
        wait_for(lambda asked=asked: asked.status()["models"], within_s=20, why="the model is known")  # type: ignore[misc]
        done = asked.json("run", "echo", str(values), "--node", node)
        assert (node, [[1.0, 2.0, 3.0]]) == (done["node"], done["outputs"]["y"])


ASKS = """
import json, sys
import numpy as np
import meshnode
from meshnode.version import __version__
with meshnode.Client(home=sys.argv[1]) as client:
    result = client.infer("echo", {"x": np.full((1, 4), 7, np.float32)}, timeout=60)
    print(json.dumps([__version__, result["y"].tolist(), len(client.status()["nodes"])]))
"""


def test_programs_of_one_release_use_agents_of_the_other(old_founder: tuple[Rig, Agent, Agent]) -> None:
    """An agent is restarted as another version while the programs beside it still hold the library that they loaded."""
    _, old, new = old_founder
    wait_for(lambda: new.status()["models"], within_s=20, why="the model is known")
    for python, version, agent in ((previous.python(), previous.VERSION, new), (sys.executable, __version__, old)):
        done = subprocess.run([python, "-P", "-c", ASKS, str(agent.home)], capture_output=True, text=True, timeout=60)
        assert 0 == done.returncode, done.stderr
        said, answer, nodes = json.loads(done.stdout)
        assert (version, [[7.0] * 4]) == (said, answer)
        assert nodes >= 2


def test_the_old_release_goes_on_with_a_home_that_this_one_wrote(old_founder: tuple[Rig, Agent, Agent]) -> None:
    """Forth and back on one home: same node, same mesh, same models."""
    it, founder, _ = old_founder
    address = founder.address
    for program in ((), previous.command()):
        assert 0 == founder.terminate()
        it.programs = {"n0": program} if program else {}
        again = it.start("n0", listen=address)
        assert founder.id == again.id
        assert founder.ready["mesh"] == again.ready["mesh"]
        with meshnode.Client(home=again.home) as client:
            assert ["echo"] == [model["name"] for model in client.models()]
        founder = again
