"""How hot it is, from the files of several machines and what `pmset` said."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshnode.owner.thermal import READ_EVERY_S, LinuxThermal, MacThermal
from tests.owner.machine import Programs, plant

ZONE = "sys/class/thermal/thermal_zone0"
HWMON = "sys/class/hwmon/hwmon3"
THROTTLE = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_total_time_ms"


def zone(temp: object, critical: object, kind: str = "critical") -> dict[str, object]:
    return {f"{ZONE}/temp": temp, f"{ZONE}/trip_point_0_type": kind, f"{ZONE}/trip_point_0_temp": critical}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (zone(60000, 100000), 40.0),
        (zone(60000, 100000, "passive"), None),
        (zone(104000, 100000), -4.0),
        (zone(60000, 20000), None),
        (zone(60000, 255000), None),
        (zone(-274000, 100000), None),
        (zone("", 100000), None),
        ({f"{HWMON}/temp1_input": 91000, f"{HWMON}/temp1_crit": 100000, f"{HWMON}/temp2_input": 99000}, 9.0),
        (zone(60000, 100000) | {f"{HWMON}/temp1_input": 80000, f"{HWMON}/temp1_crit": 84800}, 4.8),
    ],
)
def test_the_headroom_is_that_of_the_hottest_part(
    tmp_path: Path, files: dict[str, object], expected: float | None
) -> None:
    """Sensors without a critical mark, and marks that no machine has, are left out."""
    assert (expected, None) == LinuxThermal(plant(tmp_path, files)).read(0.0)


def test_throttled_time_counts_when_it_is_a_tenth(tmp_path: Path) -> None:
    """A burst that the processor cut short is normal; it is read once in five seconds."""
    it = LinuxThermal(tmp_path)
    seen = []
    for now, total_ms in ((0.0, 1000), (READ_EVERY_S, 1400), (2 * READ_EVERY_S, 2000), (2 * READ_EVERY_S + 1, 2000)):
        plant(tmp_path, {THROTTLE: total_ms})
        seen.append(it.read(now)[1])
    assert [False, False, True, True] == seen


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, None),
        (
            "Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded\n",
            False,
        ),
        (" \tCPU_Scheduler_Limit \t= 100\n \tCPU_Available_CPUs \t= 8\n \tCPU_Speed_Limit \t= 100\n", False),
        (" \tCPU_Scheduler_Limit \t= 100\n \tCPU_Available_CPUs \t= 8\n \tCPU_Speed_Limit \t= 35\n", True),
    ],
)
def test_a_mac_tells_its_speed_limit(said: str | None, expected: bool | None) -> None:
    """No temperature, but whether heat slows the processor."""
    assert (None, expected) == MacThermal(Programs(pmset=said)).read(0.0)
