"""Records that hold each other: a line of JSON names the hash of the line before it. Pure.

    {"seq":7,"at":1763700000.25,"event":"task","prev":"…64 hex…", …}

A line's hash is the SHA-256 of its bytes without the line feed. Whoever changes, drops or inserts a line breaks the
chain behind it; whoever rewrites all that follows breaks the next *seal*, a line in which the node signed the hash of
the line before it. What was cut off at the end shows only beside a copy of a later seal.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

START = "0" * 64
"""What the first line of all names."""
DOMAIN = b"meshnode/audit/seal/1\0"
LINE_BYTES_MAX = 64 * 1024
Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key DER, message, signature) -> is it right?"""

_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class Chain:
    """The writing end: where the record stands."""

    seq: int = 0
    head: str = START

    def line(self, at: float, event: str, fields: Mapping[str, Any]) -> bytes:
        """The next line, with its line feed; `at` is UTC seconds."""
        self.seq += 1
        record = {"seq": self.seq, "at": round(at, 6), "event": event, "prev": self.head, **fields}
        data = _encoder.encode(record)
        self.head = digest(data)
        return data + b"\n"

    def sealed(self, at: float, key: bytes, sign: Callable[[bytes], bytes]) -> bytes:
        """A seal over everything so far; `key` is the public key, DER."""
        signature = sign(seal_message(self.seq, self.head, round(at, 6)))
        return self.line(at, "seal", {"key": key.hex(), "signature": signature.hex()})


def digest(line: bytes) -> str:
    """Of a line without its line feed, hex."""
    return hashlib.sha256(line).hexdigest()


def seal_message(seq: int, head: str, at: float) -> bytes:
    """What is signed: how many lines there are, the hash of the last, and when."""
    return DOMAIN + seq.to_bytes(8, "big") + bytes.fromhex(head) + struct.pack(">d", at)


class Broken(Exception):
    """The record is not what was written; the text says where."""


@dataclass(slots=True)
class Reading:
    """The reading end: give it each line in order, and it raises `Broken` at the first that does not hold.

    Args:
        verify: checks a signature.
        keys: the public keys (DER) whose seals count: those that this node ever had.
    """

    verify: Verify
    keys: frozenset[bytes]
    seq: int | None = None
    head: str | None = None
    sealed_seq: int = 0
    sealed_at: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def take(self, line: bytes) -> dict[str, Any]:
        """One line without its line feed; its record. The very first may go on from lines that are gone."""
        try:
            record = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise Broken(f"it is no record: {error}") from error
        seq, prev, event, at = (record.get(key) for key in ("seq", "prev", "event", "at"))
        if not (
            isinstance(seq, int)
            and isinstance(prev, str)
            and isinstance(event, str)
            and isinstance(at, int | float)
            and len(prev) == len(START)
        ):
            raise Broken("it is no record: a field is missing or of the wrong kind")
        if self.seq is None:
            self.first_at = at
        elif seq != self.seq + 1:
            raise Broken(f"record {seq} follows record {self.seq}")
        if self.head is not None and prev != self.head:
            raise Broken(f"the record before it was changed: it names {prev[:12]}, and that has {self.head[:12]}")
        if event == "seal":
            self._seal(seq, prev, record)
            self.sealed_seq, self.sealed_at = seq, at
        self.seq, self.head, self.last_at = seq, digest(line), at
        self.counts[event] = self.counts.get(event, 0) + 1
        return record

    def _seal(self, seq: int, prev: str, record: Mapping[str, Any]) -> None:
        try:
            key, signature = bytes.fromhex(record["key"]), bytes.fromhex(record["signature"])
            message = seal_message(seq - 1, prev, record["at"])
        except (KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
            raise Broken("a seal is malformed") from error
        if key not in self.keys:
            raise Broken("a seal is of a key that was never this node's")
        if not self.verify(key, message, signature):
            raise Broken("a seal does not hold: everything before it may have been rewritten")


def check(lines: Iterable[bytes], reading: Reading) -> int:
    """Read all lines; how many there were. Raises Broken with the number of the line in its text."""
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            if len(line) > LINE_BYTES_MAX:
                raise Broken(f"it has {len(line)} bytes")
            reading.take(line.removesuffix(b"\n"))
        except Broken as error:
            raise Broken(f"line {number}: {error}") from error
        if not line.endswith(b"\n"):
            raise Broken(f"line {number}: it was cut off")
    return number
