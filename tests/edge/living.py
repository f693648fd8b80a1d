"""Agents that live in the test's own process: real parts, real sockets on loopback, real workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil

from meshnode.agent import Agent, Peers
from meshnode.config import LOOPBACK, MIB, Settings
from meshnode.edge.node import Node
from meshnode.execution.devices import Devices
from meshnode.links.local import connect
from meshnode.trust.keeper import Keeper
from meshnode.trust.redeeming import redeem
from meshnode.wire.messages import Ask
from tests.waiting import until

SMALL = replace(LOOPBACK, execution=replace(LOOPBACK.execution, concurrency=1, arena_bytes=8 * MIB, gpu=False))


def settings(name: str, **fields: Any) -> Settings:
    """One slot, small shared memory, loopback, no multicast."""
    return replace(SMALL, name=name, **fields)


def workers(home: Path | None = None) -> list[psutil.Process]:
    """Worker processes of agents in this process; of one home, when it is named."""
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            here = home is None or Path(process.cwd()).is_relative_to(home)
            if here and "meshnode.execution.confined" in " ".join(process.cmdline()):
                found.append(process)
    return found


@asynccontextmanager
async def living(home: Path, keeper: Keeper, peers: Peers, given: Settings) -> AsyncIterator[Agent]:
    """An agent of a home, until the end of the block; the keeper is closed with it."""
    agent = Agent(home, given, keeper, Devices(cores=1, memory_total=psutil.virtual_memory().total), asyncio.Event())
    try:
        await agent.start(peers)
        yield agent
    finally:
        await agent.stop()
        keeper.close()


@asynccontextmanager
async def founder(home: Path, name: str = "ann", **fields: Any) -> AsyncIterator[Agent]:
    """The agent of a mesh of one."""
    keeper = Keeper.open(home)
    keeper.life_s = settings(name, **fields).trust.valid_days * 86400
    keeper.found("mesh", name, fields.get("zone", ""))
    async with living(home, keeper, (), settings(name, **fields)) as agent:
        yield agent


@asynccontextmanager
async def joiner(
    home: Path, inviter: Node, name: str = "bob", *, role: str | None = None, zone: str | None = None, **fields: Any
) -> AsyncIterator[Agent]:
    """An agent that joined with a token of another; both see each other alive and usable."""
    keeper = Keeper.open(home)
    roles = None if role is None else role.split(",")
    token = await inviter.inviter.invite(expires_s=60, roles=roles, zones=(zone,) if zone else ())
    joined = await redeem(keeper, token, name)
    keeper.adopt(joined.membership)
    async with living(home, keeper, joined.peers, settings(name, **fields)) as agent:
        await until(lambda: sees(inviter, agent.node) and sees(agent.node, inviter), "both see each other")
        yield agent


@asynccontextmanager
async def trio(folder: Path) -> AsyncIterator[tuple[Node, Node, Node]]:
    """Ann, bob and cat, who all see each other; no worker of theirs is left behind."""
    async with (
        founder(folder / "ann") as ann,
        joiner(folder / "bob", ann.node) as bob,
        joiner(folder / "cat", ann.node, "cat") as cat,
    ):
        await until(lambda: sees(bob.node, cat.node) and sees(cat.node, bob.node), "all see each other")
        yield ann.node, bob.node, cat.node
    assert [] == workers()


def sees(node: Node, other: Node) -> bool:
    """Whether one would give work to the other: it has a link and the advert."""
    member = node.membership.member(other.keeper.id)
    return member is not None and member.usable and member.path == "direct"


async def ask(home: Path, verb: str, args: dict[str, Any] | None = None) -> Any:
    """What a local client is answered, through the socket; raises the agent's error."""
    link = await connect(home, SMALL.links)
    try:
        received = await link.call(Ask(verb=verb, args=args or {}), timeout_s=30.0)
        return msgspec.json.decode(bytes(received.body))
    finally:
        await link.close()
