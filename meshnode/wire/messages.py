"""Every message between agents, and between an agent and its local clients, as a frozen struct.

A message is a MessagePack map with a tag in the field "t". Decoding is typed and bounded while it happens: a wrong
type, a missing field or a value out of range is a `ProtocolError`, and nothing else is ever raised. Unknown fields are
ignored, so that two neighbouring versions can talk. Tensors never travel in a header: they follow it as raw bytes
(`meshnode.wire.tensors`). The pages in `protocols/` are the specification; `protocols/vectors/` holds golden bytes.

Times are seconds as floats; deadlines travel as time remaining, never as a clock reading. Node ids are 52 characters of
lower-case base32, digests 64 of lower-case hex, task ids 32 of lower-case hex.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NewType, TypeVar

import msgspec
from msgspec import Meta

from meshnode.errors import ProtocolError

PROTOCOL_VERSION = 1

NodeId = NewType("NodeId", str)
Digest = NewType("Digest", str)
TaskId = NewType("TaskId", str)

Id = Annotated[str, Meta(pattern=r"\A[a-z2-7]{52}\Z")]
Hex64 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Task = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=4096)]
Zone = Annotated[str, Meta(max_length=128)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Count = Annotated[int, Meta(ge=0, le=2**53)]

Priority = Literal["low", "normal", "high"]


class Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True, kw_only=True):
    """The base of all messages; subclasses are tagged with their class name in lower case."""


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of a body: its name, element type (ONNX's word for it), shape and length in bytes."""

    name: Annotated[str, Meta(max_length=512)]
    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[tuple[Count, ...], Meta(max_length=32)]
    nbytes: Count


Tensors = Annotated[tuple[TensorSpec, ...], Meta(max_length=1024)]


# --- opening a link --------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """The first frame each way. Nothing else is sent or accepted before both sides have seen one.

    `root` is the hash of the sender's trust set: when they differ, the sets are exchanged before any task is accepted.
    `boot` is the sender's start counter; a second live process with the same identity shows itself by it.
    """

    versions: Annotated[tuple[int, ...], Meta(min_length=1, max_length=16)]
    id: Id
    name: Name
    boot: Count
    root: Annotated[bytes, Meta(min_length=32, max_length=32)] = bytes(32)
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    software: Annotated[str, Meta(max_length=64)] = ""
    features: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=64)] = ()
    body_bytes_max: Count = 0


# --- trust and membership over a link -----------------------------------------------------------------------------


class TrustSync(Message, frozen=True, tag="trust_sync"):
    """Here is what I hold; send me the rest and say what you lack. Body: a batch of 32-byte statement ids."""


class TrustDelta(Message, frozen=True, tag="trust_delta"):
    """Body: a batch of `statements` statements, then the ids of those the sender should push in return."""

    statements: Count = 0


class TrustPush(Message, frozen=True, tag="trust_push"):
    """Statements that the other side lacks. Body: a batch of statements. Answered by `Done`."""


class ViewAsk(Message, frozen=True, tag="view_ask"):
    """Anti-entropy: `root` is 32 bits of the sender's table of members. Answered by `Done` when they are the same."""

    root: Annotated[int, Meta(ge=0, lt=2**32)]


class ViewDigest(Message, frozen=True, tag="view_digest"):
    """They are not. Body: the digest of the answering side's table."""


class ViewRows(Message, frozen=True, tag="view_rows"):
    """Body: summaries of the sender's rows where the digests differ. Answered by `ViewNews`."""


class ViewNews(Message, frozen=True, tag="view_news"):
    """Body: updates for the other side, and which ones the sender wants. As a request it is answered by `Done`."""


class AdvertPull(Message, frozen=True, tag="advert_pull"):
    """Send the signed adverts of these nodes. Body: a batch of node ids (ASCII)."""


class Adverts(Message, frozen=True, tag="adverts"):
    """Body: a batch of signed adverts, each exactly as its owner signed it."""


class StreamPing(Message, frozen=True, tag="stream_ping"):
    """Are you there? Asked over the link when datagrams get no answer.

    Body: what is said against the receiver, as the news of anti-entropy, or nothing. The answer is `ViewNews` with the
    receiver's own word.
    """


class Done(Message, frozen=True, tag="done"):
    """It is done; there is nothing more to say."""


# --- links through a third member ----------------------------------------------------------------------------------


