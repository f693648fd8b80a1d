"""Linux calls that Python has no names for, by the C library that is loaded anyway."""

from __future__ import annotations

import ctypes
import os
from functools import cache


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: object) -> int:
    """Raises OSError. Integers are passed as long, everything else as ctypes has it."""
    call = _library().syscall
    call.restype = ctypes.c_long
    given = [ctypes.c_long(it) if isinstance(it, int) else it for it in arguments]
    return _checked(int(call(ctypes.c_long(number), *given)))


def prctl(option: int, second: int = 0, third: int = 0) -> int:
    """Raises OSError."""
    rest = [ctypes.c_ulong(it) for it in (second, third, 0, 0)]
    return _checked(int(_library().prctl(option, *rest)))


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
