"""All sensors together: a bare machine, a laptop, one whose files make no sense, and this one."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from meshnode.config import Manners, Owner
from meshnode.owner import power
from meshnode.owner.manners import Politeness, Reading, Sensed
from meshnode.owner.sensing import Machine
from meshnode.owner.sources import Command, run_program
from tests.owner.machine import Programs, plant
from tests.owner.test_presence import interrupts, session

LAPTOP: dict[str, object] = {
    "run/systemd/sessions/2": session("wayland"),
    "run/NetworkManager/state": "",
    "proc/interrupts": interrupts(1, 1),
    "sys/class/power_supply/BAT0/type": "Battery",
    "sys/class/power_supply/BAT0/status": "Discharging",
    "sys/class/power_supply/BAT0/capacity": 63,
    "sys/class/hwmon/hwmon0/temp1_input": 60000,
    "sys/class/hwmon/hwmon0/temp1_crit": 100000,
}


def test_a_bare_machine_is_a_server_that_works_freely(tmp_path: Path) -> None:
    """No display, no battery, no sensors, as in a container: the default manners take work, and no program is run."""
    run = Programs()
    reading = Machine(Manners.POLITE, root=tmp_path, run=run, platform="linux").read(0.0)
    core = Politeness(Manners.POLITE, Owner(), 40.0)

    assert Reading(display=False) == reading
    assert [] == core.handle(0.0, Sensed(reading))
    assert "" == core.reason
    assert [] == run.runs


def test_a_laptop_says_everything(tmp_path: Path) -> None:
    """Every sensor's word arrives in its field."""
    run = Programs(busctl="u 3")
    reading = Machine(Manners.POLITE, root=plant(tmp_path, LAPTOP), run=run, platform="linux").read(0.0)
    expected = Reading(
        display=True, idle_s=0.0, on_battery=True, charge_percent=63.0, headroom_c=40.0, throttled=None, metered=True
    )
    assert expected == reading


def test_a_free_machine_is_not_spied_upon(tmp_path: Path) -> None:
    """Who sits there is nobody's business where it changes nothing."""
    run = Programs(busctl="u 3")
    reading = Machine(Manners.FREE, root=plant(tmp_path, LAPTOP), run=run, platform="linux").read(0.0)
    assert Reading(on_battery=True, charge_percent=63.0, headroom_c=40.0) == reading
    assert [] == run.runs


def test_a_sensor_that_fails_is_unknown_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on, and the log has one line."""

    def broken(_: Path) -> power.Supply:
        raise ZeroDivisionError

    monkeypatch.setattr(power, "linux", broken)
    machine = Machine(Manners.POLITE, root=plant(tmp_path, LAPTOP), run=Programs(), platform="linux")
    with caplog.at_level(logging.INFO, "meshnode"):
        readings = [machine.read(float(now)) for now in range(3)]
    assert [None, None, None] == [reading.on_battery for reading in readings]
    assert [True, True, True] == [reading.display for reading in readings]
    assert 1 == len(caplog.records)


def test_another_platform_knows_its_battery_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seam for Windows: no programs, no files, and nothing fails."""
    monkeypatch.setattr(power, "elsewhere", lambda: power.Supply(False, 80.0))
    reading = Machine(Manners.POLITE, run=Programs(), platform="win32").read(0.0)
    assert Reading(on_battery=False, charge_percent=80.0) == reading


def test_a_mac_is_read_by_its_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of Linux is looked at there."""
    monkeypatch.setattr(power, "elsewhere", lambda: power.Supply(False, 80.0))
    run = Programs(pmset="CPU_Speed_Limit = 50")
    reading = Machine(Manners.POLITE, root=tmp_path, run=run, platform="darwin").read(0.0)
    assert Reading(on_battery=False, charge_percent=80.0, throttled=True) == reading


def test_this_machine_can_be_read() -> None:
    """Whatever this machine is, its sensors answer without an error."""
    machine = Machine(Manners.POLITE)
    machine.read(0.0)
    machine.read(10.0)
    assert set() == machine._failed


def test_programs_that_are_missing_fail_or_speak() -> None:
    """Output of a program that ended well, and None of all others."""
    assert run_program(["meshnode-no-such-program"]) is None
    assert run_program([sys.executable, "-c", "raise SystemExit(3)"]) is None
    assert "here\n" == run_program([sys.executable, "-c", "print('here')"])


def test_a_program_is_run_seldom_and_after_a_failure_seldomer() -> None:
    """Once in ten seconds while it answers, once in five minutes while it does not."""
    run = Programs(it="a")
    command = Command(("it",), run)
    assert [("a", 0.0), ("a", 9.0), ("a", 0.0)] == [command.output(now) for now in (0.0, 9.0, 10.0)]
    run.said["it"] = None
    assert [None, None, None] == [command.output(now) for now in (20.0, 100.0, 319.0)]
    assert 3 == len(run.runs)
    run.said["it"] = "b"
    assert ("b", 0.0) == command.output(320.0)
