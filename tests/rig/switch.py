"""The rig's Ethernet switch: one process that owns a TAP device in each host's network namespace.

    python -m tests.rig.switch '{"prefix": "mnrig123", "seed": 1, "hosts": [[0], [0], [0, 1], [1]]}'

Each host is a list of subnets; on each it has a device. The switch says {"ready": true, …} on stdout, then takes one
JSON command a line on stdin, and answers each on a line: {"set": [SENDER, RECEIVER], "loss": 0.1, …} (-1 for any),
{"heal": true}. When stdin ends it removes the namespaces and ends, so that nothing outlives who started it.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import select
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.rig.wires import Wires

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAMES_A_TURN = 64
FRAME_BYTES = 65_550


@dataclass(frozen=True, slots=True)
class Port:
    """A host's device on a subnet."""

    host: int
    subnet: int
    fd: int


def ip(*lines: str) -> None:
    """Run `ip` with some lines. Raises CalledProcessError."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, capture_output=True)


def namespace(prefix: str, host: int) -> str:
    """The name of a host's namespace."""
    return f"{prefix}-{host}"


def address(host: int, subnet: int) -> str:
    """A host's IPv4 address on a subnet."""
    return f"10.77.{subnet}.{host + 1}"


def build(prefix: str, hosts: list[list[int]]) -> list[Port]:
    """Make the namespaces with their devices, addresses and routes."""
    ports = []
    ip(*(f"netns add {namespace(prefix, host)}" for host in range(len(hosts))))
    for host, subnets in enumerate(hosts):
        name = namespace(prefix, host)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        for number, subnet in enumerate(subnets):
            device = f"{prefix[-8:]}{host}x{number}"
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
            ip(f"link set {device} netns {name}")
            subprocess.run(
                ["ip", "-n", name, "-batch", "-"],
                input="\n".join(_lines(host, subnet, number, device)),
                text=True,
                check=True,
            )
            ports.append(Port(host, subnet, fd))
    return ports


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


def remove(prefix: str) -> None:
    """Remove all namespaces of a prefix; devices go with them."""
    with suppress(FileNotFoundError):
        for name in os.listdir("/run/netns"):
            if name.startswith(f"{prefix}-"):
                subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def remove_left_behind() -> None:
    """Remove the namespaces of switches that were killed: the prefix ends with their process id."""
    with suppress(FileNotFoundError):
        for name in os.listdir("/run/netns"):
            pid = name.removeprefix("mnrig").partition("-")[0]
            if name.startswith("mnrig") and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class Switch:
    """Learns where hosts are, floods what it does not know, and asks the wires about each frame."""

    def __init__(self, ports: list[Port], wires: Wires) -> None:
        self.ports = {port.fd: port for port in ports}
        self.wires = wires
        self._where: dict[tuple[int, bytes], Port] = {}
        self._late: list[tuple[float, int, int, bytes]] = []
        self._order = 0

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
                _, _, fd, frame = heapq.heappop(self._late)
                self._write(fd, frame)

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command."""
        try:
            if "set" in command:
                sender, receiver = command.pop("set")
                self.wires.set(sender, receiver, **command)
            elif "heal" in command:
                self.wires.heal()
            return {"ok": True, "passed": self.wires.passed, "dropped": self.wires.dropped}
        except (ValueError, TypeError) as error:
            return {"ok": False, "error": str(error)}

    def _read(self, port: Port) -> None:
        for _ in range(FRAMES_A_TURN):
            try:
                frame = os.read(port.fd, FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:
                return  # the device is down
            self._where[port.subnet, frame[6:12]] = port
            known = None if frame[0] & 1 else self._where.get((port.subnet, frame[0:6]))
            for to in [known] if known is not None else list(self.ports.values()):
                if to.subnet == port.subnet and to.fd != port.fd:
                    self._forward(port, to, frame)

    def _forward(self, port: Port, to: Port, frame: bytes) -> None:
        now = time.monotonic()
        for at in self.wires.carry(now, port.host, to.host, frame):
            if at <= now:
                self._write(to.fd, frame)
            else:
                self._order += 1
                heapq.heappush(self._late, (at, self._order, to.fd, frame))

    def _write(self, fd: int, frame: bytes) -> None:
        with suppress(OSError):  # the device is down, or its queue is full: lost, as on a real wire
            os.write(fd, frame)


def main() -> None:
    """See the module's docstring."""
    given = json.loads(sys.argv[1])
    prefix = given["prefix"]
    try:
        ports = build(prefix, given["hosts"])
        print(json.dumps({"ready": True}), flush=True)
        Switch(ports, Wires(given["seed"])).run()
    except KeyboardInterrupt:
        pass
    finally:
        remove(prefix)


if __name__ == "__main__":
    main()
