"""Mains or battery, from the files of several machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshnode.owner import power
from meshnode.owner.power import Supply
from tests.owner.machine import plant

BATTERY = {"BAT0/type": "Battery", "BAT0/present": 1, "BAT0/capacity": 63}
MOUSE = {"hid/type": "Battery", "hid/scope": "Device", "hid/status": "Discharging", "hid/capacity": 4}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Supply(False, None)),
        ({"AC/type": "Mains", "AC/online": 1}, Supply(False, None)),
        (MOUSE, Supply(False, None)),
        (BATTERY | {"BAT0/status": "Discharging", "AC/type": "Mains", "AC/online": 0}, Supply(True, 63.0)),
        (BATTERY | {"BAT0/status": "Discharging", "AC/type": "Mains", "AC/online": 1}, Supply(False, 63.0)),
        (BATTERY | {"BAT0/status": "Charging", "usb/type": "USB", "usb/online": 0}, Supply(False, 63.0)),
        (BATTERY | {"BAT0/status": "Not charging", "AC/type": "Mains", "AC/online": 1}, Supply(False, 63.0)),
        (BATTERY | {"BAT0/status": "Unknown", "AC/type": "Mains", "AC/online": 0}, Supply(True, 63.0)),
        (BATTERY | {"BAT0/status": "Discharging"}, Supply(True, 63.0)),
        (BATTERY | {"BAT0/status": "Full"}, Supply(False, 63.0)),
        (BATTERY | {"BAT0/status": "Unknown"}, Supply(None, 63.0)),
        (BATTERY | {"BAT0/present": 0, "BAT0/status": "Unknown"}, Supply(False, None)),
        (BATTERY | MOUSE | {"BAT0/status": "Discharging"}, Supply(True, 63.0)),
        ({"ups/type": "UPS", "ups/status": "Discharging", "ups/capacity": 90}, Supply(True, 90.0)),
        (
            BATTERY
            | {"BAT0/status": "Full", "BAT1/type": "Battery", "BAT1/status": "Discharging", "BAT1/capacity": 37},
            Supply(True, 50.0),
        ),
        (BATTERY | {"BAT0/status": "Discharging", "BAT0/capacity": "soon"}, Supply(True, None)),
    ],
)
def test_the_supply_of_a_machine(tmp_path: Path, files: dict[str, object], expected: Supply) -> None:
    """Desktops, laptops with one or two batteries and weak chargers, a UPS; a mouse's battery is not the machine's."""
    folder = tmp_path / "sys/class/power_supply"
    folder.mkdir(parents=True)
    plant(folder, files)
    assert expected == power.linux(tmp_path)


def test_a_kernel_that_tells_nothing_is_unknown(tmp_path: Path) -> None:
    """Without the folder nothing is claimed."""
    assert Supply(None, None) == power.linux(tmp_path)
