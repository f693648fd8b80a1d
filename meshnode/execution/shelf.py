"""Models as ONNX Runtime optimised them, kept on disk by the agent; workers can only read them.

An entry holds for one model, one version of ONNX Runtime, one provider and one processor; its name ends with the hash
of its content, which is checked before it is used, and it appears by one rename. What does not fit is dropped.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.execution.arena import contents

log = logging.getLogger(__name__)

FOLDER = Path("graphs")
"""In the folder that workers stand in: read by them, written by the agent."""
FOLDER_BYTES_MAX = 2 * 1024**3
ENTRY_BYTES_MAX = 16 * 1024**2
"""While ONNX Runtime writes an optimised model it holds the weights twice, and it goes on doing so."""
SUFFIX = ".onnx"
DRAFT = "draft-"


def key(digest: str, runtime: str, provider: str) -> str:
    """What an entry of this model must have been made for."""
    made_for = (digest, runtime, provider, processor())
    return hashlib.sha256("\n".join(made_for).encode()).hexdigest()[:32]


def entries(folder: Path, key: str) -> list[Path]:
    """The files of this key; one, unless somebody was interrupted."""
    return sorted(folder.glob(f"{key}-*{SUFFIX}"))


@dataclass(frozen=True, slots=True)
class Shelf:
    """The entries in a folder that no other process writes to."""

    folder: Path
    bytes_max: int = FOLDER_BYTES_MAX
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self) -> None:
        """Make the folder, and clear away what was not finished. Without a folder nothing is kept."""
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for draft in self.folder.glob(f"{DRAFT}*"):
                draft.unlink(missing_ok=True)

    def take(self, key: str, fd: int | None) -> None:
        """Keep what is in this memory file, which is closed; without one, what is kept was used just now.

        The file comes from a worker: its size is checked like a stranger's.
        """
        with self._lock:
            try:
                if fd is None:
                    for path in entries(self.folder, key):
                        os.utime(path)
                else:
                    self._keep(key, fd)
            except (OSError, EOFError) as error:
                log.info("an optimised model is not kept: %s", error)
            finally:
                if fd is not None:
                    os.close(fd)

    def _keep(self, key: str, fd: int) -> None:
        there = os.fstat(fd)
        if not stat.S_ISREG(there.st_mode) or not 0 < there.st_size <= min(ENTRY_BYTES_MAX, self.bytes_max):
            return
        content = contents(fd, there.st_size)
        for old in entries(self.folder, key):
            old.unlink(missing_ok=True)
        self._make_room(len(content))
        draft, name = tempfile.mkstemp(SUFFIX, DRAFT, self.folder)
        try:
            with open(draft, "wb") as file:
                file.write(content)
            os.replace(name, self.folder / f"{key}-{hashlib.sha256(content).hexdigest()}{SUFFIX}")
        except OSError:
            with suppress(OSError):
                os.unlink(name)
            raise

    def _make_room(self, nbytes: int) -> None:
        rows = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):
                rows.append((path.stat().st_mtime, path.stat().st_size, path))
        held = sum(size for _, size, path in rows)
        for _, size, path in sorted(rows):
            if held + nbytes <= self.bytes_max:
                return
            path.unlink(missing_ok=True)
            held -= size


def processor() -> str:
    """The instruction sets that this machine has: an optimised graph may use them all."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.lower().startswith(("flags", "features")):
                return f"{platform.machine()} {' '.join(sorted(line.partition(':')[2].split()))}"
    return f"{platform.machine()} {platform.processor()}"
