"""Somebody between a broker and its clients: passes what is said, keeps what is sealed, changes what it is told to."""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

CONNECT, PUBLISH = 1, 3
SEALED = re.compile(rb"[^/]+/[0-9a-f]{32}/[0-9a-f]{32}")
PASS, PAYLOADS, BYTES = "pass", "payloads", "bytes"
SHARE = 0.3
"""Of the packets that are hit when any byte may be."""


class Packets:
    """Cuts a stream of MQTT into its packets."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> Iterator[bytearray]:
        """What is whole by now."""
        self._kept += data
        while (end := _end(self._kept)) and len(self._kept) >= end[1]:
            packet = self._kept[: end[1]]
            del self._kept[: end[1]]
            yield packet


def _number(data: bytearray, at: int) -> tuple[int, int] | None:
    """A variable byte integer, and where it ends."""
    value = 0
    for i in range(4):
        if at + i >= len(data):
            return None
        value |= (data[at + i] & 0x7F) << 7 * i
        if not data[at + i] & 0x80:
            return value, at + i + 1
    return None


def _end(data: bytearray) -> tuple[int, int] | None:
    """Where the first packet's head ends, and the packet."""
    read = _number(data, 1)
    return None if read is None else (read[1], read[1] + read[0])


def sealed_in(packet: bytearray) -> tuple[str, int] | None:
    """Topic and beginning of the payload of a packet that delivers something sealed (MQTT 5)."""
    end = _end(packet)
    if end is None or packet[0] >> 4 != PUBLISH:
        return None
    at = end[0]
    size = int.from_bytes(packet[at : at + 2], "big")
    topic = bytes(packet[at + 2 : at + 2 + size])
    at += 2 + size + (2 if packet[0] & 0b110 else 0)
    properties = _number(packet, at)
    if not SEALED.fullmatch(topic) or properties is None:
        return None
    return topic.decode(), properties[0] + properties[1]


def client_in(packet: bytearray) -> str:
    """Who connects, by the packet that says it (MQTT 5); else empty."""
    end = _end(packet)
    if end is None or packet[0] >> 4 != CONNECT:
        return ""
    properties = _number(packet, end[0] + 10)  # behind the protocol's name and version, flags and keep-alive
    if properties is None:
        return ""
    at = properties[0] + properties[1]
    size = int.from_bytes(packet[at : at + 2], "big")
    return packet[at + 2 : at + 2 + size].decode(errors="replace")


@dataclass
class Middle:
    """Where clients find the broker of `target` at `port`. What it does is `mode`."""

    target: int
    seed: int = 1
    port: int = 0
    mode: str = PASS
    counts: Counter[str] = field(default_factory=Counter)
    delivered: dict[str, list[bytes]] = field(default_factory=dict)
    """Sealed payloads by topic, each once, in the order in which the broker gave them to anybody."""
    changed: list[tuple[str, str]] = field(default_factory=list)
    """(client, topic) of each sealed payload that was changed on its way."""

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()

    def run(self, ready: threading.Event) -> None:
        """In a thread of its own, until `stop`."""
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._client, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.close()

    def stop(self) -> None:
        """The thread ends."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def hang_up(self) -> None:
        """On all that are connected."""
        self._loop.call_soon_threadsafe(lambda: [writer.close() for writer in self._writers])

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # there is no broker now
            writer.close()
            return
        finally:
            self.counts["connections"] += 1
        self._writers |= {writer, there[1]}
        try:
            who: list[str] = []
            ways = (self._pass(reader, there[1], who, down=False), self._pass(there[0], writer, who, down=True))
            await asyncio.wait([asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for it in (writer, there[1]):
                self._writers.discard(it)
                it.close()
            self._tasks.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, who: list[str], *, down: bool
    ) -> None:
        packets = Packets()
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                for packet in packets.feed(data):
                    if not who and not down:
                        who.append(client_in(packet))
                    self._touch(packet, who, down=down)
                    writer.write(packet)
                await writer.drain()

    def _touch(self, packet: bytearray, who: list[str], *, down: bool) -> None:
        found = sealed_in(packet) if down else None
        if found is not None and len(packet) > found[1]:
            topic, at = found
            if self.mode == PAYLOADS:
                packet[self._rng.randrange(at, len(packet))] ^= 1 << self._rng.randrange(8)
                self.changed.append((who[0], topic))
            elif (kept := self.delivered.setdefault(topic, [])) is not None and bytes(packet[at:]) not in kept:
                kept.append(bytes(packet[at:]))
        if self.mode == BYTES and self._rng.random() < SHARE:
            packet[self._rng.randrange(len(packet))] ^= 1 << self._rng.randrange(8)
            self.counts["bytes changed"] += 1


@contextmanager
def middle(target: int, seed: int = 1) -> Iterator[Middle]:
    """In between until the end of the block."""
    it, ready = Middle(target, seed), threading.Event()
    thread = threading.Thread(target=it.run, args=(ready,))
    thread.start()
    try:
        assert ready.wait(10)
        yield it
    finally:
        it.stop()
        thread.join()
