"""Readers of what programs that are not ours send, for the table of targets: doors, brokers, multicast, workers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import zeroconf
from PIL import Image
from zeroconf.asyncio import AsyncServiceInfo

from meshnode.config import Sandbox
from meshnode.edge import pictures, tracing
from meshnode.edge.frigate import asked
from meshnode.edge.grpc import infer
from meshnode.edge.http.guard import Guard
from meshnode.edge.local import VERBS
from meshnode.edge.mqtt import decoder as opener
from meshnode.edge.mqtt import requests, sealing
from meshnode.edge.mqtt.decoding import Decoding
from meshnode.edge.mqtt.sealing import Sealing
from meshnode.edge.mqtt.topics import Topics
from meshnode.edge.openinference import document
from meshnode.edge.openinference import tensors as oip
from meshnode.errors import InvalidInput, PermissionDenied
from meshnode.execution import control
from meshnode.links.address import Address
from meshnode.membership.candidates import ADDRESSES_MAX, Gone, Heard
from meshnode.membership.interfaces import Network
from meshnode.membership.multicast import SERVICE, Multicast
from meshnode.wire import messages, tensors
from tests.fuzz.wire import ANN, TOWN
from tests.trust.cast import NOW

RANDOM = bytes(range(32))
VERB_NAMES = tuple(sorted(VERBS))
KINDS = ("here", "taken", "again")
SHAPES: tuple[list[Any], ...] = ([1, 3, 8, 8], ["n", 8, 8, 1], [3, "h", "w"], [8, 8, 4], [1, 5, 4, 4])
DTYPES = ("uint8", "float", "float16", "int64", "complex64")


@cache
def _multicast() -> tuple[Multicast, list[tuple[Address, ...]]]:
    heard: list[tuple[Address, ...]] = []

    def hears(event: Heard | Gone) -> None:
        if isinstance(event, Heard):
            heard.append(event.addresses)

    return Multicast(TOWN, Network(), 0, heard=hears), heard


def mdns(data: bytes) -> None:
    """A packet of multicast DNS: python-zeroconf takes it apart, its records go into a cache, and the service of each
    pointer is judged."""
    multicast, heard = _multicast()
    heard.clear()
    packet = zeroconf.DNSIncoming(data)  # type: ignore[attr-defined]
    if not packet.valid:
        return
    records = packet.answers()
    cache_ = zeroconf.DNSCache()  # type: ignore[attr-defined]
    cache_.async_add_records(records)
    updates = [zeroconf.RecordUpdate(record, None) for record in records]
    multicast.async_update_records(SimpleNamespace(cache=cache_), zeroconf.current_time_millis(), updates)  # type: ignore[arg-type,attr-defined]
    for label in sorted(multicast._said):
        with contextlib.suppress(zeroconf.BadTypeInNameException):
            info = AsyncServiceInfo(SERVICE, f"{label}.{SERVICE}")
            info.load_from_cache(SimpleNamespace(cache=cache_))  # type: ignore[arg-type]
            multicast._judge(label, info)
    multicast._said.clear()
    multicast._taken_back.clear()
    for addresses in heard:
        assert len(addresses) <= ADDRESSES_MAX
        assert all(host and 1024 <= port <= 65535 for host, port in addresses)


def local(data: bytes) -> None:
    """A request of a local client; the arguments of a verb become its struct."""
    it = messages.decode_local_request(data)
    match it:
        case messages.Ask():
            for name in {it.verb, VERB_NAMES[len(data) % len(VERB_NAMES)]} & set(VERBS):
                try:
                    msgspec.convert(it.args, VERBS[name][0])
                except msgspec.ValidationError as wrong:
                    raise InvalidInput(str(wrong)) from wrong  # as the door does
        case messages.Submit() | messages.Plan():
            tensors.layout(it.inputs)


def http(data: bytes) -> None:
    """The body of a request to run a model, JSON alone and with tensors behind it; its answer made of its inputs."""
    end = data.rfind(b"}") + 1
    for json_bytes in (None, end):
        try:
            it = document.read(data, json_bytes)
        except InvalidInput:
            if json_bytes is None:
                continue
            raise
        body = oip.joined(it.inputs)
        specs = tuple(spec for spec, _ in it.inputs)
        arrays = tensors.decode(specs, body)
        assert all(arrays[spec.name].size == math.prod(spec.shape) for spec in specs)
        document.write(it, "m", 1, oip.split(specs, body), {})


def heads(data: bytes) -> None:
    """Lines of a head: Host, Origin, Authorization, traceparent, the length of the JSON."""
    lines = (data.decode("utf-8", "surrogateescape") + "\n" * 5).split("\n")
    tracing.parent({tracing.NAME: lines[3]})
    tracing.parent([(tracing.NAME, lines[3].encode("utf-8", "surrogateescape"))])
    document.header_length(lines[4] or None, 100)
    guard = Guard("token", ("localhost",))
    guard.check("GET", {"Host": lines[0], "Origin": lines[1], "Authorization": lines[2]}, {}, "http", "/v2")


def grpc(data: bytes) -> None:
    """A ModelInferRequest; its answer made of its inputs."""
    it = infer.read(data)
    specs = tuple(spec for spec, _ in it.inputs)
    body = oip.joined(it.inputs)
    tensors.decode(specs, body)
    infer.write(it, "m", 1, oip.split(specs, body), {})


def mqtt(data: bytes) -> None:
    """A message that is a task: what it is, and its tensors where they are read here; and its topics."""
    topics = Topics("meshnode", "town", TOWN, "homeassistant")
    text = data[:200].decode("utf-8", "replace")
    topics.model_of(text)
    topics.bridge_of(text)
    with contextlib.suppress(InvalidInput):
        topics.check_answer(text)
    message = requests.Incoming(f"{topics.base}/infer/m", data, response="answers/7")
    it = requests.parse(topics, message, requests.task_id(message), default_s=5.0, bytes_max=1 << 20)
    if it.kind == "npy":
        array = requests.read_npy(data)
        assert array.nbytes <= len(data)
    elif it.kind == "json":
        requests.read_json(data)


def record(data: bytes) -> None:
    """What lies at a broker: as anybody leaves it there, and as a member seals and signs it who lies."""

    def check(node: str) -> None:
        if node != ANN.id:
            raise PermissionDenied("no member")

    it = Sealing(RANDOM, "meshnode", check)
    kind = KINDS[data[0] % 3] if data else "here"
    topic = it.place(ANN.id) if kind == "here" else it.notes
    if data[:1] == b"!":
        it.open(topic, data[1:], NOW)
        return
    head = [kind, ANN.spki, 1, 1, NOW, msgspec.Raw(data[1:])]
    signature = ANN.key.sign(sealing._signed(topic, msgspec.msgpack.encode(head)))
    plain = msgspec.msgpack.encode([*head, signature])
    it.open(topic, bytes(12) + it._cipher.encrypt(bytes(12), plain, topic.encode()), NOW)


def picture(data: bytes) -> None:
    """A picture or an archive, as the confined process opens it; the first byte says for which input."""
    Image.init()
    head, rest = data[:1] or b"\0", data[1:]
    shape, dtype = SHAPES[head[0] % len(SHAPES)], DTYPES[head[0] // 8 % len(DTYPES)]
    if rest[:2] == b"PK":
        opener.opened({"kind": "npz", "tensors": [], "metadata": {}}, rest)
    else:
        pictures.image_array(rest, {"name": "x", "dtype": dtype, "shape": shape}, {}, "the picture")


def frigate(data: bytes) -> None:
    """The parts of a message of Frigate's detector: a line, and what is behind it."""
    head, newline, rest = data.partition(b"\n")
    asked.read([head, rest] if newline else [head])


def worker(data: bytes) -> None:
    """A control message, either way; what it says of tensors is checked before anything is read by it."""
    if data[:1] == b">":
        control.decode_to_worker(data[1:])
        return
    it = control.decode_from_worker(data)
    if isinstance(it, control.Ran):
        tensors.decode(it.outputs, it.body)


def decoder(data: bytes) -> None:
    """What the process says that opens pictures; errors are those that `Decoding.open` waits for."""
    _loop().run_until_complete(_answered(data))


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


async def _answered(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        it = Decoding(Path(os.devnull), Sandbox.OFF)
        it._reader, it._writer = await asyncio.open_unix_connection(sock=ours)
        theirs.setblocking(False)
        theirs.send(data)
        theirs.shutdown(socket.SHUT_WR)
        try:
            await it._ask("png", b"", [], {})
        finally:
            it._writer.close()
