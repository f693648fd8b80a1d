"""The rig's Ethernet switch: one process in a network namespace of its own, with a cable to each host's.

    unshare -n python -m tests.rig.switch '{"seed": 1, "hosts": [[0], [0], [0, 1], [1]]}'      (-Urn without root)

Each host is a list of subnets; on each it has a device, the far end of a veth pair whose near end the switch reads raw.
A host's namespace lives in a process that waits for the end of its stdin, so that all of it is gone when the switch is,
however it ended. The switch says {"ready": true, "hosts": [PID, …]} on stdout, then takes one JSON command a line on
stdin, and answers each on a line: {"set": [SENDER, RECEIVER], "loss": 0.1, …} (-1 for any), {"heal": true},
{"record": FILE} (every frame that comes in, from now on; null ends it), {}.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tests.rig.wires import Wires

SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
SO_RCVBUFFORCE, BUFFER_BYTES = 33, 4 * 1024 * 1024
ETH_P_ALL = 0x0003
FRAMES_A_TURN = 64
FRAME_BYTES = 65_550
NAMESPACE = ["unshare", "-n", "sh", "-c", "echo; exec cat"]
"""Holds a network namespace until its stdin ends; says when it is there."""


@dataclass(frozen=True, slots=True)
class Port:
    """A host's device on a subnet."""

    host: int
    subnet: int
    socket: socket.socket


def address(host: int, subnet: int) -> str:
    """A host's IPv4 address on a subnet."""
    return f"10.77.{subnet}.{host + 1}"


def inside(pid: int, *command: str) -> list[str]:
    """A command as it runs in the network namespace of a process, in the same user namespace as the caller."""
    return ["nsenter", "-t", str(pid), "-n", "--", *command]


def hold(hosts: int) -> list[subprocess.Popen[bytes]]:
    """A namespace for each host, as the process that holds it."""
    holders = [subprocess.Popen(NAMESPACE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(hosts)]
    for holder in holders:
        assert holder.stdout is not None
        assert holder.stdout.readline(), "`unshare -n` failed"
    return holders


def build(hosts: list[list[int]], pids: list[int]) -> list[Port]:
    """Lay the cables: devices, addresses and routes."""
    ports = []
    for host, (subnets, pid) in enumerate(zip(hosts, pids, strict=True)):
        lines = ["link set lo up"]
        for number, subnet in enumerate(subnets):
            near, far = f"p{host}x{number}", f"q{host}x{number}"
            _ip(f"link add {near} type veth peer name {far}", f"link set {near} up")
            _whole_checksums(far)
            _ip(f"link set {far} netns {pid}")
            ports.append(Port(host, subnet, _raw(near)))
            lines += _lines(host, subnet, number, far)
        _ip(*lines, where=inside(pid))
    return ports


def _ip(*lines: str, where: list[str] | None = None) -> None:
    subprocess.run([*(where or []), "ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _lines(host: int, subnet: int, number: int, device: str) -> list[str]:
    eth = f"eth{number}"
    lines = [
        f"link set {device} name {eth}",
        f"link set {eth} up",
        f"addr add {address(host, subnet)}/24 brd + dev {eth}",
        f"addr add fd77:{subnet}::{host + 1}/64 dev {eth} nodad",
    ]
    # Without a default route there is no way for multicast.
    return [*lines, f"route add default dev {eth}"] if number == 0 else lines


def _whole_checksums(device: str) -> None:
    """What the host sends has its checksums in it and is no larger than a frame; a veth leaves both to the receiver."""
    value = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_STXCSUM, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP16x", device.encode(), ctypes.addressof(value)))


def _raw(device: str) -> socket.socket:
    """Every frame that comes out of a device, and none that goes in."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)  # deaf until it is bound, so nothing else is heard before
    raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    with suppress(PermissionError):  # only the machine's root may go past the machine's limit
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    raw.bind((device, ETH_P_ALL))
    raw.setblocking(False)
    return raw


class Switch:
    """Learns where hosts are, floods what it does not know, and asks the wires about each frame."""

    def __init__(self, ports: list[Port], wires: Wires) -> None:
        self.ports = {port.socket.fileno(): port for port in ports}
        self.wires = wires
        self._where: dict[tuple[int, bytes], Port] = {}
        self._late: list[tuple[float, int, Port, bytes]] = []
        self._order = 0
        self._record: BinaryIO | None = None

    def run(self) -> None:
        """Until stdin ends."""
        poll = select.epoll()
        for fd in self.ports:
            poll.register(fd, select.EPOLLIN)
        poll.register(0, select.EPOLLIN)
        os.set_blocking(0, False)
        unread = b""
        while True:
            wait_s = max(0.0, self._late[0][0] - time.monotonic()) if self._late else -1
            for fd, _ in poll.poll(wait_s):
                if fd != 0:
                    self._read(self.ports[fd])
                    continue
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    print(json.dumps(self.obey(json.loads(line))), flush=True)
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                _, _, port, frame = heapq.heappop(self._late)
                _write(port, frame)

    def _record_into(self, path: str | None) -> None:
        if self._record is not None:
            self._record.close()
        self._record = None if path is None else Path(path).open("wb")  # noqa: SIM115 - until the next command

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command."""
        try:
            if "set" in command:
                sender, receiver = command.pop("set")
                self.wires.set(sender, receiver, **command)
            elif "heal" in command:
                self.wires.heal()
            elif "record" in command:
                self._record_into(command["record"])
            return {"ok": True, "passed": self.wires.passed, "dropped": self.wires.dropped, "dials": self.wires.dials}
        except (ValueError, TypeError) as error:
            return {"ok": False, "error": str(error)}

    def _read(self, port: Port) -> None:
        for _ in range(FRAMES_A_TURN):
            try:
                frame = port.socket.recv(FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:
                return  # the device is down
            if self._record is not None:
                self._record.write(frame)
            self._where[port.subnet, frame[6:12]] = port
            known = None if frame[0] & 1 else self._where.get((port.subnet, frame[0:6]))
            for to in [known] if known is not None else list(self.ports.values()):
                if to.subnet == port.subnet and to is not port:
                    self._forward(port, to, frame)

    def _forward(self, port: Port, to: Port, frame: bytes) -> None:
        now = time.monotonic()
        for at in self.wires.carry(now, port.host, to.host, frame):
            if at <= now:
                _write(to, frame)
            else:
                self._order += 1
                heapq.heappush(self._late, (at, self._order, to, frame))


def _write(port: Port, frame: bytes) -> None:
    with suppress(OSError):  # the device is down, or its queue is full: lost, as on a real wire
        port.socket.send(frame)


def main() -> None:
    """See the module's docstring."""
    given = json.loads(sys.argv[1])
    holders = hold(len(given["hosts"]))
    pids = [holder.pid for holder in holders]
    ports = build(given["hosts"], pids)
    print(json.dumps({"ready": True, "hosts": pids}), flush=True)
    with suppress(KeyboardInterrupt):
        Switch(ports, Wires(given["seed"])).run()


if __name__ == "__main__":
    main()
