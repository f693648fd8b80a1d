"""Which bytes to write next: the sending half of a link, without a socket.

Control frames and small messages go first, in order. Large bodies go a frame at a time, round robin among at most
`active_bodies`; the others wait. A body is sent only as far as its stream's credit and the connection's reach, and
the caller asks for the next bytes only while the transport's buffer is below its high-water mark. Together these
bound what stands in front of a small request, whatever else flows: that is where the latency of a busy link is
decided.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshnode.config import Links
from meshnode.errors import InvalidInput, ProtocolError
from meshnode.wire.frames import Type, pack

Buffer = bytes | bytearray | memoryview


@dataclass(slots=True, eq=False)
class _Body:
    """A message on its way out."""

    type: Type
    stream: int
    header: bytes
    parts: deque[memoryview]
    left: int
    total: int
    credit: int
    begun: bool = False

    def take(self, nbytes: int) -> bytes | memoryview:
        """The next bytes of the parts."""
        first = self.parts[0]
        if len(first) >= nbytes:
            taken: bytes | memoryview = first[:nbytes]
            self._drop(nbytes)
            return taken
        pieces = []
        while nbytes:
            piece = self.parts[0][:nbytes]
            pieces.append(piece)
            nbytes -= len(piece)
            self._drop(len(piece))
        return b"".join(pieces)

    def _drop(self, nbytes: int) -> None:
        self.left -= nbytes
        rest = self.parts[0][nbytes:]
        if len(rest):
            self.parts[0] = rest
        else:
            self.parts.popleft()


@dataclass(slots=True)
class FrameWriter:
    """Give it messages; ask it for bytes."""

    limits: Links
    _control: deque[bytes] = field(default_factory=deque)
    _active: deque[_Body] = field(default_factory=deque)
    _waiting: deque[_Body] = field(default_factory=deque)
    _blocked: dict[int, _Body] = field(default_factory=dict)
    _credit: int = -1
    peer_bytes_max: int = sys.maxsize
    """The largest body that the other side takes, as its HELLO says."""

    def __post_init__(self) -> None:
        self._credit = self.limits.connection_credit_bytes

    @property
    def idle(self) -> bool:
        """Whether nothing is left to send."""
        return not (self._control or self._active or self._waiting or self._blocked)

    def control(self, kind: Type, stream: int = 0, header: bytes = b"", aux: int = 0) -> None:
        """A frame without a body."""
        self._control.append(pack(kind, stream, header, aux=aux))

    def message(self, kind: Type, stream: int, header: bytes, body: Sequence[Buffer] = ()) -> None:
        """A REQ or RES. The buffers must not change until they are sent.

        Raises ProtocolError for a header that is too large, InvalidInput for a body that one side does not take.
        """
        if len(header) > self.limits.header_bytes_max:
            raise ProtocolError(f"a header of {len(header)} bytes; {self.limits.header_bytes_max} are allowed")
        parts = deque(view for part in body if len(view := memoryview(part).cast("B")))
        total = sum(map(len, parts))
        if total > (most := min(self.limits.body_bytes_max, self.peer_bytes_max)):
            raise InvalidInput(f"a body of {total} bytes; both sides take {most}", hint="ask for less at a time")
        if total <= self.limits.small_body_bytes:
            self._control.append(pack(kind, stream, header, b"".join(parts), aux=total))
            return
        credit = self.limits.stream_credit_bytes
        self._waiting.append(_Body(kind, stream, header, parts, total, total, credit))
        self._activate()

    def credit(self, stream: int, nbytes: int) -> None:
        """The receiver allows more; stream 0 is the connection."""
        if stream == 0:
            self._credit = min(self._credit + nbytes, 2**31)
            return
        body = self._find(stream)
        if body is not None:
            body.credit = min(body.credit + nbytes, 2**31)
            if self._blocked.pop(stream, None) is not None:
                self._active.append(body)

    def cancel(self, stream: int) -> bool:
        """Stop sending a message; True when part of it had gone out already."""
        body = self._find(stream)
        if body is None:
            return False
        self._blocked.pop(stream, None)
        for queue in (self._active, self._waiting):
            if body in queue:
                queue.remove(body)
        self._activate()
        return body.begun

    def next_bytes(self) -> bytes | None:
        """The next bytes to write; None when there is nothing, or no credit."""
        if self._control:
            return self._control.popleft()
        while self._active and self._credit > 0:
            body = self._active.popleft()
            size = min(body.left, self.limits.frame_bytes, body.credit, self._credit)
            if size <= 0:
                self._blocked[body.stream] = body
                continue
            chunk = body.take(size)
            body.credit -= size
            self._credit -= size
            if body.begun:
                frame = pack(Type.DATA, body.stream, body=chunk)
            else:
                frame = pack(body.type, body.stream, body.header, chunk, aux=body.total)
                body.begun = True
            if body.left:
                self._active.append(body)
            else:
                self._activate()
            return frame
        return None

    def _activate(self) -> None:
        while self._waiting and len(self._active) + len(self._blocked) < self.limits.active_bodies:
            self._active.append(self._waiting.popleft())

    def _find(self, stream: int) -> _Body | None:
        blocked = self._blocked.get(stream)
        if blocked is not None:
            return blocked
        return next((body for queue in (self._active, self._waiting) for body in queue if body.stream == stream), None)
