"""Finding out, and telling, what two members see of each other: the shell around `facts`. It judges nothing.

Everything here is asked for by a person at one of the two ends, is bounded in time, and leaves links as they are.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from meshnode.edge.facts import Clock, Disk, Hearing, Here, PeerFacts
from meshnode.edge.node import Node
from meshnode.errors import MeshError, Refused
from meshnode.links.address import Address, plain
from meshnode.links.link import Link, Reply, path_of
from meshnode.links.probing import probe_all
from meshnode.membership import reading
from meshnode.membership.view import Member
from meshnode.wire.looks import Look, LookAsk, ReachAsk, Reached, Try
from meshnode.wire.messages import NodeId, StreamPing

LINK_S, CALL_S, ALL_S = 4.0, 2.0, 9.5
PING_S = 1.2
LISTEN_S = 1.2
"""Multicast that was asked for is waited for so long: it is said twice, half a second apart."""
RECENT_S = 1.0
"""What was heard so long before the question is as good as an answer to it."""
DISK_S = 3.0
DISK_BYTES = 64 * 1024
REACHING_MAX = 4
ADDRESSES_MAX = 8


# --- what peers ask ---


@dataclass(frozen=True, slots=True)
class Looker:
    """Answers peers that want to know what is seen of them."""

    node: Node
    _reaching: dict[NodeId, asyncio.Task[tuple[Try, ...]]] = field(default_factory=dict)

    def look(self, request: LookAsk, peer: NodeId) -> Reply:
        """What this node hears of that peer."""
        node, now = self.node, time.monotonic()
        multicast = node.discovery.multicast
        if request.announce and multicast is not None:
            multicast.speak_up()
        heard = multicast.heard_at.get(request.label) if multicast is not None else None
        datagram = node.membership.datagrams.heard.get(peer)
        return Reply(
            Look(
                wall=time.time(),
                label=multicast.speaks_as if multicast is not None else "",
                heard_s=None if heard is None else now - heard,
                datagram_s=None if datagram is None else now - datagram,
            )
        )

    async def reach(self, peer: NodeId) -> Reply:
        """Try the peer's own addresses: those that it signed, and no others. Raises Refused.

        Whoever asks again meanwhile gets the same answer.
        """
        if peer not in self._reaching:
            if len(self._reaching) >= REACHING_MAX:
                raise Refused(f"this node is dialling for {REACHING_MAX} others already", retry_after_s=ALL_S)
            work = probe_all(self.node.membership.addresses(peer)[:ADDRESSES_MAX])
            task = self._reaching[peer] = asyncio.ensure_future(work)
            task.add_done_callback(lambda _: self._reaching.pop(peer))
        return Reply(Reached(tries=await asyncio.shield(self._reaching[peer])))


# --- this machine ---


def here(node: Node) -> Here:
    """Its addresses, subnets and port."""
    host, port = node.address
    subnets = tuple(reading.subnets())
    listens = {4, 6} if host == "::" else {6 if ":" in host else 4}
    families = frozenset(subnet.version for subnet, _ in subnets if not subnet.is_link_local)
    wildcard = ip_address(host.partition("%")[0]).is_unspecified
    company = any(not link.silent for link in node.pool.links())
    return Here(port, families, frozenset(listens), wildcard, company, subnets)


async def disk(home: Path, reserve: int) -> Disk:
    """Write a little, and see."""
    free = shutil.disk_usage(home).free
    try:
        async with asyncio.timeout(DISK_S):
            await asyncio.to_thread(_write, home)
    except TimeoutError:
        return Disk(str(home), free, reserve, errno.EIO, f"writing 64 kB does not end within {DISK_S:.0f} s")
    except OSError as error:
        return Disk(str(home), free, reserve, error.errno or errno.EIO, error.strerror or str(error))
    return Disk(str(home), free, reserve)


def _write(home: Path) -> None:
    path = home / f".doctor-{secrets.token_hex(4)}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        left = memoryview(bytes(DISK_BYTES))
        while left:  # a disk with room for a part of it takes that part, without a word
            left = left[os.write(fd, left) :]
        os.fsync(fd)
    finally:
        os.close(fd)
        path.unlink()


def clock(node: Node) -> Clock:
    """Now, and the newest that the mesh has signed."""
    newest = max((grant.granted_at for grant in node.keeper.statements.members()), default=0)
    return Clock(now=time.time(), newest_grant=newest)


def hearing(node: Node) -> Hearing:
    """Multicast as this machine counts it."""
    it = node.discovery
    return Hearing(
        on=node.settings.discovery.mdns,
        error=it.multicast_error,
        used=it.interfaces_used,
        skipped=it.interfaces_skipped,
        heard=it.packets_heard,
        own_heard=it.own_packets_heard,
        found=sum(member.found_by == "mdns" for member in node.membership.view()),
    )


# --- a peer ---


async def look_at(node: Node, here: Here, member: Member, *, back: bool) -> PeerFacts:
    """All about one peer, at once; with `back`, it is asked to dial this node."""
    known = PeerFacts(
        id=member.id,
        name=member.name,
        state=member.state,
        reason=member.reason,
        found_by=member.found_by,
        addresses=member.addresses,
    )
    if member.state == "left":
        return known
    began = time.monotonic()
    multicast = node.discovery.multicast
    if multicast is not None:
        multicast.speak_up()
    tries, datagram_s, asked = await asyncio.gather(
        probe_all(member.addresses[:ADDRESSES_MAX]), _datagram(node, member), _over_link(node, member, began, back=back)
    )
    return replace(
        known,
        **asked,
        tries=tries,
        datagram_s=datagram_s,
        keyed=node.membership.datagrams.knows(member.id),
        next_hop=here.device(_from(member.addresses)),
    )


async def _datagram(node: Node, member: Member) -> float | None:
    """The round trip to the first address that answers."""
    pings = (
        node.membership.datagrams.ping(member.id, address, timeout_s=PING_S)
        for address in member.addresses[:ADDRESSES_MAX]
    )
    return min((took for took in await asyncio.gather(*pings) if took is not None), default=None)


async def _over_link(node: Node, member: Member, began: float, *, back: bool) -> dict[str, Any]:
    """What the peer says over the link, whichever way that takes."""
    facts: dict[str, Any] = {}
    try:
        async with asyncio.timeout(LINK_S):
            link = await node.pool.link(member.id, member.addresses)
        facts["path"] = path_of(link)
        asked = time.monotonic()
        await link.call(StreamPing(), timeout_s=CALL_S)
        facts["rtt_s"] = time.monotonic() - asked
    except (MeshError, TimeoutError) as error:
        facts["link_error"] = str(error) or f"no answer within {LINK_S:.0f} s"
        facts["link_hint"] = getattr(error, "hint", "")
        return facts
    listened, reached = await asyncio.gather(_listen(node, link, began), _reach(link, began) if back else _nothing())
    return facts | listened | reached


async def _nothing() -> dict[str, Any]:
    return {}


async def _listen(node: Node, link: Link, began: float) -> dict[str, Any]:
    """Its clock; whether it hears our multicast and datagrams, and we its multicast. A version that cannot tell: {}."""
    multicast = node.discovery.multicast
    label = multicast.speaks_as if multicast is not None else ""
    facts: dict[str, Any] = {}
    try:
        asked, wall = time.monotonic(), time.time()
        first = (await link.call(LookAsk(label=label, announce=True), timeout_s=CALL_S)).message
        took = time.monotonic() - asked
        if isinstance(first, Look):
            facts |= {"wall": first.wall, "offset_s": first.wall - (wall + took / 2)}
        await asyncio.sleep(LISTEN_S)
        look = (await link.call(LookAsk(label=label), timeout_s=CALL_S)).message
    except MeshError:
        return facts
    if not isinstance(look, Look):
        return facts
    recent_s = time.monotonic() - began + RECENT_S
    facts["datagram_there"] = look.datagram_s is not None and look.datagram_s < recent_s
    if multicast is not None and label and look.label:
        facts["hears_us"] = look.heard_s is not None and look.heard_s < recent_s
        facts["heard_here"] = multicast.heard_at.get(look.label, float("-inf")) > asked - RECENT_S
    return facts


async def _reach(link: Link, began: float) -> dict[str, Any]:
    try:
        left_s = max(CALL_S, ALL_S - (time.monotonic() - began))
        answer = (await link.call(ReachAsk(), timeout_s=left_s)).message
    except MeshError as error:
        return {"back_error": str(error)}
    return {"back": answer.tries} if isinstance(answer, Reached) else {}


def _from(addresses: tuple[Address, ...]) -> list[Address]:
    """Which of this machine's addresses the system would use for the first that it has a way to. Sends nothing."""
    for host, port in addresses:
        with suppress(OSError, ValueError):
            family = socket.AF_INET6 if ip_address(host.partition("%")[0]).version == 6 else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as it:
                it.connect(socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)[0][4])
                return [plain(it.getsockname())]
    return []
