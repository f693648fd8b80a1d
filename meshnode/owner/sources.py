"""Where sensors get their facts: small files of the kernel, and the output of the platform's own programs.

Nothing here raises: what cannot be had is None, and costs no more than a bounded wait in the sensors' thread.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

FILE_BYTES_MAX = 1 << 20
COMMAND_S = 2.0
COMMAND_EVERY_S = 10.0
FAILED_EVERY_S = 300.0
"""A program that is missing or fails is tried again after so long."""

Run = Callable[[Sequence[str]], str | None]
"""Run a program; its output, or None when it is missing, fails or takes too long."""


def text(path: Path) -> str | None:
    """What a file says, without white space around it."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(FILE_BYTES_MAX).strip()
    except (OSError, ValueError):
        return None


def number(path: Path) -> float | None:
    """The number that a file says."""
    said = text(path)
    try:
        return None if said is None else float(said)
    except ValueError:
        return None


def listing(folder: Path) -> list[Path] | None:
    """What is in a folder, in order; None when there is no such folder."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return None


def run_program(words: Sequence[str]) -> str | None:
    """A `Run` of this machine."""
    program = shutil.which(words[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *words[1:]],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_S,
            env=_environment(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("%s: %s", words[0], error)
        return None
    return done.stdout if done.returncode == 0 else None


def _environment() -> dict[str, str]:
    """Ours, in English, and with the way to the user's bus that an agent started by SSH or cron lacks."""
    bus = {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"} if hasattr(os, "getuid") else {}
    return {**bus, **os.environ, "LC_ALL": "C"}


@dataclass(slots=True)
class Command:
    """A program whose output is asked for often and had seldom: it runs once in `every_s`."""

    words: tuple[str, ...]
    run: Run = run_program
    every_s: float = COMMAND_EVERY_S
    _output: str | None = None
    _at: float | None = field(default=None)

    def output(self, now: float) -> tuple[str, float] | None:
        """The newest output and its age in seconds; None when there is none."""
        wait_s = FAILED_EVERY_S if self._output is None else self.every_s
        if self._at is None or now - self._at >= wait_s:
            self._output, self._at = self.run(self.words), now
        return None if self._output is None else (self._output, now - self._at)
