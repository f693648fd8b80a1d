"""Files of the home folder: written whole or not at all, and never believed when damaged.

A state file is `magic "MNS1" | format version u16 | length u64 | SHA-256 | payload`. The hash is over the payload, from
format 2 on over what stands before it as well, so that a turned bit makes no newer format. What does not verify is
moved aside to `NAME.damaged-N`, reported once, and treated as absent; a precious one stays and stops the start. Keys
are written by the same means but are plain PEM.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import struct
from contextlib import suppress
from pathlib import Path

from meshnode.errors import HomeError

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<4sHQ32s")
_BEFORE = struct.Struct("<4sHQ")
_MAGIC = b"MNS1"


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file so that a crash leaves the old or the new content. Raises HomeError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process with this number that was killed
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            os.fchmod(fd, mode)
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise HomeError(f"{path} cannot be written: {error.strerror}", hint="is the disk full or read-only?") from error


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_checked(path: Path, payload: bytes, *, version: int = 1) -> None:
    """Write a state file with its checksum. Raises HomeError."""
    header = _HEADER.pack(_MAGIC, version, len(payload), _digest(version, payload))
    write_atomic(path, header + payload)


def _digest(version: int, payload: bytes) -> bytes:
    before = _BEFORE.pack(_MAGIC, version, len(payload)) if version > 1 else b""
    return hashlib.sha256(before + payload).digest()


def read_checked(path: Path, *, version: int = 1, precious: bool = False) -> bytes | None:
    """The payload of a state file; None when there is none or it was damaged (then it was moved aside).

    Raises HomeError when the file was written by a newer version, which must not be overwritten, and when a `precious`
    one is damaged: that stays where it is, and nothing takes its place.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HomeError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) >= _HEADER.size:
        magic, written_by, length, digest = _HEADER.unpack_from(data)
        payload = data[_HEADER.size :]
        right = magic == _MAGIC and written_by > 0 and len(payload) == length
        if right and _digest(written_by, payload) == digest:
            if written_by > version:
                raise HomeError(
                    f"{path} was written by a newer meshnode (format {written_by}, this one knows {version})",
                    hint="start the newer version again, or use another --home",
                )
            return payload
    if precious:
        raise HomeError(
            f"{path} is damaged (checksum)",
            hint="restore it from a backup, or move the home away and join again with a new token",
        )
    log.warning("%s is damaged (checksum): moved to %s", path, move_aside(path).name)
    return None


def move_aside(path: Path, why: str = "damaged") -> Path:
    """Rename a file to a free `NAME.WHY-N` beside it. Raises HomeError."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{why}-{number}")).exists():
        number += 1
    try:
        path.rename(aside)
    except OSError as error:
        raise HomeError(f"{path} cannot be moved aside: {error.strerror}") from error
    return aside


def take_lock(path: Path) -> int:
    """Take the lock of a home; the file descriptor that holds it. Raises HomeError, naming who has it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HomeError(f"the home {path.parent} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "another process"
        os.close(fd)
        raise HomeError(
            f"an agent already runs on the home {path.parent} (process {holder})",
            hint="stop it first, or start this one with another --home and --listen",
        ) from error
    except OSError as error:
        os.close(fd)
        raise HomeError(
            f"{path} cannot be locked: {error.strerror}", hint="put the home on a local disk with --home"
        ) from error
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
    except OSError as error:  # a full disk: the lock itself holds, only who has it cannot be told
        log.warning("%s: %s", path, error.strerror)
    return fd
