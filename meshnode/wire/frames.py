"""Bytes of a connection into messages: the receiving half of a link, without a socket.

A frame is 16 bytes, little endian, then its header and its body:

    body_len u32 | stream u32 | header_len u16 | type u8 | flags u8 | aux u32

REQ and RES begin a message; their `aux` is the length of its whole body, of which the frame carries the first part
and DATA frames the rest. `FrameReader` hands out the place where the next bytes belong, so that a large body is
written once, where it stays. Every length is checked before anything is allocated; whatever does not follow the rules
is a `ProtocolError`. The sending half is `meshnode.wire.flow`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from meshnode.config import Links
from meshnode.errors import ProtocolError
from meshnode.wire.credit import Crediting
from meshnode.wire.traffic import Traffic

HEADER = struct.Struct("<IIHBBI")
SKIP_BIT = 0x80
"""Types with this bit are from the future and may be skipped."""


class Type(IntEnum):
    """What a frame is."""

    HELLO = 1
    REQ = 2
    RES = 3
    DATA = 4
    CREDIT = 5
    CANCEL = 6
    ERR = 7
    PING = 8
    PONG = 9
    GOAWAY = 10
    CLOSE = 11


_KNOWN = frozenset(Type)
_BEGINS = frozenset({Type.REQ, Type.RES})


@dataclass(frozen=True, slots=True)
class Message:
    """A whole REQ or RES: its header and its body."""

    type: Type
    stream: int
    header: bytes
    body: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Control:
    """Any other frame; `aux` is what the type says it is."""

    type: Type
    stream: int
    header: bytes
    aux: int


@dataclass(frozen=True, slots=True)
class Landed:
    """So many body bytes that were sent on credit arrived; `whole` when no more of that message are to come."""

    stream: int
    nbytes: int
    whole: bool


Event = Message | Control | Landed


def pack(kind: Type, stream: int, header: bytes = b"", body: bytes | memoryview = b"", aux: int = 0) -> bytes:
    """One frame."""
    return HEADER.pack(len(body), stream, len(header), kind, 0, aux) + header + body


def _room(nbytes: int) -> memoryview:
    """Where a body goes.

    By numpy: it does not fill it with zeros, which takes 0.2 s at 500 MB, and asks for huge pages, or takes memory that
    was used a moment ago (see meshnode.heap). The first touch of 10 MB of fresh small pages costs twenty times what a
    copy costs.
    """
    return np.empty(nbytes, np.uint8).data


@dataclass(slots=True)
class _Partial:
    """A message whose body has not all arrived."""

    type: Type
    header: bytes
    body: memoryview
    filled: int


class FrameReader:
    """Feed it by `get_buffer` and `received`; see the module's docstring."""

    def __init__(self, limits: Links, traffic: Traffic | None = None) -> None:
        self.crediting = Crediting(limits)
        """Of what arrives here; told by who sends the credit."""
        self._limits = limits
        self._traffic = traffic or Traffic()
        self._stage = bytearray(HEADER.size + limits.header_bytes_max + limits.frame_bytes)
        self._view = memoryview(self._stage)
        self._begin = 0
        self._end = 0
        self._partial: dict[int, _Partial] = {}
        self._buffered = 0
        self._opened = False
        # The body of the current frame, while it is written straight to its place.
        self._target: memoryview | None = None
        self._target_stream = 0
        self._target_bytes = 0

    @property
    def open_streams(self) -> int:
        """Messages that have begun to arrive."""
        return len(self._partial)

    def arriving(self, stream: int) -> bool:
        """Whether more of this message is to come, and wanted."""
        return stream in self._partial

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the wire belong. Never empty."""
        if self._target is not None:
            return self._target
        if self._begin == self._end:
            self._begin = self._end = 0
        elif len(self._stage) - self._end < len(self._stage) // 4:
            # A plain copy first: the two ranges may overlap.
            rest = bytes(self._view[self._begin : self._end])
            self._view[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        return self._view[self._end :]

    def received(self, nbytes: int) -> list[Event]:
        """That many bytes were written to the buffer. Raises ProtocolError; the connection is then of no use."""
        self._traffic.received += nbytes
        events: list[Event] = []
        if self._target is not None:
            self._target = self._target[nbytes:]
            if len(self._target):
                return events
            self._target = None
            self._advance(self._target_stream, self._target_bytes, events)
        else:
            self._end += nbytes
        while self._target is None and self._frame(events):
            pass
        return events

    def discard(self, stream: int) -> None:
        """Forget a message that is no longer wanted; what still comes of it is read and thrown away."""
        self.crediting.forget(stream)
        partial = self._partial.pop(stream, None)
        if partial is not None:
            self._buffered -= len(partial.body)

    def _frame(self, events: list[Event]) -> bool:
        """Take one frame from the stage; False when it is not all there."""
        available = self._end - self._begin
        if available < HEADER.size:
            return False
        body_len, stream, header_len, kind, _flags, aux = HEADER.unpack_from(self._stage, self._begin)
        self._check(kind, stream, header_len, body_len)
        if available < HEADER.size + header_len:
            return False
        at = self._begin + HEADER.size
        header = bytes(self._view[at : at + header_len])
        at += header_len
        staged = min(body_len, self._end - at)
        body = self._view[at : at + staged]
        self._begin = at + staged
        if kind not in _KNOWN:
            if staged < body_len:
                self._into(bytearray(body_len - staged), stream, 0)
            return True
        kind = Type(kind)
        if kind in _BEGINS:
            self._message(kind, stream, header, body_len, body, aux, events)
        elif kind is Type.DATA:
            self._data(stream, body_len, body, events)
        else:
            events.append(Control(kind, stream, header, aux))
        return True

    def _check(self, kind: int, stream: int, header_len: int, body_len: int) -> None:
        limits = self._limits
        if kind not in _KNOWN and not kind & SKIP_BIT:
            raise ProtocolError(f"a frame of unknown type {kind}")
        if body_len > limits.frame_bytes:
            raise ProtocolError(f"a frame body of {body_len} bytes; {limits.frame_bytes} are allowed")
        if header_len > limits.header_bytes_max:
            raise ProtocolError(f"a frame header of {header_len} bytes; {limits.header_bytes_max} are allowed")
        if body_len and kind not in (Type.REQ, Type.RES, Type.DATA) and kind in _KNOWN:
            raise ProtocolError(f"a {Type(kind).name} frame has no body")
        if not self._opened:
            if kind not in (Type.HELLO, Type.CLOSE):
                raise ProtocolError("the first frame must be HELLO")
            if header_len > limits.hello_bytes_max:
                raise ProtocolError(f"a HELLO of {header_len} bytes; {limits.hello_bytes_max} are allowed")
            self._opened = True
        elif kind == Type.HELLO:
            raise ProtocolError("a second HELLO")
        if kind in (Type.REQ, Type.RES, Type.DATA) and stream == 0:
            raise ProtocolError("a message without a stream")

    def _message(
        self, kind: Type, stream: int, header: bytes, first: int, staged: memoryview, total: int, events: list[Event]
    ) -> None:
        limits = self._limits
        if stream in self._partial:
            raise ProtocolError(f"stream {stream} begins twice")
        if total < first:
            raise ProtocolError(f"a message of {total} bytes begins with {first}")
        if total > limits.body_bytes_max:
            raise ProtocolError(f"a message of {total} bytes; {limits.body_bytes_max} are allowed")
        if total == len(staged):
            events.append(Message(kind, stream, header, bytes(staged)))
            if total > limits.small_body_bytes:  # smaller ones are sent without credit
                events.append(Landed(stream, total, whole=True))
            return
        if len(self._partial) >= limits.streams_max:
            raise ProtocolError(f"{limits.streams_max} messages are arriving, the limit")
        if self._buffered + total > limits.buffered_bytes_max:
            raise ProtocolError(f"messages being received pass {limits.buffered_bytes_max} bytes together")
        partial = _Partial(kind, header, _room(total), 0)
        self._partial[stream] = partial
        self._buffered += total
        self._fill(stream, partial, first, staged, events)

    def _data(self, stream: int, body_len: int, staged: memoryview, events: list[Event]) -> None:
        partial = self._partial.get(stream)
        if partial is None:
            # Of a message that was discarded while this was on its way.
            if len(staged) < body_len:
                self._into(bytearray(body_len - len(staged)), stream, body_len)
            else:
                events.append(Landed(stream, body_len, whole=True))
            return
        if partial.filled + body_len > len(partial.body):
            raise ProtocolError(f"stream {stream} is longer than it said")
        self._fill(stream, partial, body_len, staged, events)

    def _fill(self, stream: int, partial: _Partial, body_len: int, staged: memoryview, events: list[Event]) -> None:
        at = partial.filled
        partial.body[at : at + len(staged)] = staged
        if len(staged) < body_len:
            target = partial.body[at + len(staged) : at + body_len]
            self._target, self._target_stream, self._target_bytes = target, stream, body_len
        else:
            self._advance(stream, body_len, events)

    def _into(self, scratch: bytearray, stream: int, nbytes: int) -> None:
        self._target, self._target_stream, self._target_bytes = memoryview(scratch), stream, nbytes

    def _advance(self, stream: int, nbytes: int, events: list[Event]) -> None:
        """The body of a frame is complete in its place."""
        partial = self._partial.get(stream)
        if partial is None:
            if nbytes:
                events.append(Landed(stream, nbytes, whole=True))
            return
        partial.filled += nbytes
        whole = partial.filled == len(partial.body)
        if whole:
            del self._partial[stream]
            self._buffered -= len(partial.body)
            events.append(Message(partial.type, stream, partial.header, partial.body))
        events.append(Landed(stream, nbytes, whole))
