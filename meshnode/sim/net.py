"""Sockets that exist only in memory, between stations that a seeded network joins: datagrams, and streams as TCP is.

The stations' kernels are here: they go on while a process is held, refuse and reset when it is dead, and are silent
when the power is off. A stream loses nothing: what the network loses is sent again after TCP's time-outs, a cut stops
it, and after twenty seconds the sender gives up and the other side never learns.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import socket
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, cast

from meshnode.errors import ListenError
from meshnode.links.address import Address
from meshnode.sim.world import RTO_S, STREAM_GIVES_UP_S, SYN_RTO_S, Faults, World

WINDOW_BYTES = 256 * 1024
SEGMENT_BYTES = 64 * 1024
DATAGRAMS_MAX = 256
"""Of a socket that nobody reads."""
RTO_MAX_S = 8.0
TAIL = 400
"""Lines of the trace that are kept to be shown."""


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


class _Fin:
    """The end of a stream, with TLS's own word for it."""

    def __len__(self) -> int:
        return 30


FIN = _Fin()
Item = bytes | Handshake | _Fin


class _Sky(World):
    """The world, whose queue is the loop's."""

    later: Callable[[float, Callable[[], object]], None]

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Something will happen."""
        self.later(when, action)


class Network:
    """See the module's docstring."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self.world = _Sky(seed, faults=faults)
        self.world.later = self.at
        self.stations: list[Station] = []
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.trace = hashlib.blake2b(digest_size=16)
        self.messages = 0
        self._by_host: dict[str, Station] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nobody = Context()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop whose time counts."""
        self._loop = loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The same."""
        assert self._loop is not None, "no loop yet"
        return self._loop

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.loop.time()

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Something will happen, in no process."""
        self.loop.call_at(when, action, context=self._nobody)

    def add(self) -> Station:
        """One station more."""
        station = Station(self, len(self.stations))
        self.stations.append(station)
        self._by_host[station.host] = station
        return station

    def note(self, what: str, sender: int, receiver: int, nbytes: int) -> None:
        """Something went over the wire, or was done: into the trace."""
        line = f"{self.now:10.4f}  {sender:>3} -> {receiver:<3} {what} {nbytes}"
        self.trace.update(f"{self.now!r} {sender} {receiver} {what} {nbytes}\n".encode())
        self.tail.append(line)

    # --- what the stations ask of it ---

    def passes(self, sender: Station, receiver: Station) -> bool:
        """Whether a packet gets there, of a stream that needs its answer, too."""
        faults, a, b = self.world.faults, sender.index, receiver.index
        if not sender.powered or not receiver.powered or faults.cuts(a, b) or faults.cuts(b, a):
            return False
        loss = faults.loses(a, b)
        return not loss or self.world.rng.random() >= loss

    def delay_s(self) -> float:
        """Of one packet."""
        faults = self.world.faults
        return self.world.rng.uniform(faults.delay_min_s, faults.delay_max_s)

    def datagram(self, sender: Station, data: bytes, address: Address) -> None:
        """One datagram leaves."""
        target = self._by_host.get(address[0])
        if target is None or not sender.powered:
            return
        self.messages += 1
        self.note("datagram", sender.index, target.index, len(data))
        self.world.now = self.now
        self.world.send(
            sender.index, target.index, lambda d: target.deliver(address[1], d, sender.address), data, len(data)
        )

    async def connect(self, station: Station, address: Address) -> StreamEnd:
        """Dial. Raises ConnectionRefusedError, or goes on trying for as long as the caller waits."""
        target = self._by_host.get(address[0])
        if target is None:
            raise OSError(errno.EHOSTUNREACH, "No route to host")
        wait_s, held = SYN_RTO_S, list[StreamEnd]()
        try:
            while True:
                self.note("syn", station.index, target.index, 40)
                if self.passes(station, target):
                    await self._pause(self.delay_s())
                    listener = target.listeners.get(address[1])
                    if listener is None and target.powered:
                        await self._pause(self.delay_s())
                        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
                    if listener is not None and (end := listener.take(station)) is not None:
                        held.append(end)
                        await self._pause(self.delay_s())
                        return end
                await self._pause(wait_s)
                wait_s = min(2 * wait_s, RTO_MAX_S)
        except BaseException:
            for end in held:
                end.abort()
            raise

    async def _pause(self, seconds: float) -> None:
        over = self.loop.create_future()
        self.at(self.now + seconds, lambda: None if over.done() else over.set_result(None))
        await over


class Station:
    """A machine on the network: its address, its kernel, its power."""

    def __init__(self, network: Network, index: int) -> None:
        self.network = network
        self.index = index
        self.host = f"10.0.{index // 250}.{index % 250 + 1}"
        self.powered = True
        self.udp: dict[int, UdpEnd] = {}
        self.listeners: dict[int, Listener] = {}
        self.ends: dict[StreamEnd, None] = {}

    @property
    def address(self) -> Address:
        """Where it sends from."""
        return self.host, 40000

    async def listening(self, host: str, port: int, kind: socket.SocketKind) -> socket.socket:
        """As `meshnode.links.sockets.listening`."""
        taken: dict[int, Any] = self.listeners if kind is socket.SOCK_STREAM else self.udp
        if port in taken:
            raise ListenError(f"cannot listen on {host}:{port}: it is taken")
        taken[port] = Listener(self, port) if kind is socket.SOCK_STREAM else UdpEnd(self, port)
        return cast(socket.socket, taken[port])

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """As `socket.socketpair`."""
        return cast("tuple[socket.socket, socket.socket]", joined(self, self, socket.AF_UNIX))

    def deliver(self, port: int, data: bytes, source: Address) -> None:
        """A datagram comes."""
        if self.powered and (end := self.udp.get(port)) is not None:
            end.arrive(data, source)

    def kill(self) -> None:
        """Its process died: the kernel closes what it had open, and says so."""
        for end in list(self.ends):
            end.abort()
        for listener in list(self.listeners.values()):
            listener.close()
        for port in list(self.udp.values()):
            port.close()

    def power_off(self) -> None:
        """It is gone without a word."""
        self.powered = False
        self.kill()

    def open_sockets(self) -> list[str]:
        """What is not closed."""
        ports = [f"port {port}" for port in (*self.listeners, *self.udp)]
        return [*ports, *(f"a stream to {end.peername}" for end in self.ends)]


class UdpEnd:
    """A datagram socket, as far as `Datagrams` uses one."""

    family = socket.AF_INET

    def __init__(self, station: Station, port: int) -> None:
        self._station = station
        self._port = port
        self._here: deque[tuple[bytes, Address]] = deque()
        self._ring: Callable[[], object] | None = None

    def sendto(self, data: bytes, address: Address) -> int:
        """Send one."""
        self._station.network.datagram(self._station, data, address)
        return len(data)

    def recvfrom(self, _: int) -> tuple[bytes, Address]:
        """The next one. Raises BlockingIOError."""
        if not self._here:
            raise BlockingIOError
        return self._here.popleft()

    def watch(self, ring: Callable[[], object] | None) -> None:
        """Who is told that something is here."""
        self._ring = ring

    def arrive(self, data: bytes, source: Address) -> None:
        """One came."""
        if len(self._here) < DATAGRAMS_MAX:
            self._here.append((data, source))
        if len(self._here) == 1 and self._ring is not None:
            self._ring()

    def still_here(self) -> None:
        """The reader has had its turn, and may have left something."""
        if self._here and self._ring is not None:
            self._ring()

    def close(self) -> None:
        """No more."""
        self._ring = None
        self._station.udp.pop(self._port, None)


class Listener:
    """A listening socket."""

    family = socket.AF_INET

    def __init__(self, station: Station, port: int) -> None:
        self._station = station
        self._port = port
        self._backlog_max = 0
        self._backlog: deque[StreamEnd] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def listen(self, backlog: int) -> None:
        """Begin."""
        self._backlog_max = backlog

    def getsockname(self) -> Address:
        """Where."""
        return self._station.host, self._port

    def take(self, source: Station) -> StreamEnd | None:
        """The kernel takes a connection, whether or not the process looks; returns the dialler's end."""
        if len(self._backlog) >= self._backlog_max:
            return None
        there, here = joined(source, self._station, socket.AF_INET)
        there.peername = here.sockname = self.getsockname()
        here.peername = there.sockname = source.address
        self._backlog.append(here)
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break
        return there

    async def accept(self) -> StreamEnd:
        """The next one."""
        while not self._backlog:
            waiter = self._station.network.loop.create_future()
            self._waiting.append(waiter)
            await waiter
        return self._backlog.popleft()

    def close(self) -> None:
        """Nobody is let in any more; who waits is turned away."""
        self._station.listeners.pop(self._port, None)
        while self._backlog:
            self._backlog.popleft().abort()


