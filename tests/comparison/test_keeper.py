"""What starts the systems leaves no process behind, whatever becomes of who asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scripts.bench.comparison import counting, turn
from tests.mesh.rig import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc")
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:  # a daemon: nobody's child any more
        open(sys.argv[1], "w").write(str(os.getpid()))
        signal.pause()
    os._exit(0)
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
signal.pause()
"""


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[turn.Lines, psutil.Process]]:
    """A keeper of a program that does not heed SIGTERM, and the daemon that this one has left."""
    keeper = turn.Lines([sys.executable, "-m", "scripts.bench.comparison.keeper"], tmp_path / "log")
    commands = [[sys.executable, "-c", STUBBORN, str(tmp_path / "pid")]]
    keeper.ask({"commands": commands, "folder": str(tmp_path), "log": str(tmp_path / "log")})
    written = wait_for(
        lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), within_s=30, why="daemon"
    )
    yield keeper, psutil.Process(int(written))
    keeper.end(60.0)


def test_a_daemon_of_a_server_counts_as_its_process(kept: tuple[turn.Lines, psutil.Process]) -> None:
    """What frees itself with two forks is found below the keeper, and its time and memory are counted."""
    keeper, daemon = kept
    root = keeper.process.pid
    wait_for(lambda: daemon.pid in counting.below(root), within_s=30, why="it belongs to the keeper")
    wait_for(lambda: counting.tree_cpu_s(root) >= 0.3, within_s=60, why="the time of the busy one is counted")
    assert counting.memory_bytes(counting.below(root)) > 1_000_000


def test_nobody_is_left_when_the_asker_ends(kept: tuple[turn.Lines, psutil.Process]) -> None:
    """The end of its input is enough, for who heeds SIGTERM and who does not."""
    keeper, daemon = kept
    keeper.end(60.0)
    assert 0 == keeper.process.returncode
    assert not daemon.is_running()


def test_nobody_is_left_when_the_asker_is_killed(tmp_path: Path) -> None:
    """Kill -9 of the comparison closes the keeper's input like any other end."""
    asker = (
        "import subprocess, sys\n"
        "k = subprocess.Popen([sys.executable, '-m', 'scripts.bench.comparison.keeper'], stdin=subprocess.PIPE)\n"
        "k.stdin.write(sys.argv[1].encode() + b'\\n'); k.stdin.flush(); k.wait()\n"
    )
    order = {"commands": [[sys.executable, "-c", STUBBORN, str(tmp_path / "pid")]], "folder": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", asker, json.dumps(order | {"log": str(tmp_path / "log")})],
        env={**os.environ, "PYTHONPATH": str(turn.ROOT)},
        stdout=subprocess.DEVNULL,
    )
    written = wait_for(
        lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), within_s=30, why="daemon"
    )
    daemon = psutil.Process(int(written))
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not daemon.is_running(), within_s=60, why="the daemon is gone")
