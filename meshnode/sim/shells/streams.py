"""Streams that exist only in memory, as TCP is: nothing is lost on them, and a cut stops them.

What the network loses is sent again after TCP's time-outs; after twenty seconds the sender gives up, and the other
side never learns. The stations' kernels are here: they go on while a process is held, and reset what nobody has.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshnode.links.address import Address
from meshnode.sim.shells.wire import Place, Wire
from meshnode.sim.world import RTO_S, STREAM_GIVES_UP_S

WINDOW_BYTES = 256 * 1024
SEGMENT_BYTES = 64 * 1024
RTO_MAX_S = 8.0


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """Stands where an SSLContext stands: what this side shows. Who sees it checks it with the product's own code."""

    leaf: bytes


@dataclass(frozen=True, slots=True)
class Handshake:
    """A flight of the TLS handshake; `leaf` is None in the first."""

    leaf: bytes | None

    def __len__(self) -> int:
        return 500 if self.leaf is None else 1500


FLIGHT = b"a flight of the handshake of the simulator, as a relay carries it: "


class _Fin:
    """The end of a stream, with TLS's own word for it."""

    def __len__(self) -> int:
        return 30


FIN = _Fin()
Item = bytes | Handshake | _Fin


class Ends:
    """The streams of one machine."""

    def __init__(self, wire: Wire, place: Place, address: Address) -> None:
        self.wire = wire
        self.place = place
        self.address = address
        """Where it dials from."""
        self.open: dict[StreamEnd, None] = {}


def joined(one: Ends, other: Ends, family: socket.AddressFamily) -> tuple[StreamEnd, StreamEnd]:
    """The two ends of a new stream."""
    a, b = StreamEnd(one, family), StreamEnd(other, family)
    a.peer, b.peer = b, a
    one.open[a] = other.open[b] = None
    return a, b


