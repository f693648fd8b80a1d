"""A worker on a system that refuses some system calls: an older kernel, or a container that forbids them.

`python -m tests.sandbox.denied NUMBER=ERRNO,… MODULE …`: the rest is the module's.
"""

from __future__ import annotations

import runpy
import sys

from meshnode.sandbox import libc, seccomp

NO_NEW_PRIVS = 38


def main() -> None:
    """See above."""
    refused, module = sys.argv[1], sys.argv[2]
    del sys.argv[1:3]
    lines = [(0x20, 0, 0, 0)]
    for each in filter(None, refused.split(",")):
        number, _, error = each.partition("=")
        lines += [(0x15, 0, 1, int(number)), (0x06, 0, 0, seccomp.ERRNO | int(error))]
    libc.prctl(NO_NEW_PRIVS, 1)
    seccomp.install([*lines, (0x06, 0, 0, seccomp.ALLOW)])
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
