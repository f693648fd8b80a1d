"""The simulator that is told to end: nothing of it stays behind, in memory or among the processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from meshnode.sim.shells.run import MEMORY
from tests.waiting import until

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not MEMORY.is_dir(), reason=f"there is no {MEMORY} here")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda it: str(it.name))
@pytest.mark.parametrize("how", [("--seeds", "40"), ("--seed", "3", "--trace", "trace.txt", "--seconds", "600")])
async def test_homes_in_memory_go_with_who_is_interrupted(
    tmp_path: Path, number: signal.Signals, how: tuple[str, ...]
) -> None:
    """By either signal, sent to it alone, with one seed in its own process and with many in others."""
    process = _begun(tmp_path, how)
    known: set[int] = set()

    def homes() -> list[str]:
        family = psutil.Process(process.pid)
        known.update(it.pid for it in (family, *family.children(recursive=True)))
        return _homes(known)

    try:
        await until(lambda: bool(homes()), "a run has its homes", within_s=60)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert 128 + number == process.returncode
    assert [] == _homes(known)
    await until(lambda: not any(map(psutil.pid_exists, known)), "all its processes have ended")
    assert "Traceback" not in errors


def _begun(folder: Path, how: tuple[str, ...]) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "scripts" / "simulate"), "--shells", *how]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _homes(pids: set[int]) -> list[str]:
    return [str(it) for pid in pids for it in MEMORY.glob(f"meshnode-sim-{pid}-*")]
