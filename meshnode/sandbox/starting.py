"""Start a child process with nothing: what it inherits is what it is given.

A scrubbed environment, an own empty folder to stand in, no core dumps, only the named file descriptors, the end of
the parent as its own end, a ceiling on its address space, and where it is wanted the lowest scheduling class. What
takes away its view of files and network is done by the child itself, after its imports: `entering`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

KEPT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "SYSTEMROOT",
)
"""Of the parent's environment a child sees only these; ORT_* and PYTHON* could change what it loads or runs."""
_PR_SET_PDEATHSIG = 1
NICEST = 19


def start(
    module: str,
    arguments: Sequence[str],
    *,
    folder: Path,
    fds: Sequence[int],
    address_space_bytes: int | None,
    idle: bool = False,
) -> subprocess.Popen[bytes]:
    """`python -m module ARGUMENTS` in `folder`; the descriptors keep their numbers. Raises OSError.

    `idle`: it gets the processor time that nobody else wants.
    """
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1"}
    # The package's own folder comes first, for a checkout that is not installed.
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent.parent)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=tuple(fds),
        start_new_session=True,
        preexec_fn=_Limits(os.getpid(), address_space_bytes),
    )
    if idle:
        _lower(process.pid)
    return process


def _lower(pid: int) -> None:
    """Not before the child's exec, for which `Popen` waits: on a busy machine that could be long, and the agent too."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.setpriority(os.PRIO_PROCESS, pid, NICEST)


class _Limits:
    """Runs in the child between fork and exec: no allocation worth the name, no imports."""

    def __init__(self, parent: int, address_space_bytes: int | None) -> None:
        self._parent = parent
        self._address_space_bytes = address_space_bytes
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def __call__(self) -> None:
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._parent:
                os._exit(1)  # the parent died before it could be asked for
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self._address_space_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (self._address_space_bytes, self._address_space_bytes))
