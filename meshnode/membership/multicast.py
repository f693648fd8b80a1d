"""Multicast DNS: says that this node is here, asks who else is, and listens. The shell around python-zeroconf.

One instance lives on one state of the network. When that changes, or the machine woke, a new one takes its place with
a new label: `async_update_interfaces` compares addresses only, so an interface that went and came back with its old
address stays deaf and mute (measured), and a new label makes names that conflict impossible and is news to neighbours.
There is no service browser: it asks four times and then falls silent, also when the answers were lost. Here questions
are asked by who needs an answer, as long as it does, and everybody listens.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import zeroconf
from zeroconf import IPVersion, RecordUpdate, RecordUpdateListener, Zeroconf
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from meshnode.links.address import Address, scoped
from meshnode.membership.candidates import ADDRESSES_MAX, Gone, Heard
from meshnode.membership.interfaces import Network, rank

log = logging.getLogger(__name__)

SERVICE = "_meshnode._udp.local."
VERSION = "1"
TAG_BYTES = 8
PORT_MIN = 1024
RESOLVING_MAX = 16
"""Announcements that came in pieces and are asked for at once; further ones are heard when they are said again."""
RESOLVE_MS = 3000
CLOSE_S = 1.0
SPEAK_AGAIN_S, SPEAK_EVERY_S = 0.5, 1.0
"""Who is asked to be heard says it twice, for one may be lost; and not more often than this."""
LABELS_MAX = 256
QUESTION, POINTER, INTERNET = 0, 12, 1
"""DNS: the flags of a question, the PTR type, the IN class."""


def mesh_tag(mesh_id: str, day: int) -> str:
    """What tells a mesh's own services from others, for a day; strangers cannot link one day's to the next's."""
    return hmac.digest(bytes.fromhex(mesh_id), f"meshnode/mdns/1/{day}".encode(), "sha256")[:TAG_BYTES].hex()


