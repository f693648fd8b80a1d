"""A wall clock for each agent that a test can move while the agent runs: `clock.c`, compiled when it is wanted."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


def unavailable() -> str:
    """Why clocks cannot be moved here; empty when they can."""
    return "" if shutil.which("cc") else "there is no C compiler `cc` for the clock that agents are given"


def build(folder: Path) -> Path:
    """The library to preload."""
    library = folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE)], check=True)
    return library


class Clock:
    """One agent's wall clock, which is right until it is moved."""

    def __init__(self, library: Path, file: Path) -> None:
        file.write_bytes(bytes(8))
        self.env = (f"LD_PRELOAD={library}", f"CLOCK_OFFSET_FILE={file}")
        with file.open("r+b") as opened:
            self._page = mmap.mmap(opened.fileno(), 8)

    def move(self, seconds: float) -> None:
        """From now on it is wrong by so much."""
        self._page[:] = struct.pack("=q", int(seconds * 1e9))
