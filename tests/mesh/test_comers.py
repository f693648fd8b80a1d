"""Members that come and go cost an agent no memory."""

from __future__ import annotations

import asyncio

import psutil

from tests.mesh.comers import crowd, member
from tests.mesh.rig import Rig, wait_for

WARM, MORE = 300, 900
GROWTH_MIB = 10.0
"""It was twice as much while each connect left a ring of objects behind."""


def test_memory_does_not_grow_with_connects(mesh_rig: Rig) -> None:
    """As much after a thousand handshakes, 36 at once, as after some hundred."""
    agent = mesh_rig.start("n0")
    keeper = member(mesh_rig, agent)
    process = psutil.Process(agent.process.pid)
    fds = process.num_fds()

    def mib_after(connects: int) -> float:
        asyncio.run(crowd(agent, keeper, connects, 36))
        wait_for(lambda: process.num_fds() <= fds, within_s=30, why="the agent has closed all of them")
        return process.memory_info().rss / (1 << 20)

    try:
        before = mib_after(WARM)
        assert GROWTH_MIB > mib_after(MORE) - before
    finally:
        keeper.close()
