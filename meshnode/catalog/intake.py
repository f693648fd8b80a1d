"""Taking a user's model in: which files belong to it, and copying them byte by byte into a folder of ours.

The .onnx file is copied first and looked at afterwards, so that nobody can change or shorten it under our eyes. Data
that a model names may lie only beside it, as an ordinary file: links of either kind are refused, for ONNX Runtime
follows hard links and they could be any file of this machine.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.catalog.judge import scan_file
from meshnode.catalog.manifest import FILE_NAME, FILES_MAX, File
from meshnode.catalog.pieces import Hasher, Stop, read_exactly, settle
from meshnode.catalog.scan import PROTOBUF_BYTES_MAX
from meshnode.catalog.verdict import Verdict
from meshnode.errors import HomeError, ModelRefused

MODEL_FILE = "model.onnx"
Progress = Callable[[int, int], None]
"""(bytes done, bytes in all); called in the thread that copies."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Taken:
    """A file that was copied: what the manifest says of it, and the hashes of its pieces."""

    file: File
    pieces: bytes


@dataclass(slots=True)
class Intake:
    """One model on its way into `folder`. `check_space` raises HomeError when so many bytes do not fit."""

    path: Path
    folder: Path
    piece_bytes: int
    model_bytes_max: int
    check_space: Callable[[int], None]
    progress: Progress | None
    stop: Stop
    _done: int = 0
    _total: int = 0
    _taken: list[Taken] = field(default_factory=list)

    def run(self) -> tuple[tuple[Taken, ...], Verdict]:
        """Copy all of it and judge it. Raises ModelRefused, HomeError, Stopped."""
        source = _open(self.path, links_allowed=True)
        try:
            size = os.fstat(source).st_size
            if size == 0:
                raise ModelRefused(f"{self.path.name} is empty")
            if size > PROTOBUF_BYTES_MAX:
                raise ModelRefused(
                    f"{self.path.name} has {size} bytes, and an ONNX file has at most {PROTOBUF_BYTES_MAX}",
                    hint="larger models keep their weights in external data files",
                )
            self._total = size
            self.check_space(size)
            self._copy(source, size, MODEL_FILE)
        finally:
            os.close(source)
        verdict = scan_file(self.folder / MODEL_FILE, self.path.name)
        externals = self._externals(verdict)
        self._total += sum(externals.values())
        if self._total > self.model_bytes_max:
            raise ModelRefused(f"the model has {self._total} bytes, and {self.model_bytes_max} are allowed here")
        self.check_space(self._total - self._done)
        for name, expected in externals.items():
            beside = _open(self.path.parent / name, links_allowed=False)
            try:
                self._copy(beside, expected, name)
            finally:
                os.close(beside)
        return tuple(self._taken), verdict

    def _externals(self, verdict: Verdict) -> dict[str, int]:
        """Name -> size of the external data files, after a look at each."""
        names = dict.fromkeys(_file_name(location) for location in verdict.external)
        if len(names) + 1 > FILES_MAX:
            raise ModelRefused(
                f"the model has {len(names)} external data files, and at most {FILES_MAX - 1} are taken",
                hint="save it with all external data in one file",
            )
        folded = [name.lower() for name in (MODEL_FILE, *names)]
        if len(set(folded)) != len(folded):
            raise ModelRefused(
                "two files of the model have the same name, or names that differ in upper and lower case only"
            )
        sizes = {}
        for name in names:
            fd = _open(self.path.parent / name, links_allowed=False)
            try:
                sizes[name] = os.fstat(fd).st_size
            finally:
                os.close(fd)
        verdict.check_files(sizes)
        return sizes

    def _copy(self, source: int, size: int, name: str) -> None:
        hasher = Hasher()
        try:
            target = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
            try:
                while piece := read_exactly(source, min(self.piece_bytes, size + 1 - hasher.size)):
                    self.stop.check()
                    hasher.update(piece)
                    write_all(target, piece)
                    self._done += len(piece)
                    settle(target, hasher.size, len(piece))
                    if hasher.size > size:
                        break
                    if self.progress is not None:
                        self.progress(self._done, self._total)
                os.fsync(target)
            finally:
                os.close(target)
        except OSError as error:
            raise disk_error(error) from error
        if hasher.size != size:
            raise ModelRefused(f"{name} changed while it was read", hint="add it again once nothing writes to it")
        file = File(name, hasher.size, hasher.sha256, hashlib.sha256(hasher.pieces).digest())
        self._taken.append(Taken(file, hasher.pieces))


def write_all(fd: int, data: bytes) -> None:
    """Write all of it. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def disk_error(error: OSError) -> HomeError:
    """What a failed write of model bytes means to a person."""
    full = error.errno in _FULL
    return HomeError(
        f"the model cannot be stored: {error.strerror}",
        hint="make room on the disk of the home folder" if full else "is the home folder writable?",
    )


def _open(path: Path, *, links_allowed: bool) -> int:
    """A descriptor of a regular file. Raises ModelRefused."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if links_allowed else os.O_NOFOLLOW))
    except FileNotFoundError as error:
        if links_allowed:
            raise ModelRefused(f"there is no file {path}") from error
        raise ModelRefused(
            f"the model's external data file {path.name} is missing", hint="keep it beside the .onnx file"
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP and not links_allowed:
            raise ModelRefused(
                f"the model's external data file {path.name} is a link, which could be any file of this machine",
                hint="put a copy of the data beside a copy of the .onnx file",
            ) from error
        raise ModelRefused(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelRefused(f"{str(path)!r} is no path of a file") from error
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise ModelRefused(f"{path} is not a file")
    if not links_allowed and info.st_nlink != 1:
        os.close(fd)
        raise ModelRefused(
            f"the model's external data file {path.name} is a hard link, which could be any file of this machine",
            hint="put a copy of the data beside a copy of the .onnx file",
        )
    return fd


def _file_name(location: str) -> str:
    """The name of an external data file beside the model. Raises ModelRefused."""
    name = location
    while name.startswith("./"):
        name = name[2:]
    if not FILE_NAME.fullmatch(name):
        shown = repr(location) if len(location) <= 160 else repr(location[:160]) + "…"
        raise ModelRefused(
            f"the model's external data lies in {shown}, and only files right beside the model are taken",
            hint="names of up to 128 letters, digits, '.', '_' and '-'; save it with all external data in one file",
        )
    return name