def joined(one: Station, other: Station, family: socket.AddressFamily) -> tuple[StreamEnd, StreamEnd]:
    """The two ends of a new stream."""
    a, b = StreamEnd(one, family), StreamEnd(other, family)
    a.peer, b.peer = b, a
    one.ends[a] = other.ends[b] = None
    return a, b


class StreamEnd:
    """One end of a connected stream. `on_event` is told when something came or left."""

    peer: StreamEnd

    def __init__(self, station: Station, family: socket.AddressFamily) -> None:
        self.family = family
        self.peername: Any = ""
        self.sockname: Any = ""
        self.here: deque[Item] = deque()
        self.error: OSError | None = None
        self.on_event: Callable[[], object] | None = None
        self.waiting_bytes = 0
        """What is not on its way yet."""
        self._station = station
        self._network = station.network
        self._here_bytes = 0
        self._out: deque[Item] = deque()
        self._closed = False
        self._trying = False
        self._arrives_at = 0.0
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
        self.send(data)
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
        wake = self._network.loop.create_future()
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
            self._network.at(self._network.now, self.peer._push)

    def _leave(self) -> None:
        self._station.ends.pop(self, None)

    def _push(self) -> None:
        if not self._trying and self._out and self.peer._here_bytes < WINDOW_BYTES:
            self._trying = True
            self._try(RTO_S, self._network.now)

    def _try(self, rto_s: float, since: float) -> None:
        network, peer = self._network, self.peer
        if not self._out:
            self._trying = False
            return
        if not self._local and not network.passes(self._station, peer._station):
            if network.now - since > STREAM_GIVES_UP_S:
                self._trying = False
                self._break(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
                return
            network.at(network.now + rto_s, lambda: self._try(min(2 * rto_s, RTO_MAX_S), since))
            return
        items, nbytes = list[Item](), 0
        while self._out and (not items or nbytes + len(self._out[0]) <= SEGMENT_BYTES):
            items.append(self._out.popleft())
            nbytes += len(items[-1])
        self.waiting_bytes -= nbytes
        self._trying = False
        self._arrives_at = max(self._arrives_at, network.now + (0.0 if self._local else network.delay_s()))
        if not self._local:
            network.messages += 1
            network.note("stream", self._station.index, peer._station.index, nbytes)
        network.at(self._arrives_at, lambda: peer._arrive(items))
        self._push()
        self._tell()

    @property
    def _local(self) -> bool:
        return self.family is socket.AF_UNIX

    def _arrive(self, items: list[Item]) -> None:
        if not self._station.powered:
            return
        if self.error is not None or (self._closed and not isinstance(items[0], _Fin)):
            self._reset_peer()
            return
        self.here.extend(items)
        self._here_bytes += sum(map(len, items))
        self._tell()

    def _reset_peer(self, tries: int = 8) -> None:
        """The kernel answers that there is nothing here; a lost answer is given again to what is sent again."""
        network, peer = self._network, self.peer
        if self._local or network.passes(self._station, peer._station):
            wait_s = 0.0 if self._local else network.delay_s()
            reset = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            network.at(network.now + wait_s, lambda: peer._break(reset))
        elif tries and self._station.powered:
            network.at(network.now + RTO_S * 2 ** (8 - tries), lambda: self._reset_peer(tries - 1))

    def _break(self, error: OSError) -> None:
        if self.error is None and self._station.powered:
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
