"""Models as ONNX Runtime optimised them, kept on disk where that makes the next load quicker. Worker only.

Many nodes are what makes optimising slow; a model of few nodes and large weights loads as quickly without, since an
entry has to be read and hashed. So a model is kept whose load took long for its size.

An entry holds for one model, one version of ONNX Runtime, one provider and one processor; its name ends with the hash
of its content, which is checked before it is used, and it appears by one rename. What does not fit is dropped.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

log = logging.getLogger(__name__)

FOLDER_BYTES_MAX = 2 * 1024**3
ENTRY_BYTES_MAX = 16 * 1024**2
"""While ONNX Runtime writes an optimised model it holds the weights twice, and it goes on doing so."""
WORTH_S = 0.02
WORTH_BYTES_S = 150e6
"""A load is long that takes more processor time than this and its bytes at this rate. Measured: 7,500 small nodes take
600 ms, and 130 from an entry; 60 convolutions with 35 MB of weights 40 ms, and 65."""
DRAFT_S = 3600.0
"""A draft that is older was left by a process that was killed."""
SUFFIX = ".onnx"
DRAFT = "draft-"


@dataclass(frozen=True, slots=True)
class Graphs:
    """The entries in a folder, which no other process but this machine's workers writes to."""

    folder: Path
    bytes_max: int = FOLDER_BYTES_MAX

    def key(self, digest: str, provider: str) -> str:
        """What an entry of this model must have been made for."""
        made_for = (digest, ort.__version__, provider, processor())
        return hashlib.sha256("\n".join(made_for).encode()).hexdigest()[:32]

    def find(self, key: str) -> bytes | None:
        """The entry, whole; None when there is none. One that is damaged is dropped."""
        for path in self._entries(key):
            try:
                content = path.read_bytes()
            except OSError:
                continue
            if hashlib.sha256(content).hexdigest() == path.stem.partition("-")[2]:
                with suppress(OSError):
                    os.utime(path)
                return content
            self.drop(key)
        return None

    def drop(self, key: str) -> None:
        """It is of no use."""
        for path in self._entries(key):
            path.unlink(missing_ok=True)

    def draft(self) -> Path | None:
        """Where ONNX Runtime may write one; None when nothing can be written."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for old in self.folder.glob(f"{DRAFT}*"):
                if old.stat().st_mtime < time.time() - DRAFT_S:
                    old.unlink(missing_ok=True)
            fd, name = tempfile.mkstemp(SUFFIX, DRAFT, self.folder)
        except OSError:
            return None
        os.close(fd)
        return Path(name)

    def keep(self, key: str, draft: Path) -> None:
        """Make it an entry, unless it is too large; the longest unused make room."""
        try:
            nbytes = draft.stat().st_size
            if 0 < nbytes <= min(ENTRY_BYTES_MAX, self.bytes_max):
                with draft.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                self._make_room(nbytes)
                draft.replace(self.folder / f"{key}-{content}{SUFFIX}")
        except OSError as error:
            log.info("an optimised model is not kept: %s", error)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def _entries(self, key: str) -> list[Path]:
        return sorted(self.folder.glob(f"{key}-*{SUFFIX}"))

    def _make_room(self, nbytes: int) -> None:
        rows = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):
                rows.append((path.stat().st_mtime, path.stat().st_size, path))
        held = sum(size for _, size, path in rows if not path.name.startswith(DRAFT))
        for _, size, path in sorted(rows):
            if held + nbytes <= self.bytes_max:
                return
            if not path.name.startswith(DRAFT):
                path.unlink(missing_ok=True)
                held -= size


def processor() -> str:
    """The instruction sets that this machine has: an optimised graph may use them all."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.lower().startswith(("flags", "features")):
                return f"{platform.machine()} {' '.join(sorted(line.partition(':')[2].split()))}"
    return f"{platform.machine()} {platform.processor()}"
