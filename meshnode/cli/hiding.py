"""Words that others must not read among this process's arguments, which every user of a machine may look at."""

from __future__ import annotations

import ctypes
import logging
import sys
from pathlib import Path

log = logging.getLogger(__name__)
ARG_START = 45
"""Of the fields of /proc/self/stat behind the program's name; the next one is where the arguments end."""


def hide(word: str) -> None:
    """Blank a word of the command line; it was seen until now, by whoever was quick. Linux only."""
    if not word or not sys.platform.startswith("linux"):
        return
    try:
        fields = Path("/proc/self/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        start, end = int(fields[ARG_START]), int(fields[ARG_START + 1])
        if not 0 < start < end:
            return
        at = ctypes.string_at(start, end - start).find(word.encode())
    except (OSError, ValueError, IndexError) as error:
        log.debug("the arguments of this process are not found: %s", error)
        return
    if at >= 0:
        ctypes.memset(start + at, ord("x"), len(word.encode()))
