"""Frames and flow: any split of the bytes gives the same messages, credit is kept, hostile bytes are one error."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.config import Links
from meshnode.errors import ProtocolError
from meshnode.wire.flow import FrameWriter
from meshnode.wire.frames import Control, Event, FrameReader, Landed, Message, Type, pack

SMALL = replace(
    Links(),
    frame_bytes=256,
    small_body_bytes=64,
    stream_credit_bytes=1024,
    connection_credit_bytes=2048,
    body_bytes_max=100_000,
    buffered_bytes_max=200_000,
    streams_max=8,
    header_bytes_max=200,
    hello_bytes_max=100,
)
HELLO = pack(Type.HELLO, 0, b"hello")


def read(reader: FrameReader, data: bytes, steps: list[int] | None = None) -> list[Event]:
    """Feed bytes in pieces of these sizes (the last size repeats)."""
    events: list[Event] = []
    at, turn = 0, 0
    while at < len(data):
        buffer = reader.get_buffer()
        assert len(buffer) > 0
        step = steps[min(turn, len(steps) - 1)] if steps else len(data)
        size = max(1, min(step, len(buffer), len(data) - at))
        buffer[:size] = data[at : at + size]
        events += reader.received(size)
        at += size
        turn += 1
    return events


def transfer(bodies: list[bytes], steps: list[int]) -> list[Message]:
    """Send messages from a writer to a reader, with the credit that the reader gives, until all have arrived."""
    writer, reader = FrameWriter(SMALL), FrameReader(SMALL)
    read(reader, HELLO)
    for number, body in enumerate(bodies):
        writer.message(Type.REQ, 2 * number + 1, b"h%d" % number, (body[: len(body) // 3], body[len(body) // 3 :]))
    arrived: list[Message] = []
    while not writer.idle:
        data = writer.next_bytes()
        assert data is not None, "bodies are left and no credit ever comes"
        for event in read(reader, data, steps):
            if isinstance(event, Message):
                arrived.append(event)
            elif isinstance(event, Landed):
                for stream in reader.crediting.landed(event.stream, event.nbytes, event.whole):
                    writer.credit(stream, reader.crediting.credit(stream, 0.0, None))
    return arrived


@given(st.lists(st.binary(max_size=3000), max_size=6), st.lists(st.integers(1, 400), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_messages_arrive_whole_however_the_bytes_are_split(bodies: list[bytes], steps: list[int]) -> None:
    """Each message comes once, with its header and body, and credit never runs dry."""
    arrived = transfer(bodies, steps)

    assert sorted((2 * i + 1, b"h%d" % i, body) for i, body in enumerate(bodies)) == sorted(
        (m.stream, m.header, bytes(m.body)) for m in arrived
    )


def test_a_sender_without_credit_stops() -> None:
    """No more of a body leaves than its stream's credit; with credit it goes on."""
    writer = FrameWriter(SMALL)
    writer.message(Type.REQ, 1, b"", (bytes(5000),))
    sent = 0
    while (data := writer.next_bytes()) is not None:
        sent += len(data) - 16

    assert SMALL.stream_credit_bytes == sent
    writer.credit(1, 100)
    data = writer.next_bytes()
    assert data is not None
    assert 100 == len(data) - 16


def test_the_connection_has_credit_of_its_own() -> None:
    """Many streams together stop at the connection's credit."""
    writer = FrameWriter(SMALL)
    for stream in (1, 3, 5, 7):
        writer.message(Type.REQ, stream, b"", (bytes(5000),))
    sent = 0
    while (data := writer.next_bytes()) is not None:
        sent += len(data) - 16

    assert SMALL.connection_credit_bytes == sent


def test_small_messages_go_before_bulk() -> None:
    """A control frame or a small message is the next thing that is written, whatever else waits."""
    writer = FrameWriter(SMALL)
    for stream in range(1, 41, 2):
        writer.message(Type.REQ, stream, b"bulk", (bytes(1000),))
    writer.next_bytes()
    writer.message(Type.REQ, 99, b"small", (b"tiny",))

    assert pack(Type.REQ, 99, b"small", b"tiny", 4) == writer.next_bytes()


