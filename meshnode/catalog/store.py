"""Models on disk, by digest: `models/<digest>/` holds exactly the files of the manifest, written by us alone.

A model appears under its digest by one rename, when all of it is hashed and durable: what is there is whole. Sizes
and kinds are checked when the store opens, contents once before the first use after a start and whenever a piece is
given away. A folder that no longer matches is moved aside, with one message, and the model counts as absent. What
was never judged by this scanner is judged before its first use; what is refused is given up. When
room is needed, the least recently used models go, of those that `may_go`; a folder's time of change is its last use.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from meshnode.catalog.contents import LIST, Contents, look
from meshnode.catalog.intake import Intake, Progress, Taken, disk_error
from meshnode.catalog.judge import judge, keep, kept
from meshnode.catalog.manifest import DIGEST, File, Manifest, digest_of
from meshnode.catalog.partial import Partial
from meshnode.catalog.pieces import HASH_BYTES, Stop, hash_file, in_thread
from meshnode.catalog.room import Kept, leaving
from meshnode.catalog.verdict import Verdict
from meshnode.config import Catalog as Settings
from meshnode.errors import HomeError, ModelRefused, TransferFailed
from meshnode.trust.files import move_aside, sync_folder, write_checked
from meshnode.wire.messages import Digest

log = logging.getLogger(__name__)

_GONE = frozenset({errno.ENOENT, errno.EIO, errno.ENOTDIR, errno.ELOOP, errno.EACCES})
USED_NEWS_S = 60.0
"""The last use is written down at most so often."""
PARTIAL = "partial-"
_ADDING = re.compile(r"\.adding-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Stored:
    """A model in the store; `path` is its .onnx file."""

    digest: Digest
    path: Path
    files: tuple[File, ...]


class Store:
    """The models of one home. Methods that do not wait are cheap; the others work in threads."""

    def __init__(self, folder: Path, settings: Settings, may_go: Callable[[], Collection[Digest]] = frozenset) -> None:
        self.folder = folder
        self._settings = settings
        self._lock = threading.Lock()
        self._known: dict[Digest, Contents] = {}
        self._proven: set[Digest] = set()
        self._verdicts: dict[Digest, Verdict] = {}
        self._paths: dict[Digest, Path] = {}  # a path is put together by string work, and asked for with every task
        self._growing: dict[Digest, Partial] = {}
        self._ask_may_go = may_go
        self._may_go: Collection[Digest] = ()
        """As it was when the model that needs room came; looked at in threads."""
        self._used: dict[Digest, float] = {}

    def open(self) -> None:
        """Look at what is there: unfinished additions are removed, folders that do not match are moved aside.

        Raises HomeError.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            entries = sorted(self.folder.iterdir())
        except OSError as error:
            raise disk_error(error) from error
        for entry in entries:
            if _ADDING.fullmatch(entry.name):
                shutil.rmtree(entry, ignore_errors=True)
            elif DIGEST.fullmatch(entry.name):
                digest = Digest(entry.name)
                try:
                    self._known[digest] = look(entry)
                    if (verdict := kept(entry)) is not None:
                        self._verdicts[digest] = verdict
                except ModelRefused as error:
                    self._damaged(digest, str(error))

    def digests(self) -> list[Digest]:
        """Models that are here."""
        return sorted(self._known)

    def begun(self) -> list[Digest]:
        """Models of which a part is here, whether more of it comes or not."""
        return [Digest(it.name.removeprefix(PARTIAL)) for it in self.folder.glob(f"{PARTIAL}*")]

    def has(self, digest: Digest) -> bool:
        """Whether the model is here."""
        return digest in self._known

    def proven(self, digest: Digest) -> bool:
        """Whether its content was hashed since this agent started, and judged; `verify` does it."""
        return digest in self._proven

    def verdict(self, digest: Digest) -> Verdict | None:
        """What the scanner said of a model that is here."""
        return self._verdicts.get(digest)

    def needs(self, digest: Digest) -> int:
        """What a model is believed to take of a worker's memory, at least; 0 when it is not here."""
        verdict = self._verdicts.get(digest)
        return 0 if verdict is None else verdict.memory_bytes

    def path(self, digest: Digest) -> Path:
        """The .onnx file of a model that is here. Raises TransferFailed when it is not, or no longer."""
        held = self._held(digest)
        path = self._paths.get(digest)
        if path is None:
            path = self._paths[digest] = self.folder / digest / held.files[0].path
        return path

    async def add(self, path: Path, progress: Progress | None = None) -> Stored:
        """Copy a model into the store. Raises ModelRefused, HomeError when the disk is full."""
        self._may_go = self._ask_may_go()
        return await in_thread(lambda stop: self._add(path, progress, stop))

    async def verify(self, digest: Digest) -> bool:
        """Hash a model that is here; one that does not match is moved aside, and the answer is False.

        Raises TransferFailed when it cannot be read, ModelRefused when the scanner refuses it: then it is given up.
        """
        return await in_thread(lambda stop: self._verify(digest, stop))

    def used(self, digest: Digest) -> None:
        """The model is used now; remembered through restarts, to the minute."""
        now = time.time()
        if not 0 <= now - self._used.get(digest, 0.0) < USED_NEWS_S:
            self._used[digest] = now
            with suppress(OSError):
                os.utime(self.folder / digest, (now, now))

    def nbytes(self, digest: Digest) -> int:
        """What a model that is here takes of the disk; 0 for others."""
        held = self._known.get(digest)
        return sum(file.size for file in held.files) if held is not None else 0

    def remove(self, digest: Digest) -> None:
        """Forget a model's files, also half-fetched ones."""
        self._forget(digest)
        self._used.pop(digest, None)
        shutil.rmtree(self.folder / digest, ignore_errors=True)
        if digest not in self._growing:
            shutil.rmtree(self._partial(digest), ignore_errors=True)

    def begin(self, manifest: Manifest) -> Partial:
        """Where a model that is being fetched grows; the same place after a restart. `end` must follow.

        Raises HomeError when the disk has no room, or when it is larger than allowed.
        """
        if manifest.size > self._settings.model_bytes_max:
            raise HomeError(
                f"{manifest.name} has {manifest.size} bytes, and {self._settings.model_bytes_max} are allowed here"
            )
        self._may_go = self._ask_may_go()
        partial = Partial(self._partial(manifest.digest), manifest)
        self._check_space(partial.missing_bytes())
        partial.open()
        self._growing[manifest.digest] = partial
        return partial

    async def finish(self, partial: Partial) -> None:
        """A fetched model is complete: verify all of it, judge it, let it appear. Raises what `Partial.seal` does."""

        def work(stop: Stop) -> None:
            taken = partial.seal(stop)
            try:
                verdict = judge(partial.folder, (it.file for it in taken))
            except OSError as error:
                raise disk_error(error) from error
            self._appear(partial.folder, taken, partial.manifest.piece_bytes, verdict)

        await in_thread(work)

    def end(self, partial: Partial) -> None:
        """It grows no more, for now or for good."""
        self._growing.pop(partial.manifest.digest, None)

    def present(self, digest: Digest) -> set[tuple[int, int]] | None:
        """(file, index) of the pieces that are here of a model that is being fetched; None when all of it is here.

        Raises TransferFailed when nothing of it is here.
        """
        if digest in self._known:
            return None
        if (partial := self._growing.get(digest)) is None:
            raise TransferFailed(f"model {digest[:12]} is not here")
        return partial.present

    async def piece(self, digest: Digest, file: int, index: int, piece_bytes: int) -> bytes:
        """One piece of a file, for a peer. Raises TransferFailed when it is not here, or no longer right."""
        if digest not in self._known and (partial := self._growing.get(digest)) is not None:
            return await in_thread(lambda _: partial.piece(file, index))
        return await in_thread(lambda _: self._piece(digest, file, index, piece_bytes))

    async def piece_list(self, digest: Digest, file: int, piece_bytes: int) -> bytes:
        """The hashes of a file's pieces, one after the other. Raises TransferFailed."""
        if digest not in self._known and (partial := self._growing.get(digest)) is not None:
            return partial.piece_list(file)
        held = self._held(digest, file)
        if piece_bytes == held.piece_bytes:
            return held.pieces[file]

        def read(stop: Stop) -> bytes:
            try:
                return hash_file(self.folder / digest / held.files[file].path, piece_bytes, stop).pieces
            except OSError as error:
                raise self._unreadable(digest, error) from error

        return await in_thread(read)

    # --- inside; what blocks runs in threads ---

    def _add(self, path: Path, progress: Progress | None, stop: Stop) -> Stored:
        adding = self.folder / f".adding-{uuid.uuid4().hex}"
        try:
            adding.mkdir(mode=0o700)
            piece_bytes = self._settings.piece_bytes
            model_bytes_max = self._settings.model_bytes_max
            taken, verdict = Intake(path, adding, piece_bytes, model_bytes_max, self._check_space, progress, stop).run()
            digest = digest_of(it.file for it in taken)
            if digest in self._known and digest not in self._proven:
                self._verify(digest, stop)  # of two copies the one that is here stays, if it is right
            self._appear(adding, taken, piece_bytes, verdict)
        except OSError as error:
            raise disk_error(error) from error
        finally:
            shutil.rmtree(adding, ignore_errors=True)
        return Stored(digest, self.path(digest), self._held(digest).files)

    def _appear(self, folder: Path, taken: tuple[Taken, ...], piece_bytes: int, verdict: Verdict) -> None:
        """The folder holds all of a model, hashed: give it its name. One that is there already is kept."""
        held = Contents(tuple(it.file for it in taken), piece_bytes, tuple(it.pieces for it in taken))
        digest = digest_of(held.files)
        write_checked(folder / LIST, msgspec.msgpack.encode(held))
        keep(folder, verdict)
        with self._lock:
            final = self.folder / digest
            if digest not in self._known:
                if final.exists():
                    move_aside(final)
                folder.rename(final)
                sync_folder(self.folder)
                self._known[digest] = held
                self._proven.add(digest)
                self._verdicts[digest] = verdict
            elif folder.name.startswith(PARTIAL):
                shutil.rmtree(folder, ignore_errors=True)

    def _verify(self, digest: Digest, stop: Stop) -> bool:
        held = self._held(digest)
        for file in held.files:
            try:
                found = hash_file(self.folder / digest / file.path, held.piece_bytes, stop)
            except OSError as error:
                raise self._unreadable(digest, error) from error
            if found.sha256 != file.sha256:
                self._damaged(digest, f"{file.path} does not match its hash")
                return False
        self._judge(digest, held)
        self._proven.add(digest)
        return True

    def _judge(self, digest: Digest, held: Contents) -> None:
        """Of a model that came here before this scanner did."""
        if digest in self._verdicts:
            return
        try:
            verdict = judge(self.folder / digest, held.files)
        except OSError as error:
            raise self._unreadable(digest, error) from error
        except ModelRefused as error:
            log.warning("model %s is given up: %s", digest[:12], error)
            self.remove(digest)
            raise
        self._verdicts[digest] = verdict
        try:
            keep(self.folder / digest, verdict)
        except HomeError as error:
            log.warning("the verdict on model %s is not kept: %s", digest[:12], error)

    def _piece(self, digest: Digest, file: int, index: int, piece_bytes: int) -> bytes:
        held = self._held(digest, file)
        offset = index * piece_bytes
        if offset >= held.files[file].size:
            raise TransferFailed(f"{held.files[file].path} of model {digest[:12]} has no piece {index}")
        try:
            with (self.folder / digest / held.files[file].path).open("rb") as source:
                data = os.pread(source.fileno(), piece_bytes, offset)
        except OSError as error:
            raise self._unreadable(digest, error) from error
        if piece_bytes == held.piece_bytes:
            expected = held.pieces[file][index * HASH_BYTES : (index + 1) * HASH_BYTES]
            if hashlib.sha256(data).digest() != expected:
                self._damaged(digest, f"piece {index} of {held.files[file].path} does not match its hash")
                raise TransferFailed(f"this node's copy of model {digest[:12]} is damaged")
        return data

    def _held(self, digest: Digest, file: int = 0) -> Contents:
        held = self._known.get(digest)
        if held is None or file >= len(held.files):
            raise TransferFailed(f"file {file} of model {digest[:12]} is not here")
        return held

    def _unreadable(self, digest: Digest, error: OSError) -> TransferFailed:
        """A file cannot be read; whether that is its fault or the machine's makes the difference."""
        if error.errno in _GONE:
            self._damaged(digest, str(error))
        return TransferFailed(f"this node's copy of model {digest[:12]} cannot be read: {error.strerror}")

    def _damaged(self, digest: Digest, why: str) -> None:
        """Move the folder aside and say so once."""
        with self._lock:
            self._forget(digest)
            try:
                aside = move_aside(self.folder / digest).name
            except FileNotFoundError:
                aside = "nowhere, it is gone"
            except OSError as error:
                aside = f"nowhere ({error.strerror})"
        log.warning("this node's copy of model %s is damaged (%s): moved to %s", digest[:12], why, aside)

    def _forget(self, digest: Digest) -> None:
        self._known.pop(digest, None)
        self._proven.discard(digest)
        self._paths.pop(digest, None)
        self._verdicts.pop(digest, None)

    def _partial(self, digest: Digest) -> Path:
        return self.folder / f"{PARTIAL}{digest}"

    def _check_space(self, nbytes: int) -> None:
        """Make room for so many bytes, and for all that is promised to models on their way.

        Raises HomeError when it cannot be had.
        """
        promised = sum(partial.missing_bytes() for partial in list(self._growing.values()))
        coming = f", {promised} are for models that are being fetched" if promised else ""
        quota, reserve = self._settings.quota_bytes, self._settings.disk_reserve_bytes
        if quota:
            kept = sum(map(self.nbytes, list(self._known))) + self._grown()
            short = self._evict(nbytes + promised + kept - quota)
            if short > 0:
                raise HomeError(
                    f"the model needs {nbytes} bytes; {kept} of the {quota} for models are taken{coming}, and what may "
                    "go is not enough",
                    hint="raise catalog.quota_bytes in config.toml, or `meshnode model remove` what nobody needs",
                )
        free = shutil.disk_usage(self.folder).free
        short = self._evict(nbytes + promised + reserve - free)
        if short > 0:
            raise HomeError(
                f"the model needs {nbytes} bytes; {free} are free{coming}, and {reserve} stay in reserve",
                hint=f"make {short} bytes free on the disk of {self.folder}",
            )

    def _grown(self) -> int:
        """What half-fetched models take already."""
        growing = list(self._growing.values())
        return sum(partial.manifest.size - partial.missing_bytes() for partial in growing)

    def _evict(self, short: int) -> int:
        """Let the least recently used models go that may; how many bytes are still short."""
        if short <= 0:
            return short
        kept = [Kept(digest, self.nbytes(digest), self._used_at(digest)) for digest in list(self._known)]
        for digest in leaving(short, kept, self._may_go):
            short -= self.nbytes(digest)
            log.info("model %s leaves this disk: its room is needed, and others have it", digest[:12])
            self.remove(digest)
        return short

    def _used_at(self, digest: Digest) -> float:
        try:
            return (self.folder / digest).stat().st_mtime
        except OSError:
            return 0.0
