"""The machines of a simulated network, each with its kernel: addresses, ports, streams, and its power."""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import Any, cast

from meshnode.errors import ListenError
from meshnode.links.address import Address
from meshnode.sim.shells.sockets import Listener, UdpEnd
from meshnode.sim.shells.streams import RTO_MAX_S, Ends, StreamEnd, joined
from meshnode.sim.shells.wire import Place, Wire
from meshnode.sim.world import SYN_RTO_S


class Network(Wire):
    """The wire and all that hangs on it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stations: list[Station] = []
        self._by_host: dict[str, Station] = {}

    def add(self) -> Station:
        """One station more."""
        station = Station(self, len(self.stations))
        self.stations.append(station)
        self._by_host[station.host] = station
        return station

    def datagram(self, sender: Station, data: bytes, address: Address) -> None:
        """One datagram leaves."""
        target = self._by_host.get(address[0])
        if target is None or not sender.hears:
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
        wait_s, taken = SYN_RTO_S, list[StreamEnd]()
        try:
            while True:
                self.note("syn", station.index, target.index, 40)
                if self.passes(station, target):
                    await self.pause(self.delay_s())
                    listener = target.listeners.get(address[1])
                    if listener is None and target.powered:
                        await self.pause(self.delay_s())
                        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
                    if listener is not None and (end := listener.take(station.ends)) is not None:
                        taken.append(end)
                        await self.pause(self.delay_s())
                        return end
                await self.pause(wait_s)
                wait_s = min(2 * wait_s, RTO_MAX_S)
        except BaseException:
            for end in taken:
                end.abort()
            raise


class Station(Place):
    """A machine on the network."""

    def __init__(self, network: Network, index: int) -> None:
        super().__init__(index)
        self.network = network
        self.udp: dict[int, UdpEnd] = {}
        self.listeners: dict[int, Listener] = {}
        self.ends = Ends(network, self, (self.host, 40000))

    @property
    def address(self) -> Address:
        """Where it sends from."""
        return self.ends.address

    async def listening(self, host: str, port: int, kind: socket.SocketKind) -> socket.socket:
        """As `meshnode.links.sockets.listening`."""
        taken: dict[int, Any] = self.listeners if kind is socket.SOCK_STREAM else self.udp
        if port in taken:
            raise ListenError(f"cannot listen on {host}:{port}: it is taken")
        closed = partial(taken.pop, port, None)
        if kind is socket.SOCK_STREAM:
            taken[port] = Listener(self.ends, (self.host, port), closed)
        else:
            taken[port] = UdpEnd(lambda data, to: self.network.datagram(self, data, to), closed)
        return cast(socket.socket, taken[port])

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """As `socket.socketpair`."""
        return cast("tuple[socket.socket, socket.socket]", joined(self.ends, self.ends, socket.AF_UNIX))

    def deliver(self, port: int, data: bytes, source: Address) -> None:
        """A datagram comes."""
        if self.hears and (end := self.udp.get(port)) is not None:
            end.arrive(data, source)

    def kill(self) -> None:
        """Its process died: the kernel closes what it had open, and says so."""
        for end in list(self.ends.open):
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
        return [*ports, *(f"a stream to {end.peername}" for end in self.ends.open)]
