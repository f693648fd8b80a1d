"""The record on disk: nothing is lost by a restart, a crash shows as what it is, and it does not grow for ever."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.audit import book
from meshnode.audit.book import Book
from meshnode.audit.chain import Broken
from meshnode.telling import Audit
from meshnode.trust.identity import public_der, verify
from tests.mesh.rig import wait_for

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SPKI = public_der(KEY)
NOON = 1_763_726_400.0
"""2025-11-21 12:00 UTC."""


def a_book(folder: Path, settings: Audit | None = None, wall: Callable[[], float] = lambda: NOON) -> Book:
    it = Book(folder, settings or Audit(), SPKI, KEY.sign, wall)
    it.start()
    return it


def events(folder: Path) -> list[str]:
    return [json.loads(line)["event"] for line in book.lines(folder)]


def verified(folder: Path) -> book.Reading:
    return book.verify(folder, verify, frozenset({SPKI}))


def test_the_record_goes_on_after_a_restart(tmp_path: Path) -> None:
    """One chain over both lives, sealed at the end of each, readable by its owner alone."""
    for life in range(2):
        it = a_book(tmp_path / "audit")
        for number in range(50):
            it.note("task", n=number, life=life)
        it.stop()
    folder = tmp_path / "audit"
    reading = verified(folder)
    assert {"task": 100, "seal": 2} == reading.counts
    assert 102 == reading.sealed_seq
    (path,) = book.files(folder)
    assert ("2025-11-21.jsonl", 0o600) == (path.name, path.stat().st_mode & 0o777)


def test_records_are_on_disk_soon(tmp_path: Path) -> None:
    """Without a stop: a crash costs what was noted last."""
    it = a_book(tmp_path)
    it.note("task", n=1)
    wait_for(lambda: events(tmp_path), within_s=10, why="it was written")
    assert ["task"] == events(tmp_path)
    it.stop()


def test_a_line_that_a_crash_cut_off_is_moved_beside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And the chain goes on where it was whole."""
    it = a_book(tmp_path)
    it.note("task", n=1)
    it.stop()
    (path,) = book.files(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"seq":3,"at":1,"ev')
    it = a_book(tmp_path)
    it.note("task", n=2)
    it.stop()
    assert ["task", "seal", "task", "seal"] == events(tmp_path)
    assert 4 == verified(tmp_path).seq
    assert b'{"seq":3,"at":1,"ev' == path.with_suffix(".cut").read_bytes()
    assert "cut off by a crash" in caplog.text


def test_a_day_has_a_file_and_a_large_file_a_next_one(tmp_path: Path) -> None:
    """In an order that the chain goes through; a clock that is set back does not begin an older file."""
    now = [NOON]
    settings = Audit(file_bytes=64 * 1024)
    for day, size in ((0, 100_000), (0, 10), (1, 10), (-3, 10)):
        now[0] = NOON + day * 86400
        it = a_book(tmp_path, settings, lambda: now[0])
        for _ in range(size // 10):
            it.note("task", n=size)
        it.stop()
    first, second, *_, last = [path.name for path in book.files(tmp_path)]  # more when it was written in several goes
    assert ["2025-11-21.jsonl", "2025-11-21.2.jsonl", "2025-11-22.jsonl"] == [first, second, last]
    verified(tmp_path)


def test_the_oldest_files_go_and_the_rest_still_verifies(tmp_path: Path) -> None:
    """By age, and by how much there is together."""
    now = [NOON]
    for day in range(6):
        now[0] = NOON + day * 86400
        it = a_book(tmp_path, Audit(keep_days=2.5), lambda: now[0])
        it.note("task", n=day)
        it.stop()
    assert ["2025-11-24", "2025-11-25", "2025-11-26"] == [path.stem for path in book.files(tmp_path)]
    assert {"task": 3, "seal": 3} == verified(tmp_path).counts
    it = a_book(tmp_path, Audit(bytes_max=1024 * 1024), lambda: now[0] + 86400)
    for _ in range(20_000):
        it.note("task", text="x" * 64)
    it.stop()
    assert ["2025-11-27"] == [path.stem for path in book.files(tmp_path)]


def test_a_changed_file_is_named_with_its_line(tmp_path: Path) -> None:
    """The first place that does not hold."""
    it = a_book(tmp_path)
    for number in range(5):
        it.note("task", n=number)
    it.stop()
    (path,) = book.files(tmp_path)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b'"n":2', b'"n":7'))
    with pytest.raises(Broken, match=r"2025-11-21\.jsonl, line 4: the record before it was changed"):
        verified(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_stops_nothing_and_nothing_is_lost_that_fits_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once; what waited is written when there is room; what was too much is counted."""
    monkeypatch.setattr(book, "PENDING_MAX", 10)
    real = os.open
    full = [True]

    def open_full(path: str, flags: int, mode: int = 0o777) -> int:
        return real("/dev/full", os.O_WRONLY) if full[0] and str(path).endswith("jsonl") else real(path, flags, mode)

    monkeypatch.setattr(book.os, "open", open_full)
    monkeypatch.setattr(book.os, "ftruncate", lambda fd, size: None)
    it = a_book(tmp_path)
    for number in range(15):
        it.note("task", n=number)
    wait_for(lambda: "cannot be written" in caplog.text, within_s=10, why="it was tried")
    full[0] = False
    wait_for(lambda: events(tmp_path), within_s=10, why="there is room again")
    it.stop()
    assert 1 == caplog.text.count("cannot be written")
    assert {"task": 10, "lines lost": 1, "seal": 1} == verified(tmp_path).counts


def test_a_record_that_is_switched_off_is_not_written(tmp_path: Path) -> None:
    """[audit] enabled = false."""
    it = a_book(tmp_path, Audit(enabled=False))
    it.note("task", n=1)
    it.stop()
    assert [] == book.files(tmp_path)


def test_noting_costs_its_caller_little(tmp_path: Path) -> None:
    """It waits for no disk: a generous bound, for a machine that has other work."""
    it = a_book(tmp_path, wall=time.time)
    began = time.monotonic()
    for number in range(10_000):
        it.note("task", n=number)
    assert time.monotonic() - began < 5.0
    it.stop()
    assert 10_000 == verified(tmp_path).counts["task"]
