"""The filter, instruction by instruction: a small machine runs it for both architectures, and the kernel's own."""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from meshnode.sandbox import seccomp
from meshnode.sandbox.seccomp import ALLOW, ERRNO, KILL, Instruction
from meshnode.sandbox.syscalls import AUDIT, NEVER, NO_FILES, SPECIAL, Numbers

PID = 4242
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
CLONE_THREAD, SIGCHLD = 0x10000, 17
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
BOTH = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


def verdict(program: Sequence[Instruction], machine: str, number: int, *arguments: int) -> int:
    """What the kernel would do: struct seccomp_data, an accumulator, jumps forward."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<iIQ6Q", number, AUDIT[machine], 0, *(it % 2**64 for it in padded))
    accumulator, at = 0, 0
    while True:
        code, true, false, operand = program[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x15:
                at += true if accumulator == operand else false
            case 0x45:
                at += true if accumulator & operand else false
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


def number(name: str, machine: str, of: Numbers = SPECIAL) -> int:
    found = of[name][0 if machine == "x86_64" else 1]
    assert found is not None
    return found


def tight(machine: str) -> list[Instruction]:
    return seccomp.program(machine, PID, no_files=True, no_writing=True)


def loose(machine: str) -> list[Instruction]:
    return seccomp.program(machine, PID, no_files=False, no_writing=False)


@BOTH
def test_every_path_ends_in_a_verdict(machine: str) -> None:
    """No jump leaves the program, which is short enough for the kernel, and all that can be reached returns."""
    for program in (tight(machine), loose(machine)):
        assert len(program) < 4096
        for at, (code, true, false, _) in enumerate(program):
            assert code == 0x06 or at + 1 + max(true, false) < len(program)
            assert 0 <= min(true, false) <= max(true, false) < 256


@BOTH
def test_what_is_never_needed_is_refused(machine: str) -> None:
    """Each call of the tables; those about files only where files are not to be touched."""
    for of, program in ((NEVER, loose(machine)), (NO_FILES, tight(machine))):
        for numbers in of.values():
            if (it := numbers[0 if machine == "x86_64" else 1]) is not None:
                assert EPERM == verdict(program, machine, it)
    for numbers in NO_FILES.values():
        if (it := numbers[0 if machine == "x86_64" else 1]) is not None:
            assert ALLOW == verdict(loose(machine), machine, it)


@BOTH
def test_all_else_is_allowed(machine: str) -> None:
    """Numbers of no table, from the first to those that are yet to come."""
    column = 0 if machine == "x86_64" else 1
    named = {numbers[column] for of in (NEVER, NO_FILES, SPECIAL) for numbers in of.values()}
    for it in range(600):
        if it not in named:
            assert ALLOW == verdict(tight(machine), machine, it)


@BOTH
def test_another_architectures_call_ends_the_process(machine: str) -> None:
    """Its numbers mean other things."""
    (other,) = {"x86_64", "aarch64"} - {machine}
    assert KILL == verdict(tight(machine), other, 0)


def test_the_x32_table_is_refused() -> None:
    """The same architecture by name, with numbers that no table of ours has."""
    assert EPERM == verdict(tight("x86_64"), "x86_64", 0x40000000 | 39)


@BOTH
def test_threads_and_no_processes(machine: str) -> None:
    """clone for a thread; clone3 is said not to be there, since its flags cannot be seen."""
    clone = number("clone", machine)
    assert ALLOW == verdict(tight(machine), machine, clone, 0x3D0F00)  # what glibc passes for a thread
    assert EPERM == verdict(tight(machine), machine, clone, SIGCHLD)
    assert EPERM == verdict(tight(machine), machine, clone, SIGCHLD | CLONE_THREAD << 32)
    assert ENOSYS == verdict(tight(machine), machine, number("clone3", machine))


@BOTH
def test_signals_to_itself_only(machine: str) -> None:
    """Not to its group, to all, or to whoever has another number."""
    for name in ("kill", "tgkill"):
        it = number(name, machine)
        assert ALLOW == verdict(loose(machine), machine, it, PID)
        assert ALLOW == verdict(loose(machine), machine, it, PID | 7 << 32)  # the kernel sees an int too
        for other in (0, 1, -1, -PID, PID + 1):
            assert EPERM == verdict(loose(machine), machine, it, other)


@BOTH
def test_limits_are_read_and_not_set(machine: str) -> None:
    """Its own are read; none is set, wherever the new one lies in memory."""
    it = number("prlimit64", machine)
    for pid, expected in ((0, ALLOW), (PID, ALLOW), (1, EPERM)):
        assert expected == verdict(loose(machine), machine, it, pid, 7, 0, 0x7F00_0000_1000)
    for new in (0x1000, 0x7F00_0000_0000, 1 << 63):
        assert EPERM == verdict(loose(machine), machine, it, 0, 7, new, 0)


@BOTH
def test_it_stays_its_parents(machine: str) -> None:
    """The signal at the parent's death is not taken back; other uses of prctl go on."""
    it = number("prctl", machine)
    assert EPERM == verdict(loose(machine), machine, it, 1, 0)
    assert ALLOW == verdict(loose(machine), machine, it, 15)


@BOTH
def test_files_are_opened_to_be_read(machine: str) -> None:
    """Where nothing may be written: neither to write, to make, nor to empty; openat2 is said not to be there."""
    it = number("openat", machine)
    for flags in (os.O_RDONLY, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY):
        assert ALLOW == verdict(tight(machine), machine, it, -100, 0, flags)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_RDWR | os.O_TMPFILE):
        assert EPERM == verdict(tight(machine), machine, it, -100, 0, flags)
        assert ALLOW == verdict(loose(machine), machine, it, -100, 0, flags)
    assert ENOSYS == verdict(tight(machine), machine, number("openat2", machine))
    assert ALLOW == verdict(loose(machine), machine, number("openat2", machine))
    if machine == "x86_64":
        assert EPERM == verdict(tight(machine), machine, number("open", machine), 0, os.O_WRONLY)
        assert ALLOW == verdict(tight(machine), machine, number("open", machine), 0, os.O_RDONLY)


@BOTH
def test_the_numbers_are_the_kernels(machine: str) -> None:
    """As its headers have them; a call that is younger than the headers, or of the other architecture, is not there."""
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    text = HEADERS[machine].read_text()
    known = {name: int(value) for name, value in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", text)}
    ours = {name: numbers for of in (NEVER, NO_FILES, SPECIAL) for name, numbers in of.items()}
    checked = {name: it for name, numbers in ours.items() if (it := numbers[machine == "aarch64"]) and name in known}
    assert {name: known[name] for name in checked} == checked
    assert len(checked) > 100
