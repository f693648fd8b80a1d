"""The chain of records: whatever is changed in it shows, and nothing else is taken for a change."""

from __future__ import annotations

from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from meshnode.audit.chain import Broken, Chain, Reading, check
from meshnode.trust.identity import public_der, verify

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SPKI = public_der(KEY)
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def reading() -> Reading:
    return Reading(verify, frozenset({SPKI}))


def record(count: int = 8, seals: tuple[int, ...] = (4, 8)) -> list[bytes]:
    chain, lines = Chain(), []
    for number in range(1, count + 1):
        lines.append(chain.line(1000.0 + number, "task", {"n": number, "text": 'a "quoted" \n line'}))
        if number in seals:
            lines.append(chain.sealed(1000.5 + number, SPKI, KEY.sign))
    return lines


def test_a_record_is_read_as_it_was_written() -> None:
    """With where it begins and ends, and up to where it is sealed."""
    it = reading()
    assert 10 == check(record(), it)
    assert (1001.0, 1008.5, 10) == (it.first_at, it.last_at, it.sealed_seq)
    assert {"task": 8, "seal": 2} == it.counts


def test_a_record_may_go_on_after_its_oldest_files_are_gone() -> None:
    """The first line that is left is believed, and the chain from there."""
    lines = record()
    it = reading()
    check(lines[3:], it)
    assert 10 == it.sealed_seq


@given(st.integers(0, 9), st.integers(0, 400), st.integers(1, 255))
def test_any_changed_byte_shows(line: int, place: int, flip: int) -> None:
    """In whatever line; the last seal, which nothing names yet, holds as it is or is none."""
    lines = record()
    data = bytearray(lines[line])
    data[place % (len(data) - 1)] ^= flip
    lines[line] = bytes(data)
    it = reading()
    with suppress(Broken):
        check(lines, it)
        assert (9, 5) == (line, it.sealed_seq)


@pytest.mark.parametrize("change", ["drop", "twice", "swap", "cut"])
def test_lines_that_are_dropped_repeated_or_moved_show(change: str) -> None:
    """With the number of the line."""
    lines = record()
    match change:
        case "drop":
            del lines[5]
        case "twice":
            lines.insert(5, lines[5])
        case "swap":
            lines[5], lines[6] = lines[6], lines[5]
        case "cut":
            lines[-1] = lines[-1][:-1]
    with pytest.raises(Broken, match=r"line \d+: "):
        check(lines, reading())


def test_who_rewrites_the_record_without_the_key_is_found_by_the_seal() -> None:
    """Also with a seal of another key, or with the old seal copied."""
    chain = Chain()
    forged = [chain.line(1.0, "task", {"n": 0})]
    for seal in (record()[4], chain.sealed(2.0, SPKI, OTHER.sign), chain.sealed(2.0, public_der(OTHER), OTHER.sign)):
        with pytest.raises(Broken, match="line 2: "):
            check([*forged, seal], reading())


@given(st.binary(max_size=200))
def test_no_line_breaks_the_reader(line: bytes) -> None:
    """It is a record or one error."""
    with pytest.raises(Broken):
        check([line], reading())
