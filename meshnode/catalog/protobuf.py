"""The protobuf wire format, walked within a budget: where fields begin and end, and nothing built of them.

What is not walked into costs one step whatever its size, so weights are skipped. Nothing here knows ONNX.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from mmap import mmap

Bytes = bytes | bytearray | memoryview | mmap
VARINT, FIXED64, NESTED, FIXED32 = 0, 1, 2, 5
_ENDS = bytes(range(0x80, 0x100))
"""Every byte of a varint but its last has the high bit."""
WINDOW = 1024 * 1024
"""Looked at in one call that holds the interpreter, and with it the agent's loop."""

SKIPPED = 64 * 1024
"""…and in one match of a pattern, which remembers each repetition. Possessive ones would not, and are wrong in Python
3.11.2."""


class Malformed(Exception):
    """The bytes are not what they should be: `text` says how, and `hint` what would help."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class Reader:
    """One walk over some bytes; its steps are counted over all of it."""

    __slots__ = ("fields_left", "fields_max", "view")

    def __init__(self, view: memoryview, fields_max: int) -> None:
        self.view = view
        self.fields_left = self.fields_max = fields_max

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(field number, wire type, start, end) of the fields of one message; a varint's value stands in `start`."""
        view = self.view
        while at < end:
            self.fields_left -= 1
            if self.fields_left < 0:
                raise Malformed(f"it has more than {self.fields_max} fields, the limit")
            key = view[at]
            if key < 0x80:
                at += 1
            else:
                key, at = self.varint(at, end)
            number, kind = key >> 3, key & 7
            if number == 0:
                raise Malformed("a field has the number 0")
            if kind == 2:
                if at < end and (length := view[at]) < 0x80:
                    at += 1
                else:
                    length, at = self.varint(at, end)
            elif kind == 0:
                if at < end and (value := view[at]) < 0x80:
                    at += 1
                else:
                    value, at = self.varint(at, end)
                yield number, kind, value, at
                continue
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise Malformed(f"a field has the wire type {kind}")
            if length > end - at:
                raise Malformed("it ends in the middle of a field")
            yield number, kind, at, at + length
            at += length

    def field(self, at: int, end: int) -> tuple[int, int, int, int]:
        """The one that begins here."""
        return next(self.fields(at, end))

    def skip(self, pattern: re.Pattern[bytes], at: int, end: int) -> int:
        """The end of what matches here: many small fields in one step that is not counted."""
        found = pattern.match(self.view, at, min(end, at + SKIPPED))
        return at if found is None else found.end()

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The number that begins here, and where it ends."""
        view = self.view
        value = shift = 0
        while at < end:
            byte = view[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                raise Malformed("a number is too long")
        raise Malformed("it ends in the middle of a number")

    def varints(self, at: int, end: int) -> int:
        """How many numbers are packed here."""
        if end > at and self.view[end - 1] >= 0x80:
            raise Malformed("it ends in the middle of a number")
        count = 0
        for start in range(at, end, WINDOW):
            count += len(bytes(self.view[start : min(end, start + WINDOW)]).translate(None, _ENDS))
        return count

    def numbers(self, at: int, end: int, count_max: int) -> list[int]:
        """The numbers that are packed here, as signed 64-bit ones."""
        found: list[int] = []
        while at < end:
            value, at = self.varint(at, end)
            found.append(signed(value))
            if len(found) > count_max:
                raise Malformed(f"more than {count_max} numbers stand where a shape does")
        return found

    def text(self, at: int, end: int, chars_max: int = 4096) -> str:
        """Text that is no longer than it may be."""
        if end - at > chars_max:
            raise Malformed(f"a name has {end - at} bytes; {chars_max} are allowed")
        try:
            return str(self.view[at:end], "utf-8")
        except UnicodeDecodeError as error:
            raise Malformed("a name is no text") from error

    def label(self, at: int, end: int) -> str:
        """A name that is only told or compared: what is no text in it is replaced, what is too long is cut."""
        return str(self.view[at : min(end, at + 4096)], "utf-8", "replace")


def signed(value: int) -> int:
    """A varint as the int64 that it stands for."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
