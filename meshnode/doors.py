"""Settings of the doors to programs of other kinds, all closed until they are asked for. Part of `meshnode.config`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
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


class Layout(StrEnum):
    """How a detector says what it found."""

    YOLO = "yolo"
    """[1, 4 + classes, N] or turned round: centre, size and a score for each class (YOLOv8, v9, v11 as exported)."""
    ROWS = "rows"
    """[1, N, 6]: x1, y1, x2, y2, score, class (exported with `nms`, or YOLOv10)."""
    FRIGATE = "frigate"
    """[20, 6]: class, score, y1, x1, y2, x2 as shares of the picture, as Frigate itself has them."""


class Units(StrEnum):
    """What a detector's boxes are measured in."""

    PIXELS = "pixels"
    """Of the model's input."""
    SHARES = "shares"
    """Of its height and width, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Frigate:
    """The detector of a Frigate network video recorder, by its `zmq` protocol (extra `frigate`).

    The protocol has no token: who reaches the door can have pictures judged by `model`, and nothing else.
    """

    listen: str = ""
    """tcp://127.0.0.1:5555, or ipc:///path/of/a/socket, which only this user and root can open."""
    model: str = ""
    """The detector's name in the mesh."""
    layout: Layout = Layout.YOLO
    """yolo, rows or frigate."""
    units: Units = Units.PIXELS
    """pixels or shares."""
    output: str = ""
    """The name of the output to read, where the model has several."""
    threshold: Annotated[float, Within(0, 1)] = 0.4
    """What scores less is left out. Frigate's own filters come after it."""
    overlap: Annotated[float, Within(0, 1)] = 0.45
    """Of two boxes of one class that share more than this, the better one stays (yolo)."""
    answer_s: Annotated[float, Within(0.01, 10)] = 0.2
    """A frame is answered within this time or not at all: Frigate's `request_timeout_ms`."""
    zone: Annotated[str, Printable(64)] = ""
    """Frames go only to nodes of this zone."""
    frame_bytes_max: Annotated[int, Within(1024, 2**31)] = 32 * MIB
    upload_bytes_max: Annotated[int, Within(0, 2**31)] = 0
    """Frigate may bring the model itself, up to this size, while the mesh has none of that name; 0 = it may not."""
    curve_clients: tuple[Annotated[str, Printable(40)], ...] = ()
    """Public CURVE keys (Z85) of those who may come in: with them, nobody else does. The door's own is in the log."""
    unprotected: bool = False
    """Listen on an address that other machines reach, without CURVE, which Frigate does not speak."""
