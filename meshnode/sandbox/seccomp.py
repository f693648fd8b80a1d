"""A seccomp filter: system calls that a worker never needs end with an error, whatever asks for them.

What is not named is allowed: ONNX Runtime, the C library and Python use others with every version. The program is
classic BPF, for x86_64 and aarch64; a call by another architecture's table ends the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable

from meshnode.sandbox import libc
from meshnode.sandbox.syscalls import AUDIT, NEVER, NO_FILES, SPECIAL

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
"""BPF: load a word at a place; jump if equal; jump if a bit of these is set; return."""
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_REFUSE, _NOT_THERE = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Places in struct seccomp_data; each argument has 8 bytes, the low word first."""
_X32 = 0x40000000
_THREAD = 0x00010000  # CLONE_THREAD
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PDEATHSIG = 1
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def machine() -> str:
    """The key of this process's system call table, "" when there is none here."""
    name = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}.get(platform.machine(), "")
    return name if sys.maxsize > 2**32 else ""


def program(machine: str, pid: int, *, no_files: bool, no_writing: bool) -> list[Instruction]:
    """The filter for process `pid`.

    Args:
        no_files: nothing on disk is renamed, removed, or given another mode or owner.
        no_writing: no file is opened to be written.
    """
    column = 0 if machine == "x86_64" else 1
    special = {name: numbers[column] for name, numbers in SPECIAL.items()}
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, AUDIT[machine]),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        lines += [(_ANY_BIT, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE)]

    def when(name: str, then: Iterable[Instruction]) -> None:
        block = list(then)
        if (number := special[name]) is not None:
            lines.extend([(_EQUAL, 0, len(block), number), *block])

    when("kill", _only(0, (pid,)))
    when("tgkill", _only(0, (pid,)))
    # Other processes' limits are not ours to set, and our own are set once; asking is fine.
    when("prlimit64", [*_must_be_zero(2), *_only(0, (0, pid))])
    # Threads and no processes; clone3 has its flags in memory, where no filter sees them, and libraries do without.
    when("clone", [(_LOAD, 0, 0, _argument(0)), (_ANY_BIT, 1, 0, _THREAD), (_RETURN, 0, 0, _REFUSE), _allowed()])
    when("clone3", [(_RETURN, 0, 0, _NOT_THERE)])
    when("prctl", [(_LOAD, 0, 0, _argument(0)), (_EQUAL, 0, 1, _PDEATHSIG), (_RETURN, 0, 0, _REFUSE), _allowed()])
    if no_writing:
        for name, argument in (("open", 1), ("openat", 2)):
            flags = (_LOAD, 0, 0, _argument(argument))
            when(name, [flags, (_ANY_BIT, 0, 1, _WRITING), (_RETURN, 0, 0, _REFUSE), _allowed()])
        when("openat2", [(_RETURN, 0, 0, _NOT_THERE)])  # as clone3
    for numbers in (*NEVER.values(), *(NO_FILES.values() if no_files else ())):
        if (number := numbers[column]) is not None:
            lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    return [*lines, _allowed()]


def install(instructions: list[Instruction]) -> None:
    """Have it filter every thread of this process, for good; no_new_privs must be set. Raises OSError."""
    code = b"".join(struct.pack("=HBBI", *each) for each in instructions)
    number = SPECIAL["seccomp"][0 if machine() == "x86_64" else 1]
    assert number is not None
    filter = _Program(len(instructions), code)
    failed = libc.syscall(number, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(filter))
    if failed:
        raise OSError(errno.EBUSY, f"thread {failed} has a filter of its own")


def _argument(index: int, *, high: bool = False) -> int:
    return _ARGUMENTS + 8 * index + (4 if high else 0)


def _allowed() -> Instruction:
    return (_RETURN, 0, 0, ALLOW)


def _only(index: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow the call for these values of an argument that is an int."""
    tests = [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [(_LOAD, 0, 0, _argument(index)), *tests, (_RETURN, 0, 0, _REFUSE), _allowed()]


def _must_be_zero(index: int) -> list[Instruction]:
    """Go on only where an argument is a null pointer."""
    refuse = (_RETURN, 0, 0, _REFUSE)
    low = [(_LOAD, 0, 0, _argument(index)), (_EQUAL, 1, 0, 0), refuse]
    return [*low, (_LOAD, 0, 0, _argument(index, high=True)), (_EQUAL, 1, 0, 0), refuse]