def today() -> int:
    """Days since 1970, UTC."""
    return int(time.time() // 86400)


class Multicast(RecordUpdateListener):
    """See the module's docstring.

    Args:
        port: where this node listens; with 0 it announces nothing, and only asks.
        heard: called for each service of this mesh that is announced or taken back, and is not this node's.
    """

    def __init__(self, mesh_id: str, network: Network, port: int, *, heard: Callable[[Heard | Gone], None]) -> None:
        self.label = ""
        self.complete = False
        """Whether every interface could be used; an IPv6 address cannot in its first two seconds (RFC 4862)."""
        self.day = today()
        self.responses_heard = 0
        self.own_heard = 0
        self.heard_at: dict[str, float] = {}
        """When each label was last heard, monotonic; the newest last."""
        self._spoke_at = float("-inf")
        self._mesh_id = mesh_id
        self._network = network
        self._port = port
        self._heard = heard
        self._zeroconf: AsyncZeroconf | None = None
        self._info: AsyncServiceInfo | None = None
        self._said: set[str] = set()
        self._taken_back: set[str] = set()
        self._resolving: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions = 0

    # --- life ---

    async def open(self) -> None:
        """Listen, and announce this node, three times in half a second. Raises whatever sockets may raise."""
        logging.getLogger("zeroconf").setLevel(logging.ERROR)  # what it warns of is seen and told here
        interfaces = self._interfaces()
        self._zeroconf = AsyncZeroconf(interfaces=interfaces, ip_version=self._versions())
        await self._zeroconf.zeroconf.async_wait_for_start()
        senders = len(self._zeroconf.zeroconf.engine.senders)
        if senders == 0:
            names = ", ".join(it.name for it in self._network.used)
            raise OSError(f"no interface of {names} could join the multicast group")
        self.complete = senders == len(interfaces)
        self._zeroconf.zeroconf.async_add_listener(self, None)
        if self._port:
            await self.announce_anew()

    async def close(self) -> None:
        """Take the announcement back and be gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._zeroconf is not None:
            self.withdraw()
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(CLOSE_S):
                    await self._zeroconf.async_close()
            self._zeroconf = None

    def _interfaces(self) -> list[str | int]:
        """One IPv4 address an interface; for IPv6 its number, for one link-local address may be on several."""
        found: list[str | int] = []
        for it in self._network.used:
            found += sorted((a for a in it.addresses if ":" not in a), key=rank)[:1]
            found += [it.index] if it.index and any(":" in a for a in it.addresses) else []
        return found

    def _versions(self) -> IPVersion:
        sixes = {":" in address for it in self._network.used for address in it.addresses}
        return IPVersion.All if sixes == {True, False} else IPVersion.V6Only if True in sixes else IPVersion.V4Only

    # --- speaking ---

    async def announce_anew(self, label: str = "") -> None:
        """Announce, under a new label unless one is given.

        Names that people choose have to be asked for first, which takes a second (RFC 6762, 8.1). These are 64 random
        bits each, and nobody who answers to every name can keep this node from announcing itself.
        """
        assert self._zeroconf is not None
        self.label = label or secrets.token_hex(8)
        self._info = AsyncServiceInfo(
            SERVICE,
            f"{self.label}.{SERVICE}",
            port=self._port,
            properties={"v": VERSION, "t": mesh_tag(self._mesh_id, self.day)},
            parsed_addresses=[a.partition("%")[0] for a in self._network.announced],
            server=f"{self.label}.local.",
        )
        await (await self._zeroconf.async_register_service(self._info, cooperating_responders=True))

    def announce(self) -> None:
        """Say once more that this node is here."""
        if self._zeroconf is not None and self._info is not None:
            it = self._zeroconf.zeroconf
            it.async_send(it.generate_service_broadcast(self._info, None))

    @property
    def speaks_as(self) -> str:
        """The label under which this node announces itself; empty while it does not."""
        return self.label if self._info is not None else ""

    def speak_up(self) -> None:
        """Say that this node is here to somebody who listens now, to see whether it arrives."""
        now = time.monotonic()
        if now - self._spoke_at >= SPEAK_EVERY_S:
            self._spoke_at = now
            self.announce()
            asyncio.get_running_loop().call_later(SPEAK_AGAIN_S, self.announce)

    def withdraw(self) -> None:
        """Take the announcement back, in one packet, and answer no more questions."""
        if self._zeroconf is not None and self._info is not None:
            it = self._zeroconf.zeroconf
            goodbye = it.generate_unregister_all_services()
            if goodbye is not None:
                it.async_send(goodbye)
            self._info = None

    def ask(self) -> None:
        """Ask who is there. Every other question wants its answers by unicast, which pass where multicast does not."""
        if self._zeroconf is not None:
            question = zeroconf.DNSQuestion(SERVICE, POINTER, INTERNET)  # type: ignore[attr-defined]
            question.unicast = self._questions % 2 == 1
            self._questions += 1
            packet = zeroconf.DNSOutgoing(QUESTION)  # type: ignore[attr-defined]
            packet.add_question(question)
            self._zeroconf.zeroconf.async_send(packet)

    # --- listening ---

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """A response came, or records in the cache ran out; the cache has them a moment later."""
        fresh = [update.new for update in records if not update.new.is_expired(now)]
        own = False
        for record in (update.new for update in records):
            if record.type == POINTER and record.name == SERVICE:
                label = str(getattr(record, "alias", "")).removesuffix(f".{SERVICE}")
                if label == self.label:
                    own = True
                elif record.is_expired(now):
                    self._taken_back.add(label)
                else:
                    self._said.add(label)
                    self._note(label)
        if own:
            self.own_heard += 1
        elif fresh:
            self.responses_heard += 1

    def _note(self, label: str) -> None:
        self.heard_at.pop(label, None)
        self.heard_at[label] = time.monotonic()
        if len(self.heard_at) > LABELS_MAX:
            del self.heard_at[next(iter(self.heard_at))]

    def async_update_records_complete(self) -> None:
        """The records of the response are in the cache."""
        said, self._said = self._said, set()
        gone, self._taken_back = self._taken_back, set()
        for label in gone:
            self._heard(Gone(label))
        for label in said - self._resolving:
            info = AsyncServiceInfo(SERVICE, f"{label}.{SERVICE}")
            if self._zeroconf is not None and info.load_from_cache(self._zeroconf.zeroconf):
                self._judge(label, info)
            elif len(self._resolving) < RESOLVING_MAX:
                self._resolving.add(label)
                self._start(self._resolve(label, info))

    async def _resolve(self, label: str, info: AsyncServiceInfo) -> None:
        try:
            if self._zeroconf is not None and await info.async_request(self._zeroconf.zeroconf, RESOLVE_MS):
                self._judge(label, info)
        finally:
            self._resolving.discard(label)

    def _judge(self, label: str, info: AsyncServiceInfo) -> None:
        """Is it a service of this mesh, and where?"""
        port = info.port or 0
        tag = (info.properties or {}).get(b"t")
        if not PORT_MIN <= port <= 65535 or tag not in {
            mesh_tag(self._mesh_id, today() + day).encode() for day in (-1, 0, 1)
        }:
            return
        addresses = usable(info.parsed_scoped_addresses(), port)
        if addresses:
            self._heard(Heard(label, addresses))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def usable(hosts: list[str], port: int) -> tuple[Address, ...]:
    """The announced addresses that may be dialled, in the order in which to try them.

    A link-local one has the interface on which it was heard; without that it means nothing and is left out.
    """
    found: dict[Address, bool] = {}
    for text in hosts:
        host, _, scope = text.partition("%")
        try:
            it = ipaddress.ip_address(host)
        except ValueError:
            continue
        local = it.version == 6 and it.is_link_local
        if (local and not scope.isdecimal()) or it.is_multicast or it.is_loopback or it.is_unspecified:
            continue
        found[scoped(host, int(scope) if local else 0), port] = it.is_link_local
    return tuple(sorted(found, key=lambda address: found[address])[:ADDRESSES_MAX])
