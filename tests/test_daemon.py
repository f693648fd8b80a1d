"""The lives of an agent in one process: begin, join, begin anew, leave; and every home that it must not touch."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from meshnode import daemon
from meshnode.config import Settings
from meshnode.errors import AgentUnavailable, HomeError, ListenError, MeshError, PermissionDenied, TokenRefused
from meshnode.membership import arriving
from meshnode.membership.remembered import packed_peers
from meshnode.trust.files import read_checked, write_checked
from meshnode.trust.keeper import Keeper, Membership
from meshnode.wire.messages import NodeId
from tests.edge.living import ask, founder, settings, workers
from tests.waiting import until


class Run:
    """`daemon.run` under way, and what it announced."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.events: list[dict[str, Any]] = []
        self.task: asyncio.Task[None] | None = None

    def start(self, token: str | None, given: Settings, *, anew: bool = False) -> None:
        work = daemon.run(self.home, given, token=token, announce=self.events.append, anew=anew)
        self.task = asyncio.ensure_future(work)

    async def ready(self, lives: int = 1) -> dict[str, Any]:
        """The announcement of a life; raises what ended the agent before."""
        assert self.task is not None
        await until(lambda: len(self.events) >= lives or self.task.done(), "it is ready")  # type: ignore[union-attr]
        if self.task.done():
            self.task.result()
        return self.events[lives - 1]

    async def stop(self) -> None:
        """As a user would, when it still runs."""
        assert self.task is not None
        if not self.task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(30):
            await self.task


@asynccontextmanager
async def up(home: Path, token: str | None = None, **fields: Any) -> AsyncIterator[Run]:
    """An agent that is ready; stopped by a signal at the end."""
    it = Run(home)
    it.start(token, settings(home.name, **fields))
    try:
        await it.ready()
        yield it
    finally:
        await it.stop()
    assert [] == workers(home)


async def refused(home: Path, token: str | None = None, **fields: Any) -> MeshError:
    """The error with which an agent does not begin; nothing of it may be left."""
    it = Run(home)
    it.start(token, settings(home.name, **fields))
    assert it.task is not None
    async with asyncio.timeout(30):
        (error,) = await asyncio.gather(it.task, return_exceptions=True)
    assert isinstance(error, MeshError), error
    assert [] == it.events
    assert [] == workers(home)
    with pytest.raises(AgentUnavailable):
        await ask(home, "version")
    return error


def files(home: Path) -> dict[str, bytes]:
    """What a home keeps that must not change by a refusal; `boot` counts every start."""
    kept = ("node.key", "admin.key", "trust", "invites")
    return {name: (home / name).read_bytes() for name in kept if (home / name).exists()}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


# --- beginning ---


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
async def test_memory_that_is_free_goes_back_while_an_agent_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 MB in small blocks one in ten stays in use; the pages between them go back by themselves."""
    monkeypatch.setattr(daemon, "GIVE_BACK_S", 0.05)
    resident = psutil.Process().memory_info
    blocks = [np.ones(100_000, np.uint8) for _ in range(400)]
    full = resident().rss
    async with up(tmp_path / "ann"):
        kept = blocks[::10]
        blocks.clear()
        await until(lambda: resident().rss < full - 20_000_000, "the memory is back")
    assert 40 == len(kept)


async def test_a_first_start_makes_a_mesh_of_one(tmp_path: Path) -> None:
    """It announces who and where it is; a second start is the same node in the same mesh, with a higher count."""
    home = tmp_path / "ann"
    async with up(home) as first:
        (ready,) = first.events
        assert ("ready", "ann", "ann's mesh") == (ready["event"], ready["name"], ready["mesh_name"])
        assert (None, None) == (ready["http"], ready["grpc"])
        version = await ask(home, "version")
        assert ready["id"] == version["id"]
        host, _, port = ready["listen"].rpartition(":")
        with socket.create_connection((host, int(port)), 10):
            pass
    assert 0o700 == home.stat().st_mode & 0o777
    assert not (home / "agent.sock").exists()
    async with up(home) as second:
        assert [(ready["id"], ready["mesh"])] == [(r["id"], r["mesh"]) for r in second.events]


async def test_the_stop_verb_ends_it(tmp_path: Path) -> None:
    """The answer comes, then the agent ends by itself, and the home is free."""
    async with up(tmp_path / "ann") as it:
        assert {} == await ask(it.home, "stop")
        assert it.task is not None
        async with asyncio.timeout(30):
            await it.task
    Keeper.open(it.home).close()


async def test_signals_are_given_back(tmp_path: Path) -> None:
    """A program that ran an agent has its own handlers again."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with up(tmp_path / "ann"):
        pass
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert [signal.SIG_DFL, signal.default_int_handler] == after or before == after