def test_at_most_four_bodies_are_on_their_way() -> None:
    """The fifth large body begins when one of the first four has been sent."""
    writer = FrameWriter(replace(SMALL, connection_credit_bytes=10**6, stream_credit_bytes=10**6))
    for stream in range(1, 21, 2):
        writer.message(Type.REQ, stream, b"", (bytes(600),))
    streams = []
    for _ in range(12):
        data = writer.next_bytes()
        assert data is not None
        streams.append(struct.unpack_from("<II", data)[1])

    assert {1, 3, 5, 7} == set(streams[:8])


def test_a_cancelled_body_stops_and_its_bytes_are_credited() -> None:
    """What was already on its way is thrown away and counted, so that the connection's credit comes back."""
    writer, reader = FrameWriter(SMALL), FrameReader(SMALL)
    read(reader, HELLO)
    writer.message(Type.REQ, 1, b"", (bytes(5000),))
    first, second = writer.next_bytes(), writer.next_bytes()
    assert first is not None
    assert second is not None
    read(reader, first)
    reader.discard(1)

    (landed,) = read(reader, second)

    assert Landed(1, 256, whole=True) == landed
    assert writer.cancel(1)
    assert writer.idle
    assert 0 == reader.open_streams


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (struct.pack("<IIHBBI", 0, 1, 0, Type.REQ, 0, 2**31), "2147483648 bytes"),
        (struct.pack("<IIHBBI", 2**31, 1, 0, Type.DATA, 0, 0), "frame body"),
        (struct.pack("<IIHBBI", 0, 1, 60_000, Type.REQ, 0, 0), "header"),
        (struct.pack("<IIHBBI", 0, 0, 0, 77, 0, 0), "unknown type"),
        (struct.pack("<IIHBBI", 10, 0, 0, Type.PING, 0, 0), "no body"),
        (pack(Type.REQ, 0), "without a stream"),
        (HELLO, "second HELLO"),
        (pack(Type.REQ, 1, aux=500) * 2, "begins twice"),
        (pack(Type.REQ, 1, body=b"xx", aux=1), "begins with"),
        (pack(Type.REQ, 1, body=b"x", aux=10) + pack(Type.DATA, 1, body=bytes(10)), "longer than it said"),
        (b"".join(pack(Type.REQ, s, aux=90_000) for s in (1, 3, 5)), "together"),
        (b"".join(pack(Type.REQ, s, aux=100) for s in range(1, 20, 2)), "are arriving"),
    ],
)
def test_what_breaks_a_rule_is_refused(frame: bytes, reason: str) -> None:
    """Each rule of the page has its error, before anything is allocated."""
    reader = FrameReader(SMALL)
    read(reader, HELLO)

    with pytest.raises(ProtocolError, match=reason):
        read(reader, frame)


def test_nothing_comes_before_hello() -> None:
    """The first frame is HELLO, and not a large one."""
    with pytest.raises(ProtocolError, match="first frame"):
        read(FrameReader(SMALL), pack(Type.PING, 0))
    with pytest.raises(ProtocolError, match="HELLO of"):
        read(FrameReader(SMALL), pack(Type.HELLO, 0, bytes(150)))


def test_frames_of_the_future_are_skipped() -> None:
    """A type with the high bit set is read past, body and all."""
    reader = FrameReader(SMALL)
    read(reader, HELLO)

    events = read(reader, struct.pack("<IIHBBI", 200, 9, 5, 0x90, 0, 0) + bytes(205) + pack(Type.PING, 0, aux=5), [7])

    assert [Control(Type.PING, 0, b"", 5)] == events


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_events_or_one_error(data: bytes, after_hello: bool) -> None:
    """Nothing but ProtocolError ever leaves the reader."""
    reader = FrameReader(SMALL)
    if after_hello:
        read(reader, HELLO)
    try:
        read(reader, data)
    except ProtocolError:
        return
    assert reader.open_streams <= SMALL.streams_max
