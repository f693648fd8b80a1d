"""A member that is nothing but its keys, and comes and goes at an agent's port."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

import meshnode
from meshnode.trust.keeper import Keeper
from meshnode.trust.redeeming import redeem
from tests.mesh.rig import Agent, Rig


def member(it: Rig, agent: Agent) -> Keeper:
    """A member of the agent's mesh, with keys that are right, and no agent."""
    keeper = Keeper.open(it.folder / "evil")
    with meshnode.Client(home=agent.home) as client:
        token = client.ask("invite")["token"]
    keeper.adopt(asyncio.run(redeem(keeper, token, "evil")).membership)
    return keeper


def address(agent: Agent) -> tuple[str, int]:
    """Where it listens."""
    host, _, port = agent.address.rpartition(":")
    return host, int(port)


async def connect(agent: Agent, context: ssl.SSLContext) -> float:
    """The seconds that a connect takes, TLS included; it hangs up without a HELLO."""
    began = time.monotonic()
    _, writer = await asyncio.open_connection(*address(agent), ssl=context)
    took = time.monotonic() - began
    writer.close()
    with suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
    return took


async def come_and_go(agent: Agent, keeper: Keeper, most: int, over: Callable[[], bool]) -> list[float]:
    """Ten times a second, until it is over or was as often as that; how long each connect took."""
    _, context = keeper.contexts()
    took = list[float]()
    while len(took) < most and not over():
        took.append(await connect(agent, context))
        await asyncio.sleep(0.1)
    return took


async def crowd(agent: Agent, keeper: Keeper, count: int, at_once: int) -> list[float]:
    """As fast as it goes; how long each connect took."""
    _, context = keeper.contexts()
    took = list[float]()

    left = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in left:
            took.append(await connect(agent, context))

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return took