class RelayOpen(Message, frozen=True, tag="relay_open"):
    """Carry bytes between me and `target` under the name `circuit`, which I made up. Answered by `Done`, or why not."""

    circuit: Task
    target: Id


class RelayOffer(Message, frozen=True, tag="relay_offer"):
    """`source` asked me to carry bytes between it and you. Answered by `Done`; TLS begins with the first data."""

    circuit: Task
    source: Id


class RelayData(Message, frozen=True, tag="relay_data"):
    """The next bytes of one direction, numbered from 0, as the body. Answered by `Done` when they are taken."""

    circuit: Task
    seq: Count


class RelayClose(Message, frozen=True, tag="relay_close"):
    """The circuit is over. Without a reason all that was sent has arrived."""

    circuit: Task
    reason: Text = ""


# --- the fast facts: asked for when they are needed, never gossiped ------------------------------------------------


class VitalsAsk(Message, frozen=True, tag="vitals_ask"):
    """What is your load right now?"""


class Vitals(Message, frozen=True, tag="vitals"):
    """A node's load at this moment. `available_bytes` is memory; shares are 0..1; `clock` is UTC since 1970."""

    in_flight: Count
    backlog_s: Seconds
    tasks_done: Count
    cpu_load: Annotated[float, Meta(ge=0, le=1e6)]
    available_bytes: Count
    uptime_s: Seconds
    gpu_free_bytes: tuple[Count, ...] = ()
    loaded: Annotated[tuple[Hex64, ...], Meta(max_length=4096)] = ()
    power_source: str = ""
    power_percent: float | None = None
    clock: Annotated[float, Meta(ge=0, le=1e12)] = 0.0


# --- tasks between agents ------------------------------------------------------------------------------------------


class QuoteAsk(Message, frozen=True, tag="quote_ask"):
    """How soon could you finish this? The answer holds a place for `Quote.hold_s`."""

    task: Task
    model: Hex64
    deadline_s: Seconds
    priority: Priority = "normal"
    zone: Zone | None = None
    input_bytes: Count = 0


class Quote(Message, frozen=True, tag="quote"):
    """The wait before the task would start, how long it would run, and what loading or fetching would cost first."""

    backlog_s: Seconds
    service_s: Seconds
    slots: Annotated[int, Meta(ge=1, le=4096)]
    load_s: Seconds = 0.0
    fetch_bytes: Count = 0
    hold_s: Seconds = 0.0


class Infer(Message, frozen=True, tag="infer"):
    """Run this. The tensors follow as the body.

    `deaths` counts the workers this task has already killed anywhere in the mesh; `submitter` is the agent that
    answers to the client.
    """

    task: Task
    attempt: Annotated[int, Meta(ge=1, le=16)]
    model: Hex64
    deadline_s: Seconds
    inputs: Tensors
    priority: Priority = "normal"
    zone: Zone | None = None
    outputs: Annotated[tuple[Annotated[str, Meta(max_length=512)], ...], Meta(max_length=1024)] = ()
    deaths: Count = 0


class Inferred(Message, frozen=True, tag="inferred"):
    """The answer of `Infer`; the output tensors follow as the body. `checksum` is CRC-32 over that body."""

    outputs: Tensors
    model: Hex64
    node: Id
    queue_s: Seconds
    run_s: Seconds
    checksum: Count
    provider: str = ""


# --- models between agents -----------------------------------------------------------------------------------------


class PieceAsk(Message, frozen=True, tag="piece_ask"):
    """Send one piece of one file of a model. The bytes come as the body of `Piece`."""

    model: Hex64
    file: Annotated[int, Meta(ge=0, le=4096)]
    piece: Count


class Piece(Message, frozen=True, tag="piece"):
    """One piece of a file; its bytes are the body. It is checked against the piece list before it is written."""


class PieceListAsk(Message, frozen=True, tag="piece_list_ask"):
    """Send the SHA-256 of each piece of one file, 32 bytes each, as the body of `PieceList`."""

    model: Hex64
    file: Annotated[int, Meta(ge=0, le=4096)]


class PieceList(Message, frozen=True, tag="piece_list"):
    """The piece hashes of a file as the body; their hash is in the signed manifest."""


# --- local clients ------------------------------------------------------------------------------------------------


