"""What other programs use of the processors, from files of /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshnode.owner.processor import READ_EVERY_S, TREE_EVERY_S, LinuxProcessor
from tests.owner.machine import plant


def machine(busy: int, idle: int, steal: int = 0) -> dict[str, object]:
    return {"proc/stat": f"cpu  {busy} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\nctxt 5"}


def process(pid: int, parent: int, ticks: int) -> dict[str, object]:
    return {f"proc/{pid}/stat": f"{pid} (a (b) c) S {parent} 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 5"}


def pressure(share: float) -> dict[str, object]:
    return {
        "proc/pressure/cpu": f"some avg10={share * 100:.2f} avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 total=0"
    }


def test_our_own_tree_is_not_others(tmp_path: Path) -> None:
    """Agent and workers are taken off; another agent's process is not ours."""
    it = LinuxProcessor(tmp_path, pid=10)
    plant(tmp_path, machine(0, 0) | process(10, 1, 0) | process(11, 10, 0) | process(12, 11, 0) | process(20, 1, 0))
    assert it.read(0.0) is None
    plant(tmp_path, machine(800, 200) | process(10, 1, 100) | process(11, 10, 300) | process(12, 11, 100))
    assert pytest.approx(0.3) == it.read(READ_EVERY_S)


def test_it_is_read_seldom(tmp_path: Path) -> None:
    """Between two readings the last answer holds."""
    it = LinuxProcessor(tmp_path, pid=10)
    plant(tmp_path, machine(0, 0) | process(10, 1, 0))
    it.read(0.0)
    plant(tmp_path, machine(500, 500))
    it.read(READ_EVERY_S)
    plant(tmp_path, machine(500, 9500))
    assert pytest.approx(0.5) == it.read(READ_EVERY_S + 1)


def test_a_new_worker_is_found_and_a_dead_one_is_forgotten(tmp_path: Path) -> None:
    """The tree is looked up again when one of it is gone, and every half minute."""
    it = LinuxProcessor(tmp_path, pid=10)
    plant(tmp_path, machine(0, 0) | process(10, 1, 0) | process(11, 10, 0))
    it.read(0.0)
    (tmp_path / "proc/11/stat").unlink()
    plant(tmp_path, machine(100, 900) | process(12, 10, 50))
    it.read(READ_EVERY_S)
    plant(tmp_path, machine(600, 1400) | process(12, 10, 550) | process(13, 10, 0))
    assert pytest.approx(0.0) == it.read(2 * READ_EVERY_S)
    it.read(READ_EVERY_S + TREE_EVERY_S)
    plant(tmp_path, machine(1100, 1900) | process(13, 10, 500))
    assert pytest.approx(0.0) == it.read(2 * READ_EVERY_S + TREE_EVERY_S)


@pytest.mark.parametrize(("own", "expected"), [(0, 0.9), (100, 0.45), (200, 0.0)])
def test_pressure_is_shared_by_who_makes_it(tmp_path: Path, own: int, expected: float) -> None:
    """Where processes wait, others' part of the work is their part of the waiting."""
    it = LinuxProcessor(tmp_path, pid=10)
    plant(tmp_path, machine(0, 0) | process(10, 1, 0))
    it.read(0.0)
    plant(tmp_path, machine(200, 800) | process(10, 1, own) | pressure(0.9))
    assert pytest.approx(expected) == it.read(READ_EVERY_S)


def test_a_hypervisors_share_is_nobodys(tmp_path: Path) -> None:
    """Stolen time is neither busy nor ours."""
    it = LinuxProcessor(tmp_path, pid=10)
    plant(tmp_path, machine(0, 0) | process(10, 1, 0))
    it.read(0.0)
    plant(tmp_path, machine(0, 100, steal=900))
    assert 0.0 == it.read(READ_EVERY_S)


@pytest.mark.parametrize("said", ["", "cpu", "cpu  1 2", "nonsense"])
def test_a_kernel_that_says_something_else_is_unknown(tmp_path: Path, said: str) -> None:
    """No figure is made of half a line."""
    it = LinuxProcessor(plant(tmp_path, {"proc/stat": said}), pid=10)
    assert [None, None] == [it.read(0.0), it.read(READ_EVERY_S)]