# --- homes that it does not touch ---


async def test_a_second_agent_on_a_home_is_refused(tmp_path: Path) -> None:
    """HomeError names the process that has it; the first goes on, its socket too."""
    async with up(tmp_path / "ann") as first:
        second = Run(first.home)
        second.start(None, settings("ann"))
        assert second.task is not None
        with pytest.raises(HomeError, match=str(os.getpid())):
            await second.task
        assert first.events[0]["id"] == (await ask(first.home, "version"))["id"]


@pytest.mark.parametrize("name", ["node.key", "trust"])
async def test_a_damaged_home_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    """No new key and no new mesh in its place: the error names the file and the way out, each time."""
    home = tmp_path / "ann"
    async with up(home):
        pass
    damage(home / name)
    before = files(home)
    for _ in range(2):
        error = await refused(home)
        assert isinstance(error, HomeError)
        assert name in str(error)
        assert error.hint
    assert before == files(home)


async def test_an_empty_key_is_no_reason_for_a_new_one(tmp_path: Path) -> None:
    """A disk that was full once must not cost a node its identity unnoticed."""
    home = tmp_path / "ann"
    async with up(home):
        pass
    (home / "node.key").write_bytes(b"")
    assert isinstance(await refused(home), HomeError)
    assert b"" == (home / "node.key").read_bytes()


async def test_a_lost_mesh_is_not_replaced_unnoticed(tmp_path: Path) -> None:
    """`trust` is gone and the key is there: refused, and nothing changed, until it is said what shall become of it."""
    home = tmp_path / "ann"
    async with up(home) as first:
        old = first.events[0]
    (home / "trust").unlink()
    before = files(home)
    for _ in range(2):
        error = await refused(home)
        assert isinstance(error, HomeError)
        assert "meshnode up TOKEN" in error.hint
        assert "meshnode up --new-mesh" in error.hint
    assert before == files(home)
    it = Run(home)
    it.start(None, settings("ann"), anew=True)
    new = await it.ready()
    await it.stop()
    assert (True, True) == (old["id"] != new["id"], old["mesh"] != new["mesh"])
    assert {"node.key", "admin.key"} == {path.name.partition(".lost")[0] for path in home.glob("*.lost-1")}
    it = Run(home)
    it.start(None, settings("ann"), anew=True)  # the same words again: there is a mesh now, and it stays
    assert new["mesh"] == (await it.ready())["mesh"]
    await it.stop()


async def test_a_lost_mesh_is_joined_again_with_a_token(tmp_path: Path) -> None:
    """The machine keeps its id, so that nobody has to be revoked."""
    async with founder(tmp_path / "ann") as ann:
        async with up(tmp_path / "bob", (await ask(ann.node.home, "invite"))["token"]) as bob:
            old = bob.events[0]
        (tmp_path / "bob" / "trust").unlink()
        assert isinstance(await refused(tmp_path / "bob"), HomeError)
        async with up(tmp_path / "bob", (await ask(ann.node.home, "invite"))["token"]) as bob:
            assert (old["id"], old["mesh"]) == (bob.events[0]["id"], bob.events[0]["mesh"])


