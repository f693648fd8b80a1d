"""Models on disk, by digest: `models/<digest>/` holds exactly the files of the manifest, written by us alone.

A file is copied byte by byte into a folder of our own, hashed on the way, and the folder appears under its digest by
one rename: what is there is whole. Links, devices and paths that lead outside the model's folder are refused, also
hard links, which ONNX Runtime would follow. A folder that no longer matches is moved aside and the model counts as
absent.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import mmap
import os
import shutil
import stat
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from meshnode.catalog.manifest import File, Manifest, digest_of
from meshnode.catalog.onnxfile import Outline, outline
from meshnode.config import Catalog as Settings
from meshnode.errors import HomeError, ModelRefused, TransferFailed
from meshnode.trust.files import move_aside, sync_folder
from meshnode.wire.messages import Digest

log = logging.getLogger(__name__)

FILES_LIST = ".files"
"""The list of files with their sizes and hashes, beside them."""
PROTOBUF_BYTES_MAX = 2**31 - 1
Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A model in the store; `path` is its .onnx file."""

    digest: Digest
    path: Path
    files: tuple[File, ...]


class Store:
    """The models of one home."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self._settings = settings
        self._known: dict[Digest, tuple[File, ...]] = {}

    def open(self) -> None:
        """Look at what is there: unfinished additions are removed, folders that do not match are moved aside."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in sorted(self.folder.iterdir()):
            if entry.name.startswith(".adding-"):
                shutil.rmtree(entry, ignore_errors=True)
            elif len(entry.name) == 64 and entry.is_dir():
                try:
                    self._known[Digest(entry.name)] = _check_folder(entry)
                except ModelRefused as error:
                    log.warning(
                        "the model %s is damaged (%s): moved to %s", entry.name[:12], error, move_aside(entry).name
                    )

    def digests(self) -> list[Digest]:
        """Models that are whole."""
        return sorted(self._known)

    def has(self, digest: Digest) -> bool:
        """Whether the model is here, whole."""
        return digest in self._known

    def path(self, digest: Digest) -> Path:
        """The .onnx file of a model that is here."""
        return self.folder / digest / self._known[digest][0].path

    async def add(self, path: Path, progress: Progress | None = None) -> Stored:
        """Copy a model into the store. Raises ModelRefused, HomeError when the disk is full."""
        return await asyncio.to_thread(self._add, path, progress)

    def remove(self, digest: Digest) -> None:
        """Forget a model's files."""
        self._known.pop(digest, None)
        shutil.rmtree(self.folder / digest, ignore_errors=True)

    def begin(self, manifest: Manifest) -> Path:
        """The folder where a model that is being fetched grows; the same one after a restart. Checks the free space."""
        folder = self.folder / f"partial-{manifest.digest}"
        held = sum(f.stat().st_size for f in folder.iterdir()) if folder.exists() else 0
        self._check_space(manifest.size - held)
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    async def finish(self, manifest: Manifest, folder: Path) -> None:
        """A fetched model is complete: verify all of it and let it appear. Raises TransferFailed."""
        await asyncio.to_thread(self._finish, manifest, folder)

    async def piece(self, digest: Digest, file: int, index: int, piece_bytes: int) -> bytes:
        """One piece of a file, for a peer. Raises TransferFailed when it is not here."""
        return await asyncio.to_thread(self._piece, digest, file, index, piece_bytes)

    async def piece_list(self, digest: Digest, file: int, piece_bytes: int) -> bytes:
        """The hashes of a file's pieces, one after the other. Raises TransferFailed."""

        def read() -> bytes:
            held = self._file(digest, file)
            with held.open("rb") as source:
                return _Hasher.over(source, piece_bytes).pieces

        return await asyncio.to_thread(read)

    # --- adding ---

    def _add(self, path: Path, progress: Progress | None) -> Stored:
        source = _open_regular(path, links_allowed=True)
        with source:
            size = os.fstat(source.fileno()).st_size
            if size > PROTOBUF_BYTES_MAX:
                raise ModelRefused(f"{path.name} has {size} bytes, and an ONNX file has at most {PROTOBUF_BYTES_MAX}")
            found = _outline(source, size, path.name)
            externals = [(location, _external(path, location, end)) for location, end in found.external.items()]
            total = size + sum(p.stat().st_size for _, p in externals)
            if total > self._settings.model_bytes_max:
                raise ModelRefused(f"the model has {total} bytes, and {self._settings.model_bytes_max} are allowed")
            self._check_space(total)
            adding = self.folder / f".adding-{uuid.uuid4().hex}"
            adding.mkdir(mode=0o700)
            try:
                return self._copy(source, externals, adding, total, progress)
            except OSError as error:
                raise HomeError(f"the model cannot be stored: {error.strerror}", hint="is the disk full?") from error
            finally:
                shutil.rmtree(adding, ignore_errors=True)

    def _copy(
        self,
        source: BinaryIO,
        externals: list[tuple[str, Path]],
        adding: Path,
        total: int,
        progress: Progress | None,
    ) -> Stored:
        done = 0
        files = []
        for name, path in [("model.onnx", None), *externals]:
            data = source if path is None else _open_regular(path, links_allowed=False)
            try:
                file = _copy_file(data, adding / name, name, self._settings.piece_bytes)
            finally:
                if path is not None:
                    data.close()
            files.append(file)
            done += file.size
            if progress is not None:
                progress(done, total)
        digest = digest_of(files)
        self._appear(adding, digest, tuple(files))
        return Stored(digest, self.path(digest), tuple(files))

    def _appear(self, folder: Path, digest: Digest, files: tuple[File, ...]) -> None:
        with (folder / FILES_LIST).open("wb") as file:
            file.write(msgspec.msgpack.encode(files))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(folder)
        if digest not in self._known:
            final = self.folder / digest
            if final.exists():
                move_aside(final)
            folder.rename(final)
            sync_folder(self.folder)
        self._known[digest] = files

    def _check_space(self, nbytes: int) -> None:
        free = shutil.disk_usage(self.folder).free
        needed = nbytes + self._settings.disk_reserve_bytes
        if free < needed:
            raise HomeError(
                f"the model needs {nbytes} bytes, and of the {free} bytes that are free "
                f"{self._settings.disk_reserve_bytes} stay in reserve",
                hint=f"make {needed - free} bytes free on the disk of {self.folder}",
            )

    # --- fetching and giving ---

    def _finish(self, manifest: Manifest, folder: Path) -> None:
        for expected in manifest.files:
            path = folder / expected.path
            if expected.size == 0:
                path.touch()
            with path.open("rb") as file:
                held = _Hasher.over(file, manifest.piece_bytes)
            if held.sha256 != expected.sha256:
                path.unlink()
                raise TransferFailed(f"{expected.path} of {manifest.name} does not match its hash; it is fetched anew")
            path.chmod(0o400)
        for extra in folder.iterdir():
            if extra.name not in {file.path for file in manifest.files}:
                extra.unlink()
        self._appear(folder, manifest.digest, manifest.files)

    def _file(self, digest: Digest, file: int) -> Path:
        files = self._known.get(digest)
        if files is None or file >= len(files):
            raise TransferFailed(f"file {file} of model {digest[:12]} is not here")
        return self.folder / digest / files[file].path

    def _piece(self, digest: Digest, file: int, index: int, piece_bytes: int) -> bytes:
        with self._file(digest, file).open("rb") as source:
            return os.pread(source.fileno(), piece_bytes, index * piece_bytes)


