"""Landlock: from here on this thread, and those that it starts, reach only the named files, and no network.

The kernel says which version of the interface it has, and each version's rights are asked for where it is there. What
was opened before stays open, and memory files are no files in this sense. See landlock(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from meshnode.sandbox import libc

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture."""
_VERSION = 1
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights to files, by the version that brought them: running, writing and reading; moving to another folder;
shortening; commands to devices."""
_NET = {4: 0b11}
"""TCP: bind, connect."""
_SCOPED = {6: 0b11}
"""To reach out of the sandbox: abstract Unix sockets, signals."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The version of the interface. Raises OSError."""
    return libc.syscall(_CREATE_RULESET, None, 0, _VERSION)


def why_not(error: OSError) -> tuple[str, str]:
    """In words: what an error of `version` or `restrict` means, and what mends it."""
    release = os.uname().release
    if error.errno == errno.ENOSYS:
        return f"kernel {release} has no Landlock", "run a kernel of Linux 5.13 or later that was built with Landlock"
    if error.errno == errno.EOPNOTSUPP:
        return f"Landlock is switched off in kernel {release}", "add landlock to the kernel's lsm= boot option"
    if error.errno == errno.EPERM:
        return (
            "Landlock is forbidden to this process",
            "allow the landlock_* system calls in the container's seccomp profile",
        )
    return f"Landlock does not work: {error}", "see the kernel's log (dmesg)"


def restrict(readable: Sequence[Path], version: int) -> list[int]:
    """Let only these files, and what is in these folders, be read; no_new_privs must be set. Raises OSError.

    What is not there is left out. The descriptors that are returned must stay open where a path is on a file system
    that is made as it is looked at (/proc, /sys): its rule holds for as long as something keeps the file in memory.
    """

    def of(rights: dict[int, int]) -> int:
        return rights[max(since for since in rights if since <= version)] if version >= min(rights) else 0

    wanted = _Ruleset(of(_FS), of(_NET), of(_SCOPED))
    size = 24 if version >= min(_SCOPED) else 16 if version >= min(_NET) else 8
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(wanted), size, 0)
    held = []
    try:
        for path in readable:
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            held.append(fd)
            rights = _READ_FILE | _READ_DIR if stat.S_ISDIR(os.fstat(fd).st_mode) else _READ_FILE
            libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_Beneath(rights, fd)), 0)
        libc.syscall(_RESTRICT_SELF, ruleset, 0)
    except OSError:
        for fd in held:
            os.close(fd)
        raise
    finally:
        os.close(ruleset)
    return held
