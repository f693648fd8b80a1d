"""The demo cleans up after itself, however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
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

    try:
        demo.send_signal(number)
        assert demo.wait(60) == 130
        demo.stdout.close()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert [] == alive
    finally:  # what should be gone, and is not, must not be there for the next test
        demo.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
    assert [] == list(tmp_path.glob("meshnode-demo-*"))


def test_the_demo_of_models_keeps_its_promise(tmp_path: Path) -> None:
    """A small model goes to two at once, one of them is killed and started again, and all copies are right."""
    words = [sys.executable, "-m", "meshnode.cli.main", "--json", "demo", "models", "--nodes", "3", "--mb", "8"]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=180, env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert (3, 3) == (document["right"], document["ran"])
    assert document["all_seconds"] < 2 * document["one_copy_seconds"]
    assert [] == list(tmp_path.glob("meshnode-demo-*"))
