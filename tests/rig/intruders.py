"""What strangers, and a member that is bad, do at an agent's port; in a process of their own.

Whoever measures what others have to wait meanwhile would otherwise measure this: they would share an interpreter.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from meshnode.config import LAN
from meshnode.links.address import Address
from meshnode.membership import updates
from meshnode.membership.updates import AnyPacket, Gossip, Nack, Ping, PingReq
from meshnode.trust.keeper import Keeper
from meshnode.wire import messages
from meshnode.wire.frames import Type, pack
from meshnode.wire.messages import Hello, NodeId
from tests.membership.members import Mate
from tests.waiting import until

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "protocols" / "vectors"
FRAMES_A_CONNECTION = 20
"""A member says so many before it hangs up by itself; most are hung up on earlier."""
A_BATCH = 64
ELSEWHERE = "127.0.0.2"
"""Strangers have an address of their own; of Linux's loopback, for which nothing has to be set up."""
STARTED = "started"


@contextmanager
def intruder(what: str, where: Address, *words: object) -> Iterator[Callable[[], Any]]:
    """One that has started; what it says at its end is had by a call, which waits."""
    command = [sys.executable, "-m", __name__, what, where[0], str(where[1]), *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        assert STARTED == process.stdout.readline().strip(), f"{what} did not start"
        yield lambda: json.loads(process.communicate()[0])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main(what: str, host: str, port: str, *words: str) -> Any:
    """What an intruder does, by its name."""
    where = (host, int(port))
    if what == "slow":
        return asyncio.run(slow(where, int(words[0])))
    home, seed, count, agent = words
    keeper = Keeper.open(Path(home))
    print(STARTED, flush=True)
    if what == "frames":
        return frames(keeper, where, random.Random(seed), int(count))
    return asyncio.run(datagrams(keeper, where, NodeId(agent), random.Random(seed), int(count)))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Real bytes with something wrong: bits, lengths, pieces that are missing, doubled or of another one."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", rng.randbytes(4)))
            case 2:
                del changed[at:]
            case 3:
                changed[at:at] = rng.randbytes(rng.choice((1, 16, 300)))
            case _:
                changed += changed[at:]
    return bytes(changed)


def frames(keeper: Keeper, where: Address, rng: random.Random, count: int) -> int:
    """Say so many frames, half of them in TLS as the member; how often it hung up."""
    golden = [bytes.fromhex(it["hex"]) for it in json.loads((VECTORS / "messages.json").read_text())]
    real = [bytes.fromhex(it["hex"]) for it in json.loads((VECTORS / "frames.json").read_text()) if "means" in it]
    real += [pack(kind, 1, header) for header in golden for kind in (Type.REQ, Type.RES, Type.ERR)]
    hello = messages.encode(Hello(versions=(1,), id=keeper.id, name="evil", boot=keeper.boot))
    greeting = pack(Type.HELLO, 0, hello)
    _, context = keeper.contexts()
    said = hung_up = 0
    while said < count:
        known = rng.random() < 0.9  # one frame of a stranger ends the connection, many of a member's do not
        batch = [mutated(rng.choice(real), rng) for _ in range(FRAMES_A_CONNECTION if known else 1)]
        with suppress(OSError), socket.create_connection(where, timeout=5) as tcp:
            if known:
                with context.wrap_socket(tcp) as tls:
                    tls.sendall(greeting if rng.random() < 0.8 else mutated(greeting, rng))
                    said += _say(tls, batch)
            else:
                said += len(batch)
                tcp.sendall(b"".join(batch))
                tcp.shutdown(socket.SHUT_WR)
                hung_up += tcp.recv(1) == b""
                continue
        hung_up += 1
    return hung_up


def _say(tls: ssl.SSLSocket, batch: list[bytes]) -> int:
    said = 0
    for frame in batch:
        tls.settimeout(0.2)
        try:
            tls.sendall(frame)
            said += 1
        except OSError:
            break
    tls.settimeout(0.1)
    with suppress(OSError):
        while tls.recv(65536):
            pass
    return max(said, 1)


async def datagrams(keeper: Keeper, where: Address, agent: NodeId, rng: random.Random, count: int) -> int:
    """Throw so many, half of them sealed by the member; how many answers came."""
    mate = Mate(keeper, "evil", LAN.membership, rng.randrange(1 << 30))
    await mate.start()
    try:
        await mate.pool.link(agent, (where,))
        await until(lambda: _knows(mate, agent), "they know each other's keys")
        packets: list[AnyPacket] = [
            Ping(1, (), 5),
            PingReq(3, mate.raw, 400, ()),
            Nack(4),
            Gossip((mate.core.oneself.word,)),
        ]
        plain = [updates.encode(packet) for packet in packets]
        sealer = mate.membership.datagrams._sealer
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
            port.setblocking(False)
            for n in range(0, count, A_BATCH):
                for i in range(min(A_BATCH, count - n)):
                    content = rng.choice(plain)
                    datagram = sealer.seal(agent, mutated(content, rng)[:1100] if i % 2 else content)
                    with suppress(BlockingIOError):
                        port.sendto(datagram if i % 2 else mutated(datagram, rng)[:1400], where)
                await asyncio.sleep(0.001)  # so that the kernel keeps most of them for the agent
            await asyncio.sleep(0.2)
            answers = 0
            with suppress(BlockingIOError):
                while port.recv(65536):
                    answers += 1
            return answers
    finally:
        await mate.stop()


def _knows(mate: Mate, agent: NodeId) -> bool:
    other: Any = mate.membership.member(agent)
    return other is not None and other.state == "alive" and other.advert is not None


async def slow(where: Address, count: int) -> list[float]:
    """So many connections at once that send a byte a second; the seconds for which each was held."""
    hello = client_hello()
    held: list[float] = []

    async def drip() -> None:
        began = time.monotonic()
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(*where, local_addr=(ELSEWHERE, 0))
            try:
                for at in range(len(hello)):
                    writer.write(hello[at : at + 1])
                    with suppress(TimeoutError):
                        async with asyncio.timeout(1.0):
                            if not await reader.read(4096):
                                break
            finally:
                writer.close()
        held.append(time.monotonic() - began)

    print(STARTED, flush=True)
    await asyncio.gather(*(drip() for _ in range(count)))
    return held


def client_hello() -> bytes:
    """What an honest TLS client says first."""
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(coming, going).do_handshake()
    return going.read()


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
