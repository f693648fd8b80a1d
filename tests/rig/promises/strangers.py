"""P18: bytes that are almost right, by strangers and by a member. P19: connections that say next to nothing."""

from __future__ import annotations

import asyncio
import json
import math
import random
import socket
import ssl
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from meshnode.config import LAN
from meshnode.membership import updates
from meshnode.membership.updates import AnyPacket, Gossip, Nack, Ping, PingReq
from meshnode.trust.keeper import Keeper
from meshnode.wire import messages
from meshnode.wire.frames import Type, pack
from meshnode.wire.messages import Hello
from tests.membership.members import Mate
from tests.mesh.comers import address, come_and_go, member
from tests.mesh.load import Load
from tests.mesh.rig import MODELS, Agent, Rig, rig
from tests.rig.promises.figures import Figure, at_least, at_most, none_of, tasks, told, true
from tests.rig.promises.town import Stage, wait
from tests.waiting import until

VECTORS = Path(__file__).parents[3] / "protocols" / "vectors"
GROWTH_MIB, SLOWER = 10.0, 2.0
FRAMES_A_CONNECTION = 20
"""A member says so many before it hangs up by itself; most are hung up on earlier."""
A_BATCH = 64


def _victim(it: Rig) -> Agent:
    agent = it.start("n0")
    agent.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
    return agent


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


def keep(stage: Stage, full: bool) -> list[Figure]:
    """P18: frames and datagrams, mutated from real ones, half of them by a member, at an agent that has tasks."""
    frames, datagrams = (10_000, 100_000) if full else (200, 3000)
    rng = random.Random(stage.seed)
    with rig(stage.fresh()) as it:
        agent = _victim(it)
        process = psutil.Process(agent.process.pid)
        with ExitStack() as stack:
            keeper = member(it, agent)
            stack.callback(keeper.close)
            load = stack.enter_context(Load(agent.home, 25.0))
            _frames(agent, keeper, rng, 50)  # what is there once, whoever comes, is no growth
            wait(10 if full else 1)
            before, memory = len(load.history), process.memory_info().rss
            took = sorted(task.seconds for task in load.history if task.answers)
            hung_up = _frames(agent, keeper, rng, frames)
            refused = asyncio.run(_datagrams(agent, keeper, rng, datagrams))
            wait(1)
            growth = (process.memory_info().rss - memory) / (1 << 20)
            beside = sorted(task.seconds for task in load.history[before:] if task.answers)
        alive, log = agent.process.poll() is None, agent.log()
        workers = len(process.children())
    did = f"{frames} malformed frames and {datagrams} malformed datagrams, half of each by a member"
    bad = [line for line in log.splitlines() if "Traceback" in line or "exception" in line.lower() or " ERROR " in line]
    return [
        true(did, "the same agent and worker live", alive and workers == 1),
        none_of(did, "unhandled exceptions and errors in its log", bad),
        told(did, "connections that it hung up on; datagrams of the member that it answered", f"{hung_up}; {refused}"),
        at_most(did, "memory", growth, GROWTH_MIB, "MiB"),
        at_most(
            did, f"p99 of a client's tasks, of {_p99(took) * 1e3:.0f} ms before", _p99(beside) / _p99(took), SLOWER, "x"
        ),
        *tasks(did, [load]),
    ]


def _p99(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]


def _median(ordered: list[float]) -> str:
    return f"{ordered[len(ordered) // 2] * 1e3:.0f} ms"


def _frames(agent: Agent, keeper: Keeper, rng: random.Random, count: int) -> int:
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
        with suppress(OSError), socket.create_connection(address(agent), timeout=5) as tcp:
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


async def _datagrams(agent: Agent, keeper: Keeper, rng: random.Random, count: int) -> int:
    """Throw so many, half of them sealed by the member; how many answers came."""
    mate = Mate(keeper, "evil", LAN.membership, rng.randrange(1 << 30))
    await mate.start()
    try:
        await mate.pool.link(_id(agent), (address(agent),))
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
                    datagram = sealer.seal(_id(agent), mutated(content, rng)[:1100] if i % 2 else content)
                    with suppress(BlockingIOError):
                        port.sendto(datagram if i % 2 else mutated(datagram, rng)[:1400], address(agent))
                await asyncio.sleep(0.001)  # so that the kernel keeps most of them for the agent
            await asyncio.sleep(0.2)
            answers = 0
            with suppress(BlockingIOError):
                while port.recv(65536):
                    answers += 1
            return answers
    finally:
        await mate.stop()


def _knows(mate: Mate, agent: Agent) -> bool:
    other: Any = mate.membership.member(_id(agent))
    return other is not None and other.state == "alive" and other.advert is not None


def _id(agent: Agent) -> Any:
    """Its id, as the parts of an agent want it."""
    return messages.NodeId(agent.id)


ELSEWHERE = "127.0.0.2"
"""Strangers have an address of their own; of Linux's loopback, for which nothing has to be set up."""
HALF_OPEN, DROPPED_S, LEGIT_S = 1000, 5.0, 0.05
LATE_S = 1.0
"""The second that a drop takes to be seen here: each connection is looked at once a second, when its byte is due."""


def slow(stage: Stage, full: bool) -> list[Figure]:
    """P19: a thousand connections that send a byte a second, while a member comes and goes."""
    count = HALF_OPEN if full else 150
    with rig(stage.fresh()) as it, ExitStack() as stack:
        agent = _victim(it)
        keeper = member(it, agent)
        stack.callback(keeper.close)
        alone = asyncio.run(come_and_go(agent, keeper, 50 if full else 10, lambda: False))
        seen = asyncio.run(_slowly(agent, keeper, count))
        alive = agent.process.poll() is None and agent.status()["mesh"]["nodes"]["alive"] >= 1
    took, held = sorted(seen[0]), sorted(seen[1])
    did = f"{count} connections that send a byte a second"
    return [
        at_most(did, "the longest that one was held", held[-1], DROPPED_S + LATE_S),
        at_least(did, "of them dropped or refused", len(held), count),
        at_most(did, f"p99 of {len(took)} connects of a member, TLS included", _p99(took), LEGIT_S),
        told(did, "...median; and p99 before there were any", f"{_median(took)}; {_p99(sorted(alone)) * 1e3:.0f} ms"),
        true(did, "the agent lives", alive),
    ]


async def _slowly(agent: Agent, keeper: Keeper, count: int) -> tuple[list[float], list[float]]:
    """Seconds that a member's connects take meanwhile, and for which each slow one was held."""
    hello = _client_hello()
    held: list[float] = []

    async def drip() -> None:
        began = time.monotonic()
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(*address(agent), local_addr=(ELSEWHERE, 0))
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

    drips = [asyncio.ensure_future(drip()) for _ in range(count)]
    took = await come_and_go(agent, keeper, 10_000, lambda: len(held) == count)
    await asyncio.gather(*drips)
    return took, held


def _client_hello() -> bytes:
    """What an honest TLS client says first."""
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(coming, going).do_handshake()
    return going.read()
