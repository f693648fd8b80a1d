"""The lives of an agent in one process: take the home, belong to a mesh, run, and begin anew after a join."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshnode import collecting, heap
from meshnode.agent import Agent
from meshnode.config import Settings
from meshnode.edge.supervised import Manager
from meshnode.execution.devices import Devices
from meshnode.membership.belonging import Peers, belong
from meshnode.trust.keeper import Keeper

log = logging.getLogger(__name__)

GIVE_UP_S = 2.0
"""Who is told to stop while it joins does not look for members any longer; an exchange that is under way ends well."""
Announce = Callable[[dict[str, Any]], None]
GIVE_BACK_S = 30.0
"""So often what is free of our memory goes back: the next large tensor after it costs what fresh pages cost."""


async def run(home: Path, settings: Settings, *, token: str | None, announce: Announce, anew: bool = False) -> None:
    """Run the agent of a home until it is told to stop.

    `anew`: found a mesh in the place of one that was lost. `announce` gets one map an event, `{"event": "ready", …}`
    first. Raises HomeError, ConfigError, TokenRefused, PermissionDenied, PeerLost when it cannot begin.
    """
    manager = Manager.of(os.environ)
    beating = asyncio.ensure_future(manager.beat())
    heap.keep_warm()  # before there are threads
    keeper = await asyncio.to_thread(Keeper.open, home)
    devices = asyncio.ensure_future(asyncio.to_thread(Devices.probe))
    giving_back = asyncio.ensure_future(_give_back())
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        belonging = asyncio.ensure_future(belong(keeper, settings, token, anew=anew))
        if not await _unless(stopping, belonging):
            return
        peers = belonging.result()
        while not stopping.is_set():
            agent = Agent(home, settings, keeper, await devices, stopping)
            try:
                with collecting.loading():
                    await agent.start(peers)
                collecting.settle()
                announce(agent.ready())
                manager.up(f"in the mesh {agent.ready()['mesh_name']}")
                await agent.ended()
                (manager.stopping if stopping.is_set() else manager.begins_anew)()
            finally:
                await agent.stop()
            peers = agent.joined
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        giving_back.cancel()
        beating.cancel()
        # Not left behind: OpenBLAS never returns from a fork while another thread computes with it.
        await asyncio.wait({devices})
        keeper.close()


async def _unless(stopping: asyncio.Event, work: asyncio.Future[Peers]) -> bool:
    """Wait for it. False when the agent was told to stop first, and it did not end soon after."""
    stop = asyncio.ensure_future(stopping.wait())
    waits: set[asyncio.Future[Any]] = {work, stop}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await asyncio.wait({work}, timeout=GIVE_UP_S)
    finally:
        stop.cancel()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    return not work.cancelled()


async def _give_back() -> None:
    while True:
        await asyncio.sleep(GIVE_BACK_S)
        heap.give_back()
