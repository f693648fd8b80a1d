"""Members that come and go cost an agent no memory."""

from __future__ import annotations

import asyncio

import psutil

from tests.mesh.comers import crowd, member
from tests.mesh.rig import Rig

WARM, MORE = 300, 900
GROWTH_MIB = 10.0
"""It was twice as much while each connect left a ring of objects behind."""


def test_memory_does_not_grow_with_connects(mesh_rig: Rig) -> None:
    """As much after a thousand handshakes, 36 at once, as after some hundred."""
    agent = mesh_rig.start("n0")
    keeper = member(mesh_rig, agent)
    process = psutil.Process(agent.process.pid)
    try:
        asyncio.run(crowd(agent, keeper, WARM, 36))
        before = process.memory_info().rss
        asyncio.run(crowd(agent, keeper, MORE, 36))
        assert GROWTH_MIB > (process.memory_info().rss - before) / (1 << 20)
    finally:
        keeper.close()
