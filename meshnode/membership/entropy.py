"""Anti-entropy: finding out what two tables do not both hold, for a few bytes when they hold the same. Pure functions.

The asker sends 32 bits of its table. Equal: done. Otherwise the other sends a digest of 256 buckets (2 KiB whatever
the size of the mesh); the asker sends summaries of its rows in the buckets that differ; the other answers with the
updates that the asker lacks and the ids of those it wants; the asker sends these. Tombstones carry their age, so that
nobody remembers them longer because they were handed on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.errors import ProtocolError
from meshnode.membership.roster import BUCKETS, RANK, Roster, Row, raw_id
from meshnode.membership.updates import AnyUpdate, Born, Id
from meshnode.wire.messages import NodeId
from meshnode.wire.terms import UNREADABLE

_DIGEST = struct.Struct(f">{BUCKETS}Q")
ROWS_MAX = 50_000
U32 = Annotated[int, Meta(ge=0, lt=2**32)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
AgeOf = Callable[[NodeId], float]
"""For how many seconds a node has been dead or gone here; 0 for the living."""


class Summary(msgspec.Struct, frozen=True, array_like=True):
    """One row: enough to see who has the newer one."""

    id: Id
    gen: U32
    inc: U32
    born: Born
    fate: Annotated[int, Meta(ge=0, le=3)]
    advert: U32


class Told(msgspec.Struct, frozen=True, array_like=True):
    """An update, and for how long it has been so."""

    age_s: Seconds
    update: AnyUpdate


class Rows(msgspec.Struct, frozen=True, array_like=True):
    """Summaries of all rows in some buckets."""

    buckets: Annotated[bytes, Meta(max_length=BUCKETS)]
    rows: Annotated[tuple[Summary, ...], Meta(max_length=ROWS_MAX)]


class News(msgspec.Struct, frozen=True, array_like=True):
    """Updates for the other side, and the ids of those that are wanted from it."""

    told: Annotated[tuple[Told, ...], Meta(max_length=2 * ROWS_MAX)] = ()
    wanted: Annotated[tuple[Id, ...], Meta(max_length=ROWS_MAX)] = ()


_encoder = msgspec.msgpack.Encoder()
_rows = msgspec.msgpack.Decoder(Rows)
_news = msgspec.msgpack.Decoder(News)


def encode(value: Rows | News) -> bytes:
    """As MessagePack."""
    return _encoder.encode(value)


def decode_rows(data: bytes | memoryview) -> Rows:
    """Raises ProtocolError."""
    try:
        return _rows.decode(data)
    except UNREADABLE as error:
        raise ProtocolError(f"not rows of a table: {error}") from error


def decode_news(data: bytes | memoryview) -> News:
    """Raises ProtocolError."""
    try:
        return _news.decode(data)
    except UNREADABLE as error:
        raise ProtocolError(f"not news: {error}") from error


def digest(roster: Roster) -> bytes:
    """All buckets, 2 KiB."""
    return _DIGEST.pack(*roster.buckets)


def rows(roster: Roster, theirs: bytes | memoryview) -> Rows:
    """Summaries of what is here in the buckets that differ from a digest. Raises ProtocolError."""
    if len(theirs) != _DIGEST.size:
        raise ProtocolError(f"a digest of {len(theirs)} bytes, not {_DIGEST.size}")
    differing = {i for i, (a, b) in enumerate(zip(roster.buckets, _DIGEST.unpack(theirs), strict=True)) if a != b}
    return Rows(bytes(sorted(differing)), tuple(_summary(row) for row in _in(roster, differing)))


def answer(roster: Roster, theirs: Rows, age: AgeOf) -> News:
    """What the sender of `theirs` lacks, the living first, and what it has that is newer or not here."""
    summaries = {summary.id: summary for summary in theirs.rows}
    told: list[Row] = []
    wanted: list[bytes] = []
    for row in _in(roster, set(theirs.buckets)):
        other = summaries.pop(raw_id(row.key), None)
        if other is None or _rank(_summary(row)) > _rank(other):
            told.append(row)
        elif _rank(_summary(row)) < _rank(other):
            wanted.append(other.id)
    for summary in summaries.values():
        held = roster.get(roster.id_text(summary.id))
        if held is None or _rank(_summary(held)) < _rank(summary):
            wanted.append(summary.id)
    return News(updates_of(sorted(told, key=lambda row: not row.living), age), tuple(wanted))


def wanted(roster: Roster, ids: Sequence[bytes], age: AgeOf) -> News:
    """The updates that the other side asked for."""
    found = [row for id in ids if (row := roster.get(roster.id_text(id))) is not None]
    return News(updates_of(found, age))


def updates_of(found: Sequence[Row], age: AgeOf) -> tuple[Told, ...]:
    """Each node's own word, then the accusation that holds, so that a receiver knows whom it is about."""
    told = []
    for row in found:
        age_s = 0.0 if row.living else age(row.id)
        told.append(Told(age_s, row.word))
        if row.against is not None:
            told.append(Told(age_s, row.against))
    return tuple(told)


def _in(roster: Roster, buckets: set[int]) -> list[Row]:
    return [row for row in roster if raw_id(row.key)[0] in buckets and roster.spoken_of(row)]


def _summary(row: Row) -> Summary:
    fate = 0 if row.living else RANK[row.state]
    return Summary(raw_id(row.key), row.gen, row.inc, row.born, fate, row.advert)


def _rank(summary: Summary) -> tuple[int, int, int, int, int]:
    # A goodbye names no start; it ends whichever of this version is held.
    born = summary.born if summary.fate < 3 else 2**62
    return (summary.gen, summary.inc, born, summary.fate, summary.advert)
