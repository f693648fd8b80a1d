"""What a service manager is told, and that it is told when it was slow to read."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshnode.edge.supervised import Manager
from tests.waiting import until


@pytest.fixture
def door(tmp_path: Path) -> Iterator[socket.socket]:
    """The manager's socket, which nobody reads."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as it:
        it.bind(str(tmp_path / "notify"))
        it.setblocking(False)
        yield it


def read(door: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found += door.recv(4096).decode().splitlines()
        except BlockingIOError:
            return found


def told(door: socket.socket, **more: str) -> Manager:
    return Manager.of({"NOTIFY_SOCKET": str(door.getsockname()), **more})


async def test_what_matters_is_said_when_the_manager_reads_again(door: socket.socket) -> None:
    """In order; beats that found no room are not made up for."""
    manager = told(door, WATCHDOG_USEC="3000")
    beating = asyncio.ensure_future(manager.beat())
    await asyncio.sleep(0.5)  # the queue is full long since
    manager.up("in the mesh m")
    manager.begins_anew()
    manager.up("in the mesh n")
    seen: list[str] = []
    await until(lambda: seen.extend(read(door)) or "STATUS=in the mesh n" in seen, "all is said")
    beating.cancel()
    important = [line for line in seen if line in ("READY=1", "RELOADING=1")]
    assert ["READY=1", "RELOADING=1", "READY=1"] == important


async def test_a_name_cannot_say_more_than_a_name(door: socket.socket) -> None:
    """A mesh's name is shown, and orders nothing."""
    told(door).up("in the mesh x\nSTOPPING=1")
    assert ["READY=1", "STATUS=in the mesh x STOPPING=1"] == read(door)


def test_the_variables_are_taken_from_the_children() -> None:
    """A watchdog that is for another process is not ours, and an address that is none is nobody."""
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": str(os.getpid() + 1), "PATH": "/bin"}
    assert 0 == Manager.of(environment)._watchdog_s
    assert {"PATH": "/bin"} == environment
    assert "" == Manager.of({"NOTIFY_SOCKET": "vsock:2:1"})._address


async def test_nobody_is_told_nothing() -> None:
    """And the beat ends at once."""
    manager = Manager.of({})
    manager.up("x")
    manager.stopping()
    await asyncio.wait_for(manager.beat(), 5)


def test_a_manager_that_went_away_costs_a_line_in_the_log(
    door: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing else."""
    manager = told(door)
    Path(door.getsockname()).unlink()
    manager.up("x")
    assert "READY=1" in caplog.text
