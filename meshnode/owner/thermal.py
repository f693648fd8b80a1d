"""How far the machine is from its own critical temperature, and whether its processor is slowed down by heat."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.owner.sources import Command, Run, listing, number, run_program, text

CRITICAL_C = (60.0, 130.0)
"""Marks outside of this are a firmware's fantasy."""
READ_EVERY_S = 5.0
"""Some sensors sit behind slow buses."""
THROTTLED_SHARE = 0.1
SPEED_LIMIT = 70
"""Percent of full speed below which macOS counts as throttled."""

Heat = tuple[float | None, bool | None]
"""Degrees Celsius left to the critical mark, and whether heat slows the processor; None = unknown."""


@dataclass(slots=True)
class LinuxThermal:
    """By the thermal zones, the hardware monitors and the processor's count of throttled time."""

    root: Path = Path("/")
    _at: float | None = None
    _heat: Heat = (None, None)
    _throttled_ms: float | None = None

    def read(self, now: float) -> Heat:
        """The hottest of all sensors that name a critical mark."""
        if self._at is not None and now - self._at < READ_EVERY_S:
            return self._heat
        throttled = self._throttled(now)
        self._heat, self._at = (min(self._headrooms(), default=None), throttled), now
        return self._heat

    def _headrooms(self) -> list[float]:
        pairs = []
        for zone in listing(self.root / "sys/class/thermal") or ():
            if zone.name.startswith("thermal_zone"):
                for kind in zone.glob("trip_point_*_type"):
                    if text(kind) == "critical":
                        mark = kind.with_name(kind.name.replace("_type", "_temp"))
                        pairs.append((number(zone / "temp"), number(mark)))
        for monitor in listing(self.root / "sys/class/hwmon") or ():
            marks = monitor.glob("temp*_crit")
            pairs += [(number(mark.with_name(mark.name.replace("_crit", "_input"))), number(mark)) for mark in marks]
        return [
            (mark - value) / 1000
            for value, mark in pairs
            if value is not None
            and mark is not None
            and CRITICAL_C[0] <= mark / 1000 <= CRITICAL_C[1]
            and 0 < value / 1000 < CRITICAL_C[1] + 20
        ]

    def _throttled(self, now: float) -> bool | None:
        folder = self.root / "sys/devices/system/cpu/cpu0/thermal_throttle"
        total_ms = number(folder / "package_throttle_total_time_ms")
        before_ms, self._throttled_ms = self._throttled_ms, total_ms
        if total_ms is None:
            return None
        if before_ms is None or self._at is None or now <= self._at:
            return False
        return (total_ms - before_ms) / 1000 >= THROTTLED_SHARE * (now - self._at)


@dataclass(slots=True)
class MacThermal:
    """By the speed limit that `pmset` tells; Apple's own processors record none unless they are hot."""

    run: Run = run_program
    _pmset: Command = field(init=False)

    def __post_init__(self) -> None:
        self._pmset = Command(("pmset", "-g", "therm"), self.run)

    def read(self, now: float) -> Heat:
        """No temperature; whether the processor is slowed down."""
        answer = self._pmset.output(now)
        if answer is None:
            return None, None
        match = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", answer[0])
        return None, match is not None and int(match[1]) < SPEED_LIMIT
