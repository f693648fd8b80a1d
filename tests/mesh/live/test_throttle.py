"""The orders that the throttle takes, and what it does to workers; the bound of the bench."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.mesh.live.bound import bound_s
from tests.mesh.live.throttle import Throttle
from tests.mesh.live.town import shares
from tests.mesh.rig import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are throttled by way of /proc and pidfd")
AGENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], 'meshnode.execution.confined'])"
WORKER = "import threading\nfor _ in range(2): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()"


@contextmanager
def agent() -> Iterator[tuple[int, psutil.Process]]:
    """A process whose child looks like a worker that always has work."""
    process = subprocess.Popen([sys.executable, "-c", AGENT, WORKER])
    try:
        it = wait_for(lambda: psutil.Process(process.pid).children(), within_s=20, why="it has a child")[0]
        yield process.pid, it
    finally:
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.wait()


def test_a_worker_gets_its_share_and_what_is_held_stands_still() -> None:
    """A tenth of a core, nothing while it is held, and all of it when the throttle is gone."""
    throttle = Throttle()
    try:
        with agent() as (pid, worker):
            throttle.tell("share", pid, 0.1)
            wait_for(lambda: worker.status() == psutil.STATUS_STOPPED, within_s=20, why="it is taken up")
            before, began = sum(worker.cpu_times()[:2]), time.monotonic()
            wait_for(lambda: time.monotonic() - began > 1.0, within_s=20, why="a second passes")
            used = (sum(worker.cpu_times()[:2]) - before) / (time.monotonic() - began)
            assert used < 0.3
            throttle.tell("hold", pid)
            wait_for(lambda: worker.status() == psutil.STATUS_STOPPED, within_s=20, why="it is held")
            throttle.close()
            wait_for(lambda: worker.status() != psutil.STATUS_STOPPED, within_s=20, why="it was let go")
    finally:
        throttle.close()


def test_the_shares_make_a_core_and_span_a_factor_of_ten() -> None:
    """Log-uniform: each is as many times larger than the one before."""
    eight = shares(8)
    assert abs(sum(eight) - 0.95) < 1e-9
    assert abs(eight[-1] / eight[0] - 10) < 1e-9
    assert abs(eight[1] / eight[0] - eight[7] / eight[6]) < 1e-9


def test_the_bound_puts_each_task_where_it_is_done_first() -> None:
    """A fast and a slow node: the slow one is used when the fast one's queue is longer than its run."""
    services = {"fast": [1.0], "slow": [3.5]}
    assert [1.0, 2.0, 3.0, 3.5] == sorted(bound_s([0.0] * 4, services, random.Random(1)))