class Submit(Message, frozen=True, tag="submit"):
    """Run this on the best node. The tensors follow as the body; `model` is `name`, `name:version` or a digest."""

    task: Task
    model: Name
    inputs: Tensors
    deadline_s: Seconds
    priority: Priority = "normal"
    node: Annotated[str, Meta(max_length=128)] | None = None
    zone: Zone | None = None
    outputs: Annotated[tuple[Annotated[str, Meta(max_length=512)], ...], Meta(max_length=1024)] = ()


class Submitted(Message, frozen=True, tag="submitted"):
    """The one final answer of a task; the output tensors follow as the body.

    `attempts` are [node, name, outcome, seconds, detail]; `seconds` is the agent's time for the whole task.
    """

    outputs: Tensors
    model: Hex64
    node: Id
    name: Name
    seconds: Seconds
    queue_s: Seconds = 0.0
    run_s: Seconds = 0.0
    provider: str = ""
    attempts: tuple[tuple[str, str, str, float, str], ...] = ()


class Plan(Message, frozen=True, tag="plan"):
    """Decide where this task would run, without running it. The answer is a `Document`."""

    model: Name
    inputs: Tensors
    deadline_s: Seconds
    priority: Priority = "normal"
    node: Annotated[str, Meta(max_length=128)] | None = None
    zone: Zone | None = None


class Ask(Message, frozen=True, tag="ask"):
    """Any verb of the local door that is not a task: `status`, `model.add`, `invite`, … with its arguments.

    The verbs and what each answers are listed in `meshnode.edge.local`.
    """

    verb: Annotated[str, Meta(max_length=64)]
    args: dict[str, Any] = {}


class Document(Message, frozen=True, tag="document"):
    """A plain answer; its JSON is the body."""


MembershipRequest = ViewAsk | ViewRows | ViewNews | AdvertPull | StreamPing
RelayRequest = RelayOpen | RelayOffer | RelayData | RelayClose
TaskRequest = VitalsAsk | QuoteAsk | Infer | PieceAsk | PieceListAsk
PeerRequest = TrustSync | TrustPush | MembershipRequest | RelayRequest | TaskRequest
PeerReply = Done | TrustDelta | ViewDigest | ViewNews | Adverts | Vitals | Quote | Inferred | Piece | PieceList
LocalRequest = Submit | Plan | Ask
LocalReply = Submitted | Document

AnyMessage = Hello | PeerRequest | PeerReply | LocalRequest | LocalReply

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_hello = msgspec.msgpack.Decoder(Hello)
_peer_request: msgspec.msgpack.Decoder[PeerRequest] = msgspec.msgpack.Decoder(PeerRequest)
_peer_reply: msgspec.msgpack.Decoder[PeerReply] = msgspec.msgpack.Decoder(PeerReply)
_local_request: msgspec.msgpack.Decoder[LocalRequest] = msgspec.msgpack.Decoder(LocalRequest)
_local_reply: msgspec.msgpack.Decoder[LocalReply] = msgspec.msgpack.Decoder(LocalReply)
_error = msgspec.msgpack.Decoder(dict[str, Any])


def encode(message: AnyMessage) -> bytes:
    """The message as MessagePack."""
    return _encoder.encode(message)


def with_features(hello: Hello, features: tuple[str, ...]) -> Hello:
    """The same HELLO with more features."""
    return msgspec.structs.replace(hello, features=(*hello.features, *features))


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes | bytearray | memoryview, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"not a valid {what}: {error}") from error


def decode_hello(data: bytes | bytearray | memoryview) -> Hello:
    """Raises ProtocolError."""
    return _decode(_hello, data, "HELLO")


def decode_peer_request(data: bytes | bytearray | memoryview) -> PeerRequest:
    """Raises ProtocolError."""
    return _decode(_peer_request, data, "request")


def decode_peer_reply(data: bytes | bytearray | memoryview) -> PeerReply:
    """Raises ProtocolError."""
    return _decode(_peer_reply, data, "reply")


def decode_local_request(data: bytes | bytearray | memoryview) -> LocalRequest:
    """Raises ProtocolError."""
    return _decode(_local_request, data, "request")


def decode_local_reply(data: bytes | bytearray | memoryview) -> LocalReply:
    """Raises ProtocolError."""
    return _decode(_local_reply, data, "reply")


def encode_error(wire: dict[str, Any]) -> bytes:
    """An error's `to_wire` as MessagePack, for an ERR frame."""
    return _encoder.encode(wire)


def decode_error(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Raises ProtocolError."""
    return _decode(_error, data, "error")
