"""Every message between agents, and between an agent and its local clients, as a frozen struct.

A message is a MessagePack map with a tag in the field "t". Decoding is typed and bounded while it happens: a wrong
type, a missing field or a value out of range is a `ProtocolError`, and nothing else is ever raised. Unknown fields are
ignored, so that two neighbouring versions can talk. Tensors never travel in a header: they follow it as raw bytes
(`meshnode.wire.tensors`). The pages in `protocols/` are the specification; `protocols/vectors/` holds golden bytes.

Times are seconds as floats; deadlines travel as time remaining, never as a clock reading. Node ids are 52 characters of
lower-case base32, digests 64 of lower-case hex, task ids 32 of lower-case hex.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from meshnode.errors import ProtocolError
from meshnode.wire.fleet import FleetAsk, FleetRows
from meshnode.wire.keys import AdminKey as AdminKey
from meshnode.wire.keys import AdminKeyAsk as AdminKeyAsk
from meshnode.wire.keys import KeyReply, KeyRequest
from meshnode.wire.keys import RenewAsk as RenewAsk
from meshnode.wire.keys import Renewed as Renewed
from meshnode.wire.keys import RotateAsk as RotateAsk
from meshnode.wire.looks import Look, LookAsk, ReachAsk, Reached
from meshnode.wire.stages import Stage as Stage
from meshnode.wire.stages import StageDone as StageDone
from meshnode.wire.tasks import Infer as Infer
from meshnode.wire.tasks import Inferred as Inferred
from meshnode.wire.tasks import Plan as Plan
from meshnode.wire.tasks import Quote as Quote
from meshnode.wire.tasks import QuoteAsk as QuoteAsk
from meshnode.wire.tasks import ResultAsk as ResultAsk
from meshnode.wire.tasks import Submit as Submit
from meshnode.wire.tasks import Submitted as Submitted
from meshnode.wire.tasks import Vitals as Vitals
from meshnode.wire.tasks import VitalsAsk as VitalsAsk
from meshnode.wire.tasks import Warm as Warm
from meshnode.wire.terms import FEATURES as FEATURES
from meshnode.wire.terms import KEYS as KEYS
from meshnode.wire.terms import PROTOCOL_VERSION as PROTOCOL_VERSION
from meshnode.wire.terms import UNREADABLE, Count, Task, Text
from meshnode.wire.terms import Digest as Digest
from meshnode.wire.terms import Hex64 as Hex64
from meshnode.wire.terms import Id as Id
from meshnode.wire.terms import Message as Message
from meshnode.wire.terms import Name as Name
from meshnode.wire.terms import NodeId as NodeId
from meshnode.wire.terms import Objective as Objective
from meshnode.wire.terms import Priority as Priority
from meshnode.wire.terms import TaskId as TaskId
from meshnode.wire.terms import TensorSpec as TensorSpec

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


class HaveAsk(Message, frozen=True, tag="have_ask"):
    """I am fetching this model: which pieces of it have you, and who else is fetching it?"""

    model: Hex64


class Have(Message, frozen=True, tag="have"):
    """The body is two bitmaps of the same length over all pieces: what is here, and what was given to somebody lately.

    `fellows` are others that asked.
    """

    fellows: Annotated[tuple[Id, ...], Meta(max_length=64)] = ()


class ModelDo(Message, frozen=True, tag="model_do"):
    """Somebody wants this of you: `fetch` the model onto your disk, or `unload` it from memory. Answered by `Done`."""

    model: Hex64
    what: Annotated[str, Meta(max_length=16)]


class MovedAsk(Message, frozen=True, tag="moved_ask"):
    """How much of a model that you are fetching is there?"""

    model: Hex64


class Moved(Message, frozen=True, tag="moved"):
    """So many bytes of all; both 0 while nothing of it moves."""

    done: Count = 0
    total: Count = 0


# --- local clients ------------------------------------------------------------------------------------------------


class Ask(Message, frozen=True, tag="ask"):
    """Any verb of the local door that is not a task: `status`, `model.add`, `invite`, … with its arguments.

    The verbs and what each answers are listed in `meshnode.edge.local`.
    """

    verb: Annotated[str, Meta(max_length=64)]
    args: dict[str, Any] = msgspec.field(default_factory=dict)


class Document(Message, frozen=True, tag="document"):
    """A plain answer; its JSON is the body."""


MembershipRequest = ViewAsk | ViewRows | ViewNews | AdvertPull | StreamPing
RelayRequest = RelayOpen | RelayOffer | RelayData | RelayClose
LookRequest = LookAsk | ReachAsk | FleetAsk
TaskRequest = VitalsAsk | QuoteAsk | Warm | Infer | ResultAsk | PieceAsk | PieceListAsk | HaveAsk
ModelRequest = ModelDo | MovedAsk
TrustRequest = TrustSync | TrustPush | KeyRequest
PeerRequest = TrustRequest | MembershipRequest | RelayRequest | LookRequest | TaskRequest | ModelRequest
TaskReply = Vitals | Quote | Inferred | Piece | PieceList | Have | Moved
PeerReply = Done | TrustDelta | KeyReply | ViewDigest | ViewNews | Adverts | Look | Reached | FleetRows | TaskReply
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
    except UNREADABLE as error:
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
