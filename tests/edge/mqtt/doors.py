"""The MQTT door of an agent in this process."""

from __future__ import annotations

from meshnode.agent import Agent
from meshnode.edge.mqtt.bridge import Bridge
from tests.waiting import until


def bridge_of(agent: Agent) -> Bridge:
    """Of an agent that has the door."""
    (door,) = (it for it in agent._doors._open if isinstance(it, Bridge))
    return door


async def serving(agent: Agent) -> Bridge:
    """The door, once it is connected and subscribed."""
    bridge = bridge_of(agent)
    await until(lambda: bridge.serving, "the agent serves the broker")
    return bridge
