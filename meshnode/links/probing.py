"""Trying an address from outside of any link: does TCP connect, does TLS answer, do packets of full size pass?

A link that works must not be risked for an answer, and one that stalls could not give it. So each question gets a
connection of its own, which says a ClientHello of the size in question and hangs up at the first byte that comes back.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress

from meshnode.links.address import Address
from meshnode.trust.identity import ALPN
from meshnode.wire.looks import TRIES_MAX, Try

CONNECT_S = 4.0
"""Longer than Linux takes to find out that nobody answers for a host on its link (3 s)."""
ANSWER_S = 1.5
"""Three retransmissions of Linux (after 0.2, 0.6 and 1.4 s), and a handshake of a small board."""
AT_ONCE_S = 0.5
"""Who says in less that a host is not there is a firewall: the kernel itself takes seconds to know."""
SEGMENTS = (1400, 1360, 1320, 1240, 1220, 1160, 960, 536)
"""Tried when full-size ones vanish: MTU 1440 (GRE in PPPoE), 1420 (WireGuard), 1400, 1280 with IPv4 and IPv6, …"""
HELLO_BYTES_MAX = 15_000
OUTCOMES = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "no_route",
    errno.EADDRNOTAVAIL: "no_route",
    errno.EAFNOSUPPORT: "no_route",
    errno.EACCES: "rejected",
    errno.EPERM: "rejected",
}


async def probe_all(addresses: Iterable[Address]) -> tuple[Try, ...]:
    """All addresses at once, in their order. Takes `CONNECT_S` and twice `ANSWER_S` at most."""
    return tuple(await asyncio.gather(*(probe(address) for address in [*addresses][:TRIES_MAX])))


async def probe(address: Address) -> Try:
    """One address."""
    host, port = address[0][:128], address[1]
    began = time.monotonic()
    outcome, segment = await _ask(address, 0)
    seconds = time.monotonic() - began
    if outcome == "unreachable" and seconds < AT_ONCE_S:
        # Once more: another packet may have waited for the same neighbour, and given up just now.
        began = time.monotonic()
        outcome, segment = await _ask(address, 0)
        outcome = "rejected" if outcome == "unreachable" and time.monotonic() - began < AT_ONCE_S else outcome
    if outcome == "mute" and (largest := await _largest(address, segment, 0)):
        return Try(host, port, "stalled", seconds, mss=largest)
    if outcome != "answered" or segment + 500 > HELLO_BYTES_MAX:
        return Try(host, port, outcome, seconds)
    if await _passes(address, segment + 500):
        return Try(host, port, outcome, seconds, True)
    return Try(host, port, outcome, seconds, False, await _largest(address, segment, 500))


async def _largest(address: Address, segment: int, more: int) -> int:
    """The largest of the usual segments that gets an answer, to a greeting of so many bytes more; 0 when none does."""
    asked = [size for size in SEGMENTS if size < segment]
    passed = await asyncio.gather(*(_passes(address, size + more if more else 0, size) for size in asked))
    return next((size for size, ok in zip(asked, passed, strict=True) if ok), 0)


async def _passes(address: Address, hello_bytes: int, segment: int = 0) -> bool:
    """Whether a greeting of that size is answered; with `segment`, cut into such segments."""
    return (await _ask(address, hello_bytes, segment))[0] == "answered"


async def _ask(address: Address, hello_bytes: int, segment: int = 0) -> tuple[str, int]:
    """What comes of one greeting, and the size of the connection's segments."""
    loop = asyncio.get_running_loop()
    try:
        numeric = socket.AI_NUMERICHOST  # a peer's word makes nobody ask name servers
        found = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=numeric)
        family, kind, proto, _, where = found[0]
        connection = socket.socket(family, kind, proto)
    except (OSError, UnicodeError) as error:
        return _outcome(error), 0
    try:
        connection.setblocking(False)
        if segment:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
        async with asyncio.timeout(CONNECT_S):
            await loop.sock_connect(connection, where)
        size = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        try:
            async with asyncio.timeout(ANSWER_S):
                await loop.sock_sendall(connection, client_hello(hello_bytes))
                answer = await loop.sock_recv(connection, 1)
        except TimeoutError:
            return "mute", size
        return "answered" if answer else "mute", size
    except OSError as error:  # TimeoutError is one
        return _outcome(error), 0
    finally:
        connection.close()


def _outcome(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    return OUTCOMES.get(error.errno or 0, "error") if isinstance(error, OSError) else "error"


def client_hello(size: int) -> bytes:
    """A greeting of at least so many bytes, as a TLS 1.3 client of ours says it; names of protocols fill it up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ecdh_curve("prime256v1")  # post-quantum keys would make every greeting a large one
    context.set_alpn_protocols([ALPN, *["fill-" + "x" * 245] * (size // 251 + 1 if size else 0)])
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(into, out)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()