async def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    """The address is in the error, and the home is free again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        error = await refused(tmp_path / "ann", listen=listen)
    assert isinstance(error, ListenError)
    assert listen in str(error)
    Keeper.open(tmp_path / "ann").close()


# --- joining ---


async def test_a_token_joins_at_the_first_start(tmp_path: Path) -> None:
    """And at the next start the same words do no harm: the old token is known to be one of this mesh."""
    async with founder(tmp_path / "ann") as ann:
        token = (await ask(ann.node.home, "invite"))["token"]
        mesh = ann.node.keeper.statements.mesh_id
        for _ in range(2):
            async with up(tmp_path / "bob", token) as bob:
                assert mesh == bob.events[0]["mesh"]
                await until(lambda: _sees(ann, bob.events[0]["id"]), "ann sees bob")


async def test_a_machine_that_finds_no_member_stops_when_it_is_told_to(tmp_path: Path) -> None:
    """It looks for half a minute; a service manager does not wait for that. The home is in no mesh, and unlocked."""
    async with founder(tmp_path / "ann") as ann:
        token = (await ask(ann.node.home, "invite", {"uses": 3}))["token"]
    run = Run(tmp_path / "bob")
    run.start(token, settings("bob"))
    await until(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "it listens to signals")
    began = asyncio.get_running_loop().time()
    await run.stop()

    assert [] == run.events
    assert asyncio.get_running_loop().time() - began < arriving.LOOK_S / 2
    assert not (run.home / "trust").exists()
    Keeper.open(run.home).close()


def _sees(agent: Any, node: str) -> bool:
    member = agent.node.membership.member(node)
    return member is not None and bool(member.usable)


async def test_a_running_agent_begins_anew_after_a_join(tmp_path: Path) -> None:
    """`join` ends the life in the mesh of one: a second `ready` with the same id and the other mesh."""
    async with founder(tmp_path / "ann") as ann, up(tmp_path / "bob") as bob:
        token = (await ask(ann.node.home, "invite"))["token"]
        assert {"mesh": "mesh"} == await ask(bob.home, "join", {"token": token})
        second = await bob.ready(2)
        assert bob.events[0]["id"] == second["id"]
        assert ann.node.keeper.statements.mesh_id == second["mesh"]
        await until(lambda: _sees(ann, second["id"]), "ann sees bob")
        assert not (bob.home / "admin.key").exists(), "it is no admin any more"


async def test_a_member_of_one_mesh_does_not_join_another(tmp_path: Path) -> None:
    """Not by a word on the command line: it leaves first. The token stays good for whoever it was meant for."""
    async with founder(tmp_path / "ann") as ann, founder(tmp_path / "cat", "cat") as cat:
        token = (await ask(ann.node.home, "invite"))["token"]
        other = (await ask(cat.node.home, "invite"))["token"]
        async with up(tmp_path / "bob", token):
            pass
        before = files(tmp_path / "bob")
        error = await refused(tmp_path / "bob", other)
        assert isinstance(error, PermissionDenied)
        assert "already in the mesh" in str(error)
        assert "meshnode leave" in error.hint
        assert before == files(tmp_path / "bob")
        async with up(tmp_path / "dan", other) as dan:
            assert cat.node.keeper.statements.mesh_id == dan.events[0]["mesh"]


@pytest.mark.parametrize("first", [True, False], ids=["new home", "mesh of one"])
@pytest.mark.parametrize("spoil", [lambda t: t[:-7], lambda t: t[:30] + "11" + t[32:], lambda t: "hello", lambda t: ""])
async def test_a_bad_token_begins_nothing(tmp_path: Path, spoil: Callable[[str], str], first: bool) -> None:
    """Cut, damaged, or no token: said at once, also where the agent could start in its own mesh of one."""
    home = tmp_path / "bob"
    async with founder(tmp_path / "ann") as ann:
        token = (await ask(ann.node.home, "invite"))["token"]
        if not first:
            async with up(home):
                pass
        before = files(home) if home.exists() else {}
        assert isinstance(await refused(home, spoil(token)), TokenRefused)
        assert before == {name: data for name, data in files(home).items() if not first or name != "node.key"}
        async with up(home, token) as bob:
            assert ann.node.keeper.statements.mesh_id == bob.events[0]["mesh"]


# --- leaving ---


async def test_leaving_puts_the_mesh_away_and_keeps_the_models(tmp_path: Path) -> None:
    """The next start is another node in a new mesh of one; the old keys lie aside and models stay on the disk."""
    home = tmp_path / "ann"
    async with up(home) as first:
        old = first.events[0]
        assert {} == await ask(home, "leave")
        assert first.task is not None
        async with asyncio.timeout(30):
            await first.task
    assert {} == files(home)
    assert (home / "models").is_dir()
    assert [] == [path.name for path in home.glob("*.sock")]
    aside = {path.name.partition(".left")[0] for path in home.glob("*.left*")}
    assert {"node.key", "admin.key", "trust"} <= aside
    async with up(home) as second:
        assert old["id"] != second.events[0]["id"]
        assert old["mesh"] != second.events[0]["mesh"]


async def test_who_left_may_join_again_with_a_new_token(tmp_path: Path) -> None:
    """As a new node; the old one stays out for good and is shown as gone."""
    async with founder(tmp_path / "ann") as ann:
        for _ in range(2):
            token = (await ask(ann.node.home, "invite"))["token"]
            async with up(tmp_path / "bob", token) as bob:
                await until(lambda: _sees(ann, bob.events[0]["id"]), "ann sees bob")
                await ask(bob.home, "leave")
                await until(lambda: not _sees(ann, bob.events[0]["id"]), "ann has heard it")
        rows = await ask(ann.node.home, "members")
        assert [True, True] == [row["revoked"] for row in rows if row["name"] == "bob"]


async def test_the_peers_of_a_mesh_that_was_left_are_not_remembered(tmp_path: Path) -> None:
    """After `leave` there is no file of them; after `join` it names those of the new mesh only, running or not."""
    bob, cat = tmp_path / "bob", tmp_path / "cat"
    cat.mkdir()
    write_checked(cat / "peers", packed_peers([(NodeId("stranger"), [("127.0.0.1", 9)])]))
    async with founder(tmp_path / "ann") as ann:
        tokens = [(await ask(ann.node.home, "invite"))["token"] for _ in range(2)]
        async with up(bob, tokens[0]) as first:
            await until((bob / "peers").exists, "ann is remembered")
            await ask(bob, "leave")
            assert first.task is not None
            async with asyncio.timeout(30):
                await first.task
        assert not (bob / "peers").exists()
        async with up(cat) as second:
            await ask(cat, "join", {"token": tokens[1]})
            await second.ready(2)
            await until(lambda: _sees(ann, second.events[1]["id"]), "ann sees cat")
        written = read_checked(cat / "peers")
        assert written is not None
        assert (True, False) == (ann.node.keeper.id.encode() in written, b"stranger" in written)


async def test_a_revoked_machine_is_told_and_joins_anew_with_a_new_token(tmp_path: Path) -> None:
    """`up` says that it is out; a bad token changes nothing; a good one makes a new node, with the old keys aside."""
    home = tmp_path / "bob"
    async with founder(tmp_path / "ann") as ann:
        token = (await ask(ann.node.home, "invite"))["token"]
        async with up(home, token) as bob:
            old = bob.events[0]["id"]
            await until(lambda: _sees(ann, old), "ann sees bob")
            member = files(home)
            await ask(ann.node.home, "revoke", {"node": old, "reason": "lost"})
            await until(lambda: files(home) != member, "bob has written the revocation down")
        before = files(home)
        error = await refused(home)
        assert ("revoked", "this node was revoked: lost") == (error.code, str(error))
        assert "meshnode up TOKEN" in error.hint
        for bad in ("hello", token):  # the second is used up
            assert isinstance(await refused(home, bad), TokenRefused)
        assert before == files(home)
        async with up(home, (await ask(ann.node.home, "invite"))["token"]) as again:
            new = again.events[0]["id"]
            await until(lambda: _sees(ann, new), "ann sees the new node")
            assert old != new
        aside = {path.name.partition(".revoked")[0] for path in home.glob("*.revoked*")}
        assert {"node.key", "trust"} == aside


async def test_a_revoked_machine_whose_agent_runs_joins_anew(tmp_path: Path) -> None:
    """`join TOKEN` does without a restart by hand what `up TOKEN` does."""
    async with founder(tmp_path / "ann") as ann:
        token = (await ask(ann.node.home, "invite"))["token"]
        async with up(tmp_path / "bob", token) as bob:
            old = bob.events[0]["id"]
            await until(lambda: _sees(ann, old), "ann sees bob")
            member = files(bob.home)
            await ask(ann.node.home, "revoke", {"node": old})
            await until(lambda: files(bob.home) != member, "bob has learnt it")
            await ask(bob.home, "join", {"token": (await ask(ann.node.home, "invite"))["token"]})
            assert old != (await bob.ready(lives=2))["id"]
            await until(lambda: _sees(ann, bob.events[1]["id"]), "ann sees the new node")


async def test_two_that_leave_at_once_can_both_start_again(tmp_path: Path) -> None:
    """What peers say between a node's goodbye and its end is not written into the home that has no mesh any more."""
    ann, bob = Keeper.open(tmp_path / "ann"), Keeper.open(tmp_path / "bob")
    ann.found("mesh", "ann")
    leaf, _ = ann.admit(bob.spki, "bob", ("worker",), ())
    statements = tuple(data for _, data in ann.statements.items())
    bob.adopt(Membership(leaf, statements, ann.statements.mesh_id))
    goodbyes = {keeper: keeper.leave() for keeper in (ann, bob)}
    assert [goodbyes[bob]] == ann.merge([goodbyes[bob].data])
    assert [goodbyes[ann]] == bob.merge([goodbyes[ann].data])
    for keeper in (ann, bob):
        keeper.close()
        assert {} == files(keeper.home)
        async with up(keeper.home) as again:
            assert keeper.id != again.events[0]["id"]


async def test_an_agent_without_a_name_has_its_hosts(tmp_path: Path) -> None:
    """An empty name is not shown to people."""
    it = Run(tmp_path / "ann")
    it.start(None, replace(settings("x"), name=""))
    try:
        assert socket.gethostname().partition(".")[0][:128] == (await it.ready())["name"]
    finally:
        await it.stop()