def _open_regular(path: Path, *, links_allowed: bool) -> BinaryIO:
    """Open a regular file. Data that a model names may be no link of either kind, for it could be any file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if links_allowed else os.O_NOFOLLOW))
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}") from error
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise ModelRefused(f"{path} is not a file")
    if not links_allowed and info.st_nlink != 1:
        os.close(fd)
        raise ModelRefused(f"{path.name} is a hard link, which could be any file of this machine; copy it first")
    return os.fdopen(fd, "rb")


def _outline(source: BinaryIO, size: int, name: str) -> Outline:
    if size == 0:
        raise ModelRefused(f"{name} is empty")
    # Not closed by hand: views of it may live as long as an exception does, and it goes with the last of them.
    data = mmap.mmap(source.fileno(), size, prot=mmap.PROT_READ)
    try:
        return outline(memoryview(data))
    except ModelRefused as error:
        raise ModelRefused(f"{name}: {error}", hint=error.hint) from error.__cause__


def _external(model: Path, location: str, end: int | None) -> Path:
    """The file that a model's external data names, beside the model. Raises ModelRefused."""
    if Path(location).name != location or not location or len(location) > 128 or location in (".", "..", "model.onnx"):
        raise ModelRefused(f"the model's external data names {location!r}, and only files beside the model are taken")
    if not all(c.isascii() and (c.isalnum() or c in "._-") for c in location) or location.startswith((".", "-")):
        raise ModelRefused(f"the model's external data file {location!r} has characters that are not taken")
    path = model.parent / location
    try:
        size = path.lstat().st_size
    except OSError as error:
        raise ModelRefused(
            f"the model's external data file {location} is missing", hint="keep it beside the .onnx file"
        ) from error
    if end is not None and end > size:
        raise ModelRefused(f"the model reads {location} up to byte {end}, and it has {size}")
    return path


def _copy_file(source: BinaryIO, target: Path, name: str, piece_bytes: int) -> File:
    source.seek(0)
    hasher = _Hasher()
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400), "wb") as out:
        while piece := source.read(piece_bytes):
            hasher.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    return File(name, hasher.size, hasher.sha256, hashlib.sha256(hasher.pieces).digest())


class _Hasher:
    """The hash of a file and of each of its pieces."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._pieces: list[bytes] = []
        self.size = 0

    @classmethod
    def over(cls, source: BinaryIO, piece_bytes: int) -> _Hasher:
        """Of an open file."""
        hasher = cls()
        while piece := source.read(piece_bytes):
            hasher.update(piece)
        return hasher

    def update(self, piece: bytes) -> None:
        """The next piece."""
        self._whole.update(piece)
        self._pieces.append(hashlib.sha256(piece).digest())
        self.size += len(piece)

    @property
    def sha256(self) -> bytes:
        return self._whole.digest()

    @property
    def pieces(self) -> bytes:
        return b"".join(self._pieces)


def _check_folder(folder: Path) -> tuple[File, ...]:
    """The files of a model's folder, when sizes and kinds are right; contents are hashed when they are given away."""
    try:
        files = msgspec.msgpack.decode((folder / FILES_LIST).read_bytes(), type=tuple[File, ...])
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ModelRefused(f"its list of files cannot be read: {error}") from error
    if digest_of(files) != folder.name:
        raise ModelRefused("its list of files does not match its digest")
    for file in files:
        try:
            info = (folder / file.path).lstat()
        except OSError as error:
            raise ModelRefused(f"{file.path} is missing") from error
        if not stat.S_ISREG(info.st_mode) or info.st_size != file.size or info.st_nlink != 1:
            raise ModelRefused(f"{file.path} is not the file that was stored")
    return files
