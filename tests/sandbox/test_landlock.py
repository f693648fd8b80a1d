"""Landlock by itself, without the filter in front of it: what the kernel refuses, version by version."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meshnode.sandbox import landlock

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import json, os, sys
from pathlib import Path
from meshnode.sandbox import landlock, libc
from tests.sandbox import attempts
version, folder, port, name = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
os.chdir(folder)
libc.prctl(38, 1)
held = landlock.restrict([folder / "models", folder / "not there", Path("/proc/self"), folder / "one"], version)
models = folder / "models"
tried = {
    "read": lambda: attempts.opened(models / "model.onnx"),
    "read one": lambda: attempts.opened(folder / "one"),
    "read other": lambda: attempts.opened(folder / "node.key"),
    "list": lambda: os.listdir(models),
    "list home": lambda: os.listdir(folder),
    "write": lambda: attempts.opened(models / "new", os.O_WRONLY | os.O_CREAT),
    "remove": lambda: os.unlink(models / "model.onnx"),
    "shorten": lambda: os.truncate(models / "model.onnx", 1),
    "run": lambda: os.execv("/bin/true", ["true"]),
    "itself": lambda: attempts.opened("/proc/self/statm"),
    "memory": attempts.remembered,
    "connect": lambda: attempts.connected(("127.0.0.1", port)),
    "bind": lambda: attempts.bound(("127.0.0.1", 0)),
    "abstract": lambda: attempts.connected("\\0" + name),
    "parent": lambda: os.kill(os.getppid(), 0),
    "trace": lambda: attempts.call(attempts.NUMBERS["ptrace"], 16, os.getppid(), 0, 0),
}
print(json.dumps({**attempts.outcomes(tried), "held": len(held)}))
"""


def here() -> int:
    try:
        return landlock.version() if sys.platform == "linux" else 0
    except OSError:
        return 0


pytestmark = pytest.mark.skipif(here() == 0, reason="this kernel has no Landlock")


def tried(folder: Path, version: int) -> dict[str, Any]:
    """Run the attempts in a process that is restricted as a kernel with this version would."""
    (folder / "models").mkdir()
    for name in ("models/model.onnx", "node.key", "one"):
        (folder / name).write_text("x")
    name = f"meshnode-test-{os.getpid()}-{version}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        given = [sys.executable, "-c", CODE, str(version), str(folder), str(server.getsockname()[1]), name]
        done = subprocess.run(given, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert "" == done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("version", range(1, 8))
def test_what_each_version_refuses(tmp_path: Path, version: int) -> None:
    """All refuse foreign files; from 3 on files are not shortened, from 4 on there is no TCP, from 6 on nobody outside
    is reached by a signal or an abstract socket."""
    if version > here():
        pytest.skip("this kernel is older")
    since = {"shorten": 3, "connect": 4, "bind": 4, "abstract": 6, "parent": 6}
    expected = dict.fromkeys(("read", "read one", "list", "itself", "memory"), "done")
    expected |= dict.fromkeys(("read other", "list home", "write", "remove", "run"), "EACCES")
    expected |= {name: "done" if version < first else "EACCES" for name, first in since.items()}
    expected |= {name: "EPERM" for name in ("abstract", "parent") if version >= since[name]} | {"trace": "EPERM"}
    assert expected | {"held": 3} == tried(tmp_path, version)
