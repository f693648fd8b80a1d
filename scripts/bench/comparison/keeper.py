"""Starts the processes of a system and leaves none behind, whatever becomes of who asked: `python -m ...keeper`.

One line of JSON comes in: {"commands": [[...], ...], "folder": ..., "log": ...}; one goes out: {"began": ...}. When the
input ends, by intent or because the other side was killed, they are asked to end, and after `GRACE_S` made to. What a
daemon's trick of two forks would set free comes back here (Linux: PR_SET_CHILD_SUBREAPER). All stay in this one's
session: Linux gives each session the same share of a busy processor (autogroup), and no system shall have two.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

from scripts.bench.comparison import counting

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 8.0


def reap() -> None:
    """Take note of who ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def send(pids: list[int], what: signal.Signals) -> None:
    """A signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)


def end(first: list[int]) -> None:
    """Ask, wait, and make."""
    send([pid for pid in first if pid in counting.below(os.getpid())], signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while left := counting.below(os.getpid()):
        if time.monotonic() > until:
            send(left, signal.SIGKILL)
        time.sleep(0.02)
        reap()


def main() -> None:
    """Start, wait for the end of the input, end."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    order = json.loads(sys.stdin.readline())
    began, pids = time.monotonic(), []
    try:
        with open(order["log"], "ab") as log:
            for command in order["commands"]:
                process = subprocess.Popen(
                    command,
                    cwd=order["folder"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=_heeded,
                )
                pids.append(process.pid)
        print(json.dumps({"began": began}), flush=True)
        while not select.select([sys.stdin], [], [], 0.1)[0] or sys.stdin.readline():
            reap()
    finally:
        end(pids)


def _heeded() -> None:
    """What is ignored is ignored by children too, and Python's do not change it."""
    for default in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(default, signal.SIG_DFL)


if __name__ == "__main__":
    main()