class StreamEnd:
    """One end of a connected stream. `on_event` is told when something came or left."""

    peer: StreamEnd

    def __init__(self, ends: Ends, family: socket.AddressFamily) -> None:
        self.family = family
        self.peername: Any = ""
        self.sockname: Any = ""
        self.here: deque[Item] = deque()
        self.error: OSError | None = None
        self.on_event: Callable[[], object] | None = None
        self.waiting_bytes = 0
        """What is not on its way yet."""
        self._ends = ends
        self._place = ends.place
        self._wire = ends.wire
        self._here_bytes = 0
        self._out: deque[Item] = deque()
        self._closed = False
        self._trying = False
        self._arrives_at = 0.0
        self._flying: deque[list[Item]] = deque()
        self._wakes: list[asyncio.Future[None]] = []

    # --- as a socket ---

    def setblocking(self, _: bool) -> None:
        """It never blocks."""

    def setsockopt(self, *_: object) -> None:
        """It has no options."""

    def getsockname(self) -> Any:
        """This end."""
        return self.sockname

    async def recv(self, nbytes: int) -> bytes:
        """What has come; b"" at the end. Raises OSError."""
        while True:
            if self.error is not None:
                raise self.error
            if self.here:
                item = self.here[0]
                if isinstance(item, Handshake):
                    self.took(item)
                    return FLIGHT + (item.leaf or b"")
                if not isinstance(item, bytes):
                    return b""
                self.took(item)
                if len(item) > nbytes:
                    self.here.appendleft(item[nbytes:])
                    self._here_bytes += len(item) - nbytes
                return item[:nbytes]
            if self._closed:
                return b""
            await self._woken()

    async def send_all(self, data: bytes) -> None:
        """Hand it over. Raises OSError."""
        flight = data.startswith(FLIGHT)
        self.send(Handshake(data[len(FLIGHT) :] or None) if flight else data)
        while self.waiting_bytes > SEGMENT_BYTES and self.error is None and not self._closed:
            await self._woken()
        if self.error is not None:
            raise self.error
        if self._closed:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def shutdown(self, _: int) -> None:
        """No more, either way."""
        self.close()

    async def _woken(self) -> None:
        wake = self._wire.loop.create_future()
        self._wakes.append(wake)
        await wake

    # --- as a kernel has it ---

    def send(self, item: Item) -> None:
        """It goes when the network lets it."""
        if not self._closed and self.error is None:
            self._out.append(item)
            self.waiting_bytes += len(item)
            self._push()

    def close(self) -> None:
        """What waits is sent, then the end."""
        if not self._closed:
            self.send(FIN)
            self._closed = True
            self._leave()
            self._tell()

    def abort(self) -> None:
        """Drop everything, and say so."""
        already = self._closed and not self._out
        self._closed = True
        self._out.clear()
        self.waiting_bytes = 0
        self._leave()
        if not already:
            self._reset_peer()
        self._tell()

    def took(self, item: Item) -> None:
        """The process has read this, the first that was here; the sender may have waited for room."""
        self.here.popleft()
        self._here_bytes -= len(item)
        if self.peer._out and not self.peer._trying:
            self._wire.at(self._wire.now, self.peer._push)

    def _leave(self) -> None:
        self._ends.open.pop(self, None)

    def _push(self) -> None:
        if not self._trying and self._out and self.peer._here_bytes < WINDOW_BYTES:
            self._trying = True
            self._try(RTO_S, self._wire.now)

    def _try(self, rto_s: float, since: float) -> None:
        wire, peer = self._wire, self.peer
        if not self._out:
            self._trying = False
            return
        if self._place.asleep:
            since = wire.now  # its timers stand still, too
        if not self._local and not wire.passes(self._place, peer._place):
            if wire.now - since > STREAM_GIVES_UP_S:
                self._trying = False
                self._break(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
                return
            wire.at(wire.now + rto_s, lambda: self._try(min(2 * rto_s, RTO_MAX_S), since))
            return
        items, nbytes = list[Item](), 0
        while self._out and (not items or nbytes + len(self._out[0]) <= SEGMENT_BYTES):
            items.append(self._out.popleft())
            nbytes += len(items[-1])
        self.waiting_bytes -= nbytes
        self._trying = False
        self._arrives_at = max(self._arrives_at, wire.now + (0.0 if self._local else wire.delay_s()))
        if not self._local:
            wire.messages += 1
            wire.note("stream", self._place.index, peer._place.index, nbytes)
        self._flying.append(items)
        wire.at(self._arrives_at, lambda: peer._arrive(self._flying.popleft()))  # a heap does not keep ties in order
        self._push()
        self._tell()

    @property
    def _local(self) -> bool:
        return self.family is socket.AF_UNIX

    def _arrive(self, items: list[Item]) -> None:
        if not self._place.powered:
            return
        if self.error is not None or (self._closed and not isinstance(items[0], _Fin)):
            self._reset_peer()
            return
        self.here.extend(items)
        self._here_bytes += sum(map(len, items))
        self._tell()

    def _reset_peer(self, tries: int = 8) -> None:
        """The kernel answers that there is nothing here; a lost answer is given again to what is sent again."""
        wire, peer = self._wire, self.peer
        if self._local or wire.passes(self._place, peer._place):
            wait_s = 0.0 if self._local else wire.delay_s()
            reset = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            wire.at(wire.now + wait_s, lambda: peer._break(reset))
        elif tries and self._place.powered:
            wire.at(wire.now + RTO_S * 2 ** (8 - tries), lambda: self._reset_peer(tries - 1))

    def _break(self, error: OSError) -> None:
        if self.error is None and self._place.powered:
            self.error = error
            self._out.clear()
            self.waiting_bytes = 0
            self._leave()
            self._tell()

    def _tell(self) -> None:
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            if not wake.done():
                wake.set_result(None)
        if self.on_event is not None:
            self.on_event()
