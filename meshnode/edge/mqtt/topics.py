"""The names of topics, and what an incoming topic means. Pure.

PREFIX/MESH/node/ID/availability    online or offline, retained
PREFIX/MESH/node/ID/state           one node, JSON, retained
PREFIX/MESH/state                   the mesh, JSON, retained
PREFIX/MESH/infer/MODEL             tasks
PREFIX/MESH/answer/…                the only place below PREFIX/MESH where answers may be wanted
PREFIX/TAG/TAG                      sealed, for members: see `sealing`
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from meshnode.errors import InvalidInput
from meshnode.wire.messages import NodeId

TOPIC_BYTES_MAX = 512
SHORT = 16
"""Characters of an id that stand in a topic: 80 bits."""


def segment(text: str) -> str:
    """A text as one level of a topic: nothing that MQTT gives a meaning, nothing that cannot be typed."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "mesh"


@dataclass(frozen=True, slots=True)
class Topics:
    """Those of one mesh.

    Args:
        mesh: the level that names it.
        mesh_id: by which it can be named too.
        discovery: Home Assistant's prefix.
    """

    prefix: str
    mesh: str
    mesh_id: str
    discovery: str

    @property
    def base(self) -> str:
        """What all topics begin with that people read."""
        return f"{self.prefix}/{self.mesh}"

    @property
    def state(self) -> str:
        """The mesh."""
        return f"{self.base}/state"

    def availability(self, node: NodeId) -> str:
        """Whether a node is there."""
        return f"{self.base}/node/{node[:SHORT]}/availability"

    def node_state(self, node: NodeId) -> str:
        """How a node is."""
        return f"{self.base}/node/{node[:SHORT]}/state"

    def device(self, node: NodeId) -> str:
        """Where Home Assistant looks for a node."""
        return f"{self.discovery}/device/meshnode_{node[:SHORT]}/config"

    @property
    def mesh_device(self) -> str:
        """Where Home Assistant looks for the mesh as a whole."""
        return f"{self.discovery}/device/meshnode_mesh_{self.mesh_id[:SHORT]}/config"

    @property
    def bridges(self) -> str:
        """The filter for the availability of all nodes."""
        return f"{self.base}/node/+/availability"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The filters for tasks: each message goes to one of the nodes that subscribe to the same."""
        group = f"$share/meshnode-{self.mesh_id[:SHORT]}"
        names = dict.fromkeys((self.mesh, self.mesh_id[:SHORT]))
        return tuple(f"{group}/{self.prefix}/{name}/infer/+" for name in names)

    def bridge_of(self, topic: str) -> str | None:
        """The short id of the node whose availability this topic tells."""
        head, tail = f"{self.base}/node/", "/availability"
        if topic.startswith(head) and topic.endswith(tail) and len(topic) == len(head) + SHORT + len(tail):
            return topic[len(head) : len(head) + SHORT]
        return None

    def model_of(self, topic: str) -> str | None:
        """The model that a task's topic names."""
        for name in (self.mesh, self.mesh_id[:SHORT]):
            head = f"{self.prefix}/{name}/infer/"
            if topic.startswith(head) and 0 < len(topic) - len(head) <= 128 and "/" not in topic[len(head) :]:
                return topic[len(head) :]
        return None

    def check_answer(self, topic: str) -> None:
        """Raises InvalidInput for a topic that this node will not write to for a stranger.

        The broker may let this node write where it does not let the stranger: into the state of nodes, into the
        devices of Home Assistant, or into the tasks themselves, where an answer would be a task again.
        """
        if not topic or len(topic.encode("utf-8", "replace")) > TOPIC_BYTES_MAX:
            raise InvalidInput(f"a response topic has 1 to {TOPIC_BYTES_MAX} bytes")
        if set(topic) & set("+#\0") or topic.startswith("$"):
            raise InvalidInput(f"{topic[:100]!r} is no topic for answers: it has a wildcard, or begins with $")
        first = topic.split("/", 1)[0]
        own = any(topic.startswith(f"{self.prefix}/{name}/answer/") for name in (self.mesh, self.mesh_id[:SHORT]))
        if (first in (self.prefix, self.discovery) or topic.startswith(f"{self.discovery}/")) and not own:
            raise InvalidInput(
                f"answers are not written to {topic[:100]!r}", hint=f"use {self.base}/answer/… or a prefix of your own"
            )
