"""A model that is being fetched: the folder where its verified pieces gather, through restarts of this agent.

Only pieces that matched their hash are written here, each at its place, so what a crash leaves behind is either right
or found wrong by `held`. Nothing reads the folder as a model before `seal` has hashed all of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.catalog.intake import Taken, disk_error
from meshnode.catalog.manifest import Manifest
from meshnode.catalog.pieces import Stop, hash_file, read_exactly, settle
from meshnode.errors import ModelRefused, TransferFailed


@dataclass(frozen=True, slots=True)
class Partial:
    """One of them. All methods block."""

    folder: Path
    manifest: Manifest
    hashes: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    """Of the pieces of each file whose list is known."""
    present: set[tuple[int, int]] = field(default_factory=set)
    """(file, index) of what is here, verified: others may have it."""

    def open(self) -> None:
        """Make the folder, or make an old one writable again. Raises HomeError."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            for file in self.folder.iterdir():
                file.chmod(0o600)
        except OSError as error:
            raise disk_error(error) from error

    def missing_bytes(self) -> int:
        """What is still to be written; pieces that do not match in the end are not known yet."""
        if not self.folder.exists():
            return self.manifest.size
        on_disk = sum(min(it.stat().st_size, it.stat().st_blocks * 512) for it in self.folder.iterdir())
        return max(0, self.manifest.size - on_disk)

    def held(self, file: int, hashes: Sequence[bytes], stop: Stop) -> list[int]:
        """Which pieces of a file are here and match. Raises HomeError, Stopped."""
        self.hashes[file] = tuple(hashes)
        found: list[int] = []
        left = self.manifest.files[file].size
        try:
            with (self.folder / self.manifest.files[file].path).open("rb", buffering=0) as source:
                for index, expected in enumerate(hashes):
                    stop.check()
                    piece = read_exactly(source.fileno(), min(left, self.manifest.piece_bytes))
                    left -= self.manifest.piece_bytes
                    if hashlib.sha256(piece).digest() == expected:
                        found.append(index)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise disk_error(error) from error
        self.present.update((file, index) for index in found)
        return found

    def write(self, file: int, index: int, data: bytes) -> None:
        """Put a verified piece in its place. Raises HomeError."""
        path = self.folder / self.manifest.files[file].path
        offset = index * self.manifest.piece_bytes
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                view = memoryview(data)
                while view:
                    written = os.pwrite(fd, view, offset)
                    view, offset = view[written:], offset + written
                settle(fd, len(self.present) * self.manifest.piece_bytes, len(data))
            finally:
                os.close(fd)
        except OSError as error:
            raise disk_error(error) from error
        self.present.add((file, index))

    def piece(self, file: int, index: int) -> bytes:
        """A piece that is here, for somebody else. Raises TransferFailed when it is not, or no longer right."""
        if (file, index) not in self.present:
            raise TransferFailed(f"piece {index} of file {file} of {self.manifest.name} is not here yet")
        nbytes = self.manifest.piece_bytes
        try:
            with (self.folder / self.manifest.files[file].path).open("rb", buffering=0) as source:
                data = os.pread(source.fileno(), nbytes, index * nbytes)
        except OSError as error:
            raise TransferFailed(f"piece {index} of file {file} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data[: self.manifest.files[file].size - index * nbytes]).digest() != self.hashes[file][index]:
            self.present.discard((file, index))
            raise TransferFailed(f"piece {index} of file {file} was damaged on this node's disk")
        return data

    def piece_list(self, file: int) -> bytes:
        """The hashes of a file's pieces. Raises TransferFailed when they are not known yet."""
        if file not in self.hashes:
            raise TransferFailed(f"the piece list of file {file} of {self.manifest.name} is not here yet")
        return b"".join(self.hashes[file])

    def seal(self, stop: Stop) -> tuple[Taken, ...]:
        """All pieces are here: verify each file as a whole, make it durable and read-only.

        Raises TransferFailed when a file on disk is not what was written, ModelRefused when the manifest contradicts
        itself, HomeError, Stopped.
        """
        taken = []
        try:
            for expected in self.manifest.files:
                path = self.folder / expected.path
                with path.open("ab") as file:
                    if file.tell() > expected.size:
                        file.truncate(expected.size)
                    os.fsync(file.fileno())
                found = hash_file(path, self.manifest.piece_bytes, stop)
                if hashlib.sha256(found.pieces).digest() != expected.pieces:
                    raise TransferFailed(f"{expected.path} of {self.manifest.name} was damaged on this node's disk")
                if found.sha256 != expected.sha256:
                    raise ModelRefused(
                        f"the manifest of {self.manifest.name}:{self.manifest.version} contradicts itself: the pieces "
                        f"of {expected.path} match, the file does not",
                        hint="its publisher must add it again",
                    )
                path.chmod(0o400)
                taken.append(Taken(expected, found.pieces))
            for extra in set(os.listdir(self.folder)) - {file.path for file in self.manifest.files}:
                (self.folder / extra).unlink()
        except OSError as error:
            raise disk_error(error) from error
        return tuple(taken)

    def discard(self) -> None:
        """Give the disk back."""
        shutil.rmtree(self.folder, ignore_errors=True)
