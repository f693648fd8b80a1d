"""The record on disk: `audit/2026-11-21.jsonl` in the home, a file a day, written by a thread of its own.

`note` costs the caller an append to a list. The thread writes several times a second, seals when there was something
new for a while and at the end, begins a new file at midnight UTC and when one has grown large, and removes the oldest
beyond what is to be kept. When the disk is full the agent goes on, and the record says later how many lines it lacks.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from meshnode.audit.chain import LINE_BYTES_MAX, Broken, Chain, Reading, Verify, check, digest
from meshnode.errors import HomeError
from meshnode.telling import Audit as Settings

log = logging.getLogger(__name__)

NAME = re.compile(r"\d{4}-\d{2}-\d{2}(?:\.\d+)?\.jsonl")
WRITE_S = 0.2
SEAL_S = 60.0
PENDING_MAX = 100_000
"""Lines that wait for the disk."""
_Entry = tuple[float, str, dict[str, Any]]


@dataclass(slots=True)
class Book:
    """See the module's docstring.

    Args:
        folder: made when it is not there.
        key: this node's public key, DER; `sign` signs with it.
    """

    folder: Path
    settings: Settings
    key: bytes
    sign: Callable[[bytes], bytes]
    wall: Callable[[], float] = time.time
    _pending: deque[_Entry] = field(default_factory=deque)
    _dropped: int = 0
    _chain: Chain = field(default_factory=Chain)
    _wake: threading.Event = field(default_factory=threading.Event)
    _ending: bool = False
    _thread: threading.Thread | None = None
    _failed: bool = False

    def start(self) -> None:
        """Go on where the record stands. A last line that was cut off by a crash is moved out of the way."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._chain = _resume(self.folder)
        except OSError as error:
            self._cannot(error)
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def note(self, event: str, **fields: Any) -> None:
        """Something was done; `fields` are plain values and never tensors or secrets."""
        if not self.settings.enabled:
            return
        if len(self._pending) >= PENDING_MAX:
            self._dropped += 1
            return
        self._pending.append((self.wall(), event, fields))

    def stop(self) -> None:
        """Write what is left, and seal it."""
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    # --- the thread ---

    def _run(self) -> None:
        sealed_at, unsealed = time.monotonic(), False
        while True:
            self._wake.wait(WRITE_S)
            ending, now = self._ending, time.monotonic()
            unsealed |= bool(self._pending)
            seal = unsealed and (ending or now - sealed_at >= SEAL_S)
            if (self._pending or seal) and self._write(seal) and seal:
                sealed_at, unsealed = now, False
            if ending:
                return

    def _write(self, seal: bool) -> bool:
        """Put down what waits; whether that worked. What did not stays, and is tried again."""
        wall, before = self.wall(), Chain(self._chain.seq, self._chain.head)
        entries = list(self._pending)
        lines = [self._line(*entry) for entry in entries]
        if dropped := self._dropped:
            lines.append(self._chain.line(wall, "lines lost", {"count": dropped}))
        if seal:
            lines.append(self._chain.sealed(wall, self.key, self.sign))
        path = self._path(wall)
        try:
            size = path.stat().st_size if path.exists() else 0
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            try:
                _write_all(fd, b"".join(lines))
                if seal:
                    os.fsync(fd)
            except OSError:
                os.ftruncate(fd, size)  # half of a line would break the chain
                raise
            finally:
                os.close(fd)
        except OSError as error:
            self._chain = before
            self._cannot(error)
            return False
        self._failed = False
        self._dropped -= dropped
        for _ in entries:
            self._pending.popleft()
        self._tidy(path)
        return True

    def _line(self, at: float, event: str, fields: dict[str, Any]) -> bytes:
        before = Chain(self._chain.seq, self._chain.head)
        line = self._chain.line(at, event, fields)
        if len(line) <= LINE_BYTES_MAX:
            return line
        self._chain = before
        return self._chain.line(at, event, {"note": f"the record had {len(line)} bytes"})

    def _path(self, wall: float) -> Path:
        """The file of the day; the next one when it is full."""
        day, number = datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d"), 1
        newest = max((path.name for path in files(self.folder)), default="", key=_order)
        if newest[:10] >= day:  # also when the clock was set back: the order of the files is that of the lines
            day, number = newest[:10], int(newest[11:].partition(".")[0]) if newest.count(".") == 2 else 1
        path = self.folder / (f"{day}.jsonl" if number == 1 else f"{day}.{number}.jsonl")
        if path.exists() and path.stat().st_size >= self.settings.file_bytes:
            path = self.folder / f"{day}.{number + 1}.jsonl"
        return path

    def _tidy(self, current: Path) -> None:
        kept, first_s = 0, self.wall() - self.settings.keep_days * 86400
        oldest = datetime.fromtimestamp(first_s, UTC).strftime("%Y-%m-%d")
        for path in reversed(files(self.folder)):
            kept += path.stat().st_size
            if path != current and (kept > self.settings.bytes_max or path.name[:10] < oldest):
                with suppress(OSError):
                    path.unlink()

    def _cannot(self, error: OSError) -> None:
        if not self._failed:
            log.error("the audit record cannot be written: %s", error.strerror)
        self._failed = True


def files(folder: Path) -> list[Path]:
    """The files of a record, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), key=lambda path: _order(path.name))


def verify(folder: Path, signature_is_right: Verify, keys: frozenset[bytes]) -> Reading:
    """Read a whole record; where it stands. Raises Broken with file and line, HomeError when it cannot be read."""
    reading = Reading(signature_is_right, keys)
    for path in files(folder):
        try:
            with path.open("rb") as file:
                check(file, reading)
        except Broken as error:
            raise Broken(f"{path.name}, {error}") from error
        except OSError as error:
            raise HomeError(f"{path} cannot be read: {error.strerror}") from error
    return reading


def lines(folder: Path) -> Iterator[bytes]:
    """All lines, oldest first. Raises OSError."""
    for path in files(folder):
        with path.open("rb") as file:
            yield from file


def _order(name: str) -> tuple[str, int]:
    return name[:10], int(name[11:].partition(".")[0]) if name.count(".") == 2 else 1


def _resume(folder: Path) -> Chain:
    """Where the record stands. A last line without its end is moved to a file beside it, not lost."""
    for path in reversed(files(folder)):
        with path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            tail_at = max(0, size - 2 * LINE_BYTES_MAX)
            file.seek(tail_at)
            tail = file.read()
            whole, _, rest = tail.rpartition(b"\n")
            if rest:
                log.warning("the last line of %s was cut off by a crash: moved beside it", path.name)
                path.with_suffix(".cut").write_bytes(rest)
                file.truncate(size - len(rest))
        if whole:
            last = whole.rpartition(b"\n")[2]
            return Chain(_seq(last), digest(last))
    return Chain()


def _seq(line: bytes) -> int:
    """Of a line; 0 when it is none, which `verify` will tell as well."""
    try:
        seq = msgspec.json.decode(line)["seq"]
    except (msgspec.DecodeError, ValueError, KeyError, TypeError):
        return 0
    return seq if isinstance(seq, int) else 0


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
