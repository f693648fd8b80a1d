"""The demo cleans up after itself, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM in the middle: no process and no folder is left."""
    words = [sys.executable, "-m", "meshnode.cli.main", "demo", "--nodes", "2", "--tasks", "10000000"]
    demo = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert demo.stdout is not None
    said = []
    for line in demo.stdout:
        said.append(line)
        if line.startswith("every agent has the model"):
            break
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) >= 4, f"two agents, each with its worker: {said}"

    demo.send_signal(number)

    assert demo.wait(30) == 130
    demo.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [] == alive
    assert [] == list(tmp_path.glob("meshnode-demo-*"))
