"""Confine this process, for good, and say honestly what came of it.

Called by a worker after its imports and before it opens a model. What took effect is tried, not believed: the grade
counts only what was found to refuse something.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from meshnode.sandbox import landlock, libc, seccomp

GRADES = ("A", "B", "C")
"""A: files, system calls and limits. B: of files and system calls one. C: less."""
_PR_SET_NO_NEW_PRIVS = 38
_SYSTEM = (
    "/nix/store",
    "/gnu/store",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/dev/null",
    "/dev/urandom",
)
_MACHINE = ("/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/sys/devices/system/cpu")
"""What is asked about memory and processors."""
_TRIAL = "forbidden"
"""A file that is not there, in the worker's own folder."""
_PACKAGES = ("site-packages", "dist-packages")


class Profile(StrEnum):
    """How tight."""

    FULL = "full"
    """Files, system calls, limits."""
    CALLS = "calls"
    """System calls and limits, where the code lies in places that are not foreseen here."""
    DEVICES = "devices"
    """System calls and limits, for providers that open device files, write caches and have threads of their own."""
    LIMITS = "limits"
    """Limits only."""


@dataclass(frozen=True, slots=True)
class Lack:
    """What does not hold, in words, and what mends it ("" when nothing does)."""

    why: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What holds, what does not, and the grade that follows."""

    grade: str
    holds: tuple[str, ...]
    lacks: tuple[Lack, ...] = ()


_UNRESTRICTED = {
    Profile.CALLS: Lack(
        "no worker started with files restricted, so every file can be read",
        "the agent's log says what they could not open: `meshnode logs`",
    ),
    Profile.DEVICES: Lack("an accelerator's driver opens files of its own, so files are not restricted"),
}
_held: list[int] = []
"""Descriptors that keep landlock's rules alive; see `landlock.restrict`."""


def enter(profile: Profile, *, readable: Sequence[Path], file_bytes_max: int, files_max: int) -> Confinement:
    """Confine this process.

    Args:
        readable: folders that may be read, beside those of Python, the system's libraries and the machine's figures.
        file_bytes_max: what a file, or a memory file, may grow to.
        files_max: open descriptors.
    """
    holds, lacks = [_limits(file_bytes_max, files_max)], list[Lack]()
    if sys.platform != "linux":
        lacks.append(Lack(f"meshnode has no sandbox for {sys.platform} yet"))
        return Confinement("C", tuple(holds), tuple(lacks))
    if profile is Profile.LIMITS:
        return Confinement("C", tuple(holds), (Lack("neither files nor system calls are restricted"),))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    files = ""
    if profile is Profile.FULL:
        files = _try(lambda: _files(readable), landlock.why_not, lacks)
    else:
        lacks.append(_UNRESTRICTED[profile])
    calls = _try(lambda: _calls(profile, writing=bool(files)), _why_no_filter, lacks)
    holds = [it for it in (files, calls, *holds) if it]
    return Confinement("A" if files and calls else "B" if files or calls else "C", tuple(holds), tuple(lacks))


class _Ineffective(Exception):
    """It was asked for, and what it should refuse goes through."""


def _try(act: Callable[[], str], words: Callable[[OSError], tuple[str, str]], lacks: list[Lack]) -> str:
    try:
        return act()
    except OSError as error:
        lacks.append(Lack(*words(error)))
    except _Ineffective as reason:
        lacks.append(Lack(str(reason)))
    return ""


def _must_fail(number: int, what: str, act: Callable[[], object]) -> None:
    """Raises _Ineffective when it does not end with this error."""
    try:
        act()
    except OSError as error:
        if error.errno == number:
            return
    raise _Ineffective(f"{what} is still possible")


# --- limits ---


def _limits(file_bytes_max: int, files_max: int) -> str:
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, file_bytes_max),
        (resource.RLIMIT_NOFILE, files_max),
    ):
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    return "limits"


# --- files ---


def _files(readable: Sequence[Path]) -> str:
    version = landlock.version()
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise _Ineffective(f"{threads - 1} threads were there before, and Landlock is for one and what it starts")
    _held.extend(landlock.restrict([*_code(), *map(Path, (*_SYSTEM, *_MACHINE)), *readable], version))
    _must_fail(errno.EACCES, "reading foreign files", lambda: os.close(os.open("/", os.O_RDONLY)))
    _must_fail(errno.EACCES, "writing files", lambda: os.close(os.open(_TRIAL, os.O_WRONLY | os.O_CREAT)))
    return f"files (Landlock {version})"


def _code() -> list[Path]:
    """Where modules and libraries lie that have not been loaded yet. Not what lies around a checkout of ours."""
    ours = Path(__file__).resolve().parent.parent
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    libraries += [f"{prefix}/{lib}" for prefix in (sys.prefix, sys.base_prefix) for lib in ("lib", "lib64")]
    paths = [Path(path) for path in (*sys.path, *sysconfig.get_paths().values(), *libraries) if path]
    kept = [path for path in paths if path.resolve() != ours.parent or path.name in _PACKAGES]
    return [ours, *(path for path in dict.fromkeys(kept) if path.is_dir() and path != Path.home())]


# --- system calls ---


def _calls(profile: Profile, *, writing: bool) -> str:
    machine = seccomp.machine()
    if not machine:
        raise _Ineffective(f"there is no filter of system calls for {os.uname().machine} yet")
    ours = profile is not Profile.DEVICES
    seccomp.install(seccomp.program(machine, os.getpid(), no_files=ours, no_writing=ours and not writing))
    _must_fail(errno.EPERM, "opening sockets", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).close())
    _must_fail(errno.EPERM, "starting programs", _run_trial)
    return "system calls (seccomp)"


def _run_trial() -> None:
    os.execv(_TRIAL, [_TRIAL])  # noqa: S606 - that it is refused is the point


def _why_no_filter(error: OSError) -> tuple[str, str]:
    fix = "run a kernel with CONFIG_SECCOMP_FILTER, and let the container allow seccomp(2)"
    return f"seccomp does not work: {error.strerror}", fix
