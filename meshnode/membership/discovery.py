"""First peers: multicast DNS, seeds, and the peers of the last time. Each only yields addresses to try.

Whoever answers at an address proves who it is; nothing that is learnt here is believed. Failure of multicast is a
warning and never delays a start. What is announced: a random label, the port, the protocol version and a tag that
changes daily; no host, user or node name.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgpack
import psutil
from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from meshnode.config import Membership as Settings
from meshnode.config import host_port
from meshnode.errors import HomeError
from meshnode.links.pool import Address
from meshnode.membership.view import FoundBy
from meshnode.trust.files import read_checked, write_checked
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

log = logging.getLogger(__name__)

SERVICE = "_meshnode._udp.local."
VERSION = "1"
TAG_BYTES = 8
RETRY_MAX_S = 60.0
CANDIDATES_MAX = 256
VIRTUAL = ("docker", "br-", "veth", "virbr", "vmnet", "cni", "flannel", "podman", "lxc")
Try = Callable[[Address, NodeId | None, FoundBy], Awaitable[bool]]
"""Dial an address (of that node, when it is known whose it is); whether a member answered."""


def mesh_tag(mesh_id: str, now: float) -> str:
    """What tells a mesh's own services from others, for a day; strangers cannot link one day's to the next's."""
    day = int(now // 86400)
    return hmac.digest(bytes.fromhex(mesh_id), f"meshnode/mdns/1/{day}".encode(), "sha256")[:TAG_BYTES].hex()


def own_addresses(host: str) -> list[str]:
    """Addresses of this machine that others may reach when it listens on `host`: itself, or all real interfaces'."""
    if not ipaddress.ip_address(host).is_unspecified:
        return [host]
    wanted = {4} if host == "0.0.0.0" else {4, 6}  # noqa: S104 - compared, not bound
    found: list[str] = []
    loopback: list[str] = []
    for name, rows in psutil.net_if_addrs().items():
        for row in rows:
            try:
                address = ipaddress.ip_address(row.address.partition("%")[0])
            except ValueError:
                continue
            if address.version not in wanted or address.is_link_local:
                continue
            (loopback if address.is_loopback or name.startswith(VIRTUAL) else found).append(str(address))
    private_first = sorted(found, key=lambda a: (not ipaddress.ip_address(a).is_private, ":" in a, a))
    return private_first[:8] or [a for a in loopback if ":" not in a][:2]


def packed_peers(peers: Iterable[tuple[NodeId, Iterable[Address]]]) -> bytes:
    """The content of the remembered-peers file."""
    packed: bytes = msgpack.packb([[node, [list(address) for address in rows]] for node, rows in peers])
    return packed


class Discovery:
    """See the module's docstring.

    Args:
        attempt: dials an address.
        alone: whether this node has no link to anybody.
    """

    def __init__(
        self,
        home: Path,
        mesh_id: str,
        settings: Settings,
        rng: Rng,
        *,
        seeds: tuple[str, ...],
        mdns: bool,
        attempt: Try,
        alone: Callable[[], bool],
    ) -> None:
        self._file = home / "peers"
        self._mesh_id = mesh_id
        self._settings = settings
        self._rng = rng
        self._seeds = tuple(host_port(seed, default_port=7433) for seed in seeds)
        self._mdns = mdns
        self._attempt = attempt
        self._alone = alone
        self._remembered: list[tuple[NodeId, tuple[Address, ...]]] = []
        self._saved = b""
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._tried: dict[Address, float] = {}
        self.mdns_error = ""

    async def start(self, listen: Address) -> None:
        """Begin to look, in the background. Raises ConfigError for a seed that is no address."""
        payload = read_checked(self._file)
        if payload is not None:
            with suppress(ValueError, TypeError, msgpack.UnpackException):
                rows = msgpack.unpackb(payload)
                self._remembered = [(NodeId(i), tuple((str(h), int(p)) for h, p in a)) for i, a in rows]
        self._start(self._look())
        if self._mdns:
            self._start(self._announce(listen))

    async def stop(self) -> None:
        """Stop looking; take the announcement back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._browser is not None:
            await self._browser.async_cancel()
        if self._zeroconf is not None:
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(1.0):
                    await self._zeroconf.async_unregister_all_services()
            await self._zeroconf.async_close()

    def remember(self, peers: list[tuple[NodeId, tuple[Address, ...]]]) -> None:
        """Keep these for the next start."""
        fresh = {node for node, _ in peers}
        kept = [row for row in self._remembered if row[0] not in fresh]
        self._remembered = [*peers, *kept][: self._settings.remembered_max]
        payload = packed_peers(self._remembered)
        if payload != self._saved:
            try:
                write_checked(self._file, payload)
                self._saved = payload
            except HomeError as error:
                log.warning("the peers are not remembered: %s", error)

    def forget(self, node: NodeId) -> None:
        """A node is out for good."""
        self._remembered = [row for row in self._remembered if row[0] != node]

    # --- seeds and remembered peers ---

    async def _look(self) -> None:
        """At once, then with growing pauses while nobody is found; seeds also now and then when all is well."""
        delay_s = self._settings.seed_retry_s
        while True:
            rows = list(self._remembered)
            tries: list[Awaitable[bool]] = []
            if self._alone():
                for node, addresses in rows[:8]:
                    tries += [self._attempt(address, node, "remembered") for address in addresses[:3]]
            tries += [self._attempt(address, None, "seed") for address in self._seeds]
            await asyncio.gather(*tries)
            delay_s = min(delay_s * 2, RETRY_MAX_S) if self._alone() else RETRY_MAX_S * 5
            end = time.monotonic() + delay_s * self._rng.uniform(0.75, 1.25)
            while time.monotonic() < end:
                await asyncio.sleep(min(1.0, max(0.0, end - time.monotonic())))
                if delay_s > RETRY_MAX_S and self._alone():
                    delay_s = self._settings.seed_retry_s  # everyone is gone: look again soon
                    break

    # --- multicast DNS ---

    async def _announce(self, listen: Address) -> None:
        host, port = listen
        try:
            interfaces = own_addresses(host)
            self._zeroconf = AsyncZeroconf(
                interfaces=interfaces or InterfaceChoice.Default,
                ip_version=IPVersion.V4Only if all(":" not in a for a in interfaces) else IPVersion.All,
            )
            label = secrets.token_hex(8)
            info = AsyncServiceInfo(
                SERVICE,
                f"{label}.{SERVICE}",
                port=port,
                properties={"v": VERSION, "t": mesh_tag(self._mesh_id, time.time())},
                parsed_addresses=interfaces,
                server=f"{label}.local.",
            )
            self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._seen])
            await self._zeroconf.async_register_service(info)
        except Exception as error:  # sockets, interfaces, name clashes: whatever it is, the mesh works without it
            self.mdns_error = f"{type(error).__name__}: {error}"
            log.warning("multicast discovery is off: %s", self.mdns_error)

    def _seen(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is not ServiceStateChange.Removed:
            self._start(self._resolve(zeroconf, service_type, name))

    async def _resolve(self, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        info = AsyncServiceInfo(service_type, name)
        if not await info.async_request(zeroconf, 3000) or info.port is None or not 1024 <= info.port <= 65535:
            return
        tag = (info.properties or {}).get(b"t")
        now = time.time()
        if tag not in {mesh_tag(self._mesh_id, now + day * 86400).encode() for day in (-1, 0, 1)}:
            return
        for text in info.parsed_addresses()[:8]:
            address = (text, info.port)
            if ipaddress.ip_address(text).is_multicast or time.monotonic() - self._tried.get(address, -1e9) < 10:
                continue
            if len(self._tried) >= CANDIDATES_MAX:
                self._tried.clear()
            self._tried[address] = time.monotonic()
            if await self._attempt(address, None, "mdns"):
                return

    def _start(self, work: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("discovery: %r", error)
