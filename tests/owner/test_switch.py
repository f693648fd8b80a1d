"""The pause by hand: what it says, how long it lasts, and that it outlives the agent."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from meshnode.errors import HomeError, InvalidInput
from meshnode.owner.switch import FILE, PAUSE_MAX_S, Switch

WALL = time.mktime((2026, 1, 31, 13, 5, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (None, "paused by hand"),
        (30.0, "paused by hand until 13:05"),
        (3600.0, "paused by hand until 14:05"),
        (86400.0, "paused by hand until 2026-02-01 13:05"),
    ],
)
def test_it_says_until_when(tmp_path: Path, duration_s: float | None, expected: str) -> None:
    """The time of day; with the day when that is far; the same after a restart, and nothing when it is over."""
    before, after = Switch(tmp_path), Switch(tmp_path)
    before.set(duration_s, WALL)
    after.load()
    for switch in (before, after):
        assert expected == switch.reason(WALL)
        if duration_s is not None:
            assert "" == switch.reason(WALL + duration_s)


def test_nothing_said_is_nothing(tmp_path: Path) -> None:
    """A new home is not paused, and ending no pause is no error."""
    switch = Switch(tmp_path)
    switch.load()
    switch.clear()
    assert "" == switch.reason(WALL)


def test_an_ended_pause_stays_ended(tmp_path: Path) -> None:
    """`clear` reaches the disk."""
    switch = Switch(tmp_path)
    switch.set(None, WALL)
    switch.clear()
    again = Switch(tmp_path)
    again.load()
    assert "" == again.reason(WALL)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("duration_s", [0.0, -1.0, math.nan, math.inf, PAUSE_MAX_S + 1])
def test_a_pause_of_no_length_is_refused(tmp_path: Path, duration_s: float) -> None:
    """And leaves what was said before."""
    switch = Switch(tmp_path)
    switch.set(60.0, WALL)
    with pytest.raises(InvalidInput, match="days"):
        switch.set(duration_s, WALL)
    assert "paused by hand until 13:06" == switch.reason(WALL)


@pytest.mark.parametrize("damage", [b"", b"garbage", b"MNS1"])
def test_a_damaged_file_is_moved_aside(tmp_path: Path, damage: bytes) -> None:
    """The agent starts, and is not paused."""
    (tmp_path / FILE).write_bytes(damage)
    switch = Switch(tmp_path)
    switch.load()
    assert "" == switch.reason(WALL)
    assert [f"{FILE}.damaged-1"] == [path.name for path in tmp_path.iterdir()]


def test_a_full_disk_does_not_undo_it(tmp_path: Path) -> None:
    """What cannot be kept is reported, and holds until the agent stops."""
    switch = Switch(tmp_path / "gone")
    with pytest.raises(HomeError):
        switch.set(None, WALL)
    assert "paused by hand" == switch.reason(WALL)
