"""What an agent and its worker say to each other: small messages on a socket pair that keeps their boundaries.

Tensors lie in shared memory, or in the message itself when they are small; a message that refers to a memory file of
its own carries the file descriptor. Lengths that come from a worker are checked like a stranger's.
"""

from __future__ import annotations

import array
import os
import socket
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshnode.errors import ProtocolError
from meshnode.wire.messages import TensorSpec
from meshnode.wire.terms import UNREADABLE

INLINE_BYTES = 16 * 1024
"""Bodies up to this size travel in the message."""
MESSAGE_BYTES_MAX = 192 * 1024
KIND = socket.SOCK_SEQPACKET if hasattr(os, "memfd_create") else socket.SOCK_DGRAM
"""Message boundaries are kept; macOS has no SEQPACKET for Unix sockets."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a body is: `offset` in the arena, or -1 for a memory file that comes with the message."""

    offset: int
    nbytes: int


class TensorInfo(msgspec.Struct, frozen=True, array_like=True):
    """An input or output as the model declares it: a dim is a number, a name, or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Said(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    """The base of the messages."""


class Run(Said, frozen=True, tag="run"):
    """Run a model that lies at `path`, loading it first when need be. `free` are outbound blocks that were read.

    `rows`: the inputs are those of several tasks, one after the other, with so many rows each. `wide`: on all threads,
    when the model is loaded for that.
    """

    id: int
    digest: str
    path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...] = ()
    body: bytes = b""
    place: Place | None = None
    free: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    wide: bool = False


class Load(Said, frozen=True, tag="load"):
    """Load a model and keep it."""

    id: int
    digest: str
    path: str


class Probe(Said, frozen=True, tag="probe"):
    """Load a model, describe it, run it on zeros for at most `run_s`, and forget it."""

    id: int
    path: str
    run_s: float


class Prove(Said, frozen=True, tag="prove"):
    """Find out within `limit_s` whether tasks whose inputs look like these may run as one."""

    id: int
    digest: str
    path: str
    inputs: tuple[TensorSpec, ...]
    limit_s: float


class Widen(Said, frozen=True, tag="widen"):
    """Find out within `limit_s` what a run on all threads takes, with inputs that look like these."""

    id: int
    digest: str
    path: str
    inputs: tuple[TensorSpec, ...]
    limit_s: float


class Unload(Said, frozen=True, tag="unload"):
    """Forget a model."""

    id: int
    digest: str


class Terminate(Said, frozen=True, tag="terminate"):
    """Stop the run with this id as soon as the model's next node ends."""

    id: int


class Free(Said, frozen=True, tag="free"):
    """Outbound blocks that were read."""

    offsets: tuple[int, ...]


class Up(Said, frozen=True, tag="up"):
    """The worker is ready; a run on `provider` really worked. `available` are those that are installed, which proves
    nothing. How it is confined: `grade`, what holds, and what does not with what mends it."""

    provider: str
    version: str
    available: tuple[str, ...] = ()
    grade: str = ""
    holds: tuple[str, ...] = ()
    lacks: tuple[tuple[str, str], ...] = ()


class Optimised(Said, frozen=True, tag="optimised"):
    """A model as ONNX Runtime optimised it, in the memory file that comes along; without one, what is kept was used."""

    digest: Annotated[str, Meta(max_length=64)]


class Loaded(Said, frozen=True, tag="loaded"):
    """A model is in memory now; the message that it was loaded for has its answer later."""

    digest: str


class Ran(Said, frozen=True, tag="ran"):
    """A run ended well. `loaded_bytes` is the growth of memory when the model was loaded for it; `precision` is the
    widest float type among the model's inputs and weights."""

    id: int
    outputs: tuple[TensorSpec, ...]
    run_s: float
    body: bytes = b""
    place: Place | None = None
    loaded_bytes: int | None = None
    precision: str = ""


class Described(Said, frozen=True, tag="described"):
    """The answer to Load and Probe; `run_s` is None when the model does not run on zeros."""

    id: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    memory_bytes: int
    run_s: float | None = None
    metadata: dict[str, str] = {}


class Proved(Said, frozen=True, tag="proved"):
    """The answer to Prove: why not, or "" when they may."""

    id: int
    why_not: Annotated[str, Meta(max_length=8192)] = ""


class Wide(Said, frozen=True, tag="wide"):
    """The answer to Widen: seconds on one thread and on all; loaded for that too when `kept`, which took so much."""

    id: int
    narrow_s: float
    wide_s: float
    kept: bool
    memory_bytes: int


class Unloaded(Said, frozen=True, tag="unloaded"):
    """The answer to Unload."""

    id: int


class Failed(Said, frozen=True, tag="failed"):
    """It did not work: an error code of ours, a text, and what would help."""

    id: int
    code: Annotated[str, Meta(max_length=64)]
    message: Annotated[str, Meta(max_length=8192)]
    hint: Annotated[str, Meta(max_length=8192)] = ""


ToWorker = Run | Load | Probe | Prove | Widen | Unload | Terminate | Free
FromWorker = Up | Loaded | Optimised | Ran | Described | Proved | Wide | Unloaded | Failed

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_from_worker = msgspec.msgpack.Decoder(FromWorker)


def send(connection: socket.socket, message: ToWorker | FromWorker, fd: int | None = None) -> None:
    """Raises OSError; BlockingIOError when the socket is full."""
    data = _encoder.encode(message)
    if len(data) > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"a control message of {len(data)} bytes; {MESSAGE_BYTES_MAX} are allowed")
    if fd is None:
        connection.send(data)
    else:
        connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


def receive(connection: socket.socket) -> tuple[bytes, int | None]:
    """One message and the file descriptor that came with it; b"" when the other side is gone. Raises OSError."""
    data, ancillary, _, _ = connection.recvmsg(MESSAGE_BYTES_MAX, socket.CMSG_SPACE(4))
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    for extra in fds[1:]:
        os.close(extra)
    return data, fds[0] if fds else None


def _decode(decoder: Any, data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except UNREADABLE as error:
        raise ProtocolError(f"not a control message: {error}") from error


def decode_to_worker(data: bytes) -> ToWorker:
    """Raises ProtocolError."""
    message: ToWorker = _decode(_to_worker, data)
    return message


def decode_from_worker(data: bytes) -> FromWorker:
    """Raises ProtocolError."""
    message: FromWorker = _decode(_from_worker, data)
    return message
