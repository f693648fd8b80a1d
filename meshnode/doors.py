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
