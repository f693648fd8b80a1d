"""Settings of the doors to programs of other kinds, all closed until they are asked for. Part of `meshnode.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from meshnode.ranges import Printable, Within

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Http:
    """The Open Inference Protocol, the dashboard and the metrics."""

    listen: str = ""
    """host:port, of which port 0 is any free one; empty keeps the door closed. Use 127.0.0.1 unless other machines are
    to use it: then it speaks TLS only."""
    hosts: tuple[Annotated[str, Printable(255)], ...] = ()
    """Names by which browsers and programs reach this door, beside its addresses and this machine's own name: a
    request for any other name is refused, because a hostile web page can make a name point here."""
    certificate: str = ""
    """A PEM file, with `key`; without them other machines are shown the certificate that the mesh gave this node."""
    key: str = ""
    body_bytes_max: Annotated[int, Within(1024, 2**31)] = 256 * MIB
    """The largest request. It is held in memory."""
    timeout_s: Annotated[float, Within(0.001, 86400)] = 30.0
    """What a request that does not say is given, over gRPC too, where its client names no deadline."""
    tell_nodes: bool = False
    """Answers say which node ran the task, and in how many attempts: who may use this door learns names of machines."""


@dataclass(frozen=True, slots=True)
class Grpc:
    """The Open Inference Protocol over gRPC (extra `grpc`); token, certificate and size limit are those of HTTP."""

    listen: str = ""


@dataclass(frozen=True, slots=True)
class Mqtt:
    """A broker: what the mesh is and does, tasks, and a place where agents find each other."""

    url: str = ""
    """mqtt://[USER@]HOST[:1883], or mqtts:// for TLS (port 8883); empty keeps the door closed."""
    user: str = ""
    password_file: str = ""
    """Relative to the home; only its owner may read it. A password in the URL is refused: command lines are seen."""
    ca: str = ""
    """A PEM file with what the broker's certificate is checked against; empty for the system's."""
    prefix: str = "meshnode"
    """The first level of every topic but Home Assistant's."""
    mesh: str = ""
    """The second level; empty for the mesh's name."""
    discovery_prefix: str = "homeassistant"
    """Where Home Assistant listens for devices; empty to publish none."""
    state: bool = True
    """Publish state and availability."""
    state_s: Annotated[float, Within(1, 86400)] = 30.0
    """How often, beside when nodes come and go."""
    tasks: bool = True
    """Take tasks. Whoever may publish to the broker's topic may then use the mesh: give the broker an ACL."""
    tasks_max: Annotated[int, Within(1, 65535)] = 32
    """Tasks at once; the broker keeps the others."""
    message_bytes_max: Annotated[int, Within(1024, 256 * MIB)] = 8 * MIB
    """The largest message that the broker is to send. It is held in memory, as often as `tasks_max`."""
    rendezvous: bool = True
    """Leave this node's addresses with the broker, readable for members only, and dial those that others left."""
